/** Limits of a single route, which replace the limits of the hub. */

import { bytes, type Given, Options, optional, timeout } from "../options.ts";
import type { RouteRequest } from "./names.ts";

const limitOptions = {
  /** Longest time from a request to the head of its response, in ms. */
  timeout: optional(timeout(undefined), "the hub's"),
  /** Longest time without data of a request body, in ms. */
  bodyTimeout: optional(timeout(undefined), "the hub's"),
  /** Largest request body, in bytes. May be above the limit of the hub: a large body is streamed. */
  payloadBytes: optional(bytes(undefined, 1, 2 ** 30), "the hub's"),
};
/** Options of `limit`. */
export const routeLimitOptions = new Options("limit", limitOptions);

/** Limits of {@link limit}. */
export interface RouteLimitOptions extends Given<typeof limitOptions> {}

/** A route with its own limits; created by {@link limit}. */
export class LimitedRoute<Entry = unknown> {
  readonly entry: Entry;
  readonly limits: RouteLimitOptions;

  /** @internal @throws {InvalidConfigError} */
  constructor(limits: RouteLimitOptions, entry: Entry) {
    routeLimitOptions.resolve(limits);
    this.limits = limits;
    this.entry = entry;
  }
}

/** Limits as a worker registers them. JSON has no `Infinity`: `null` stands for it. */
export function toRequest({ timeout, bodyTimeout, payloadBytes }: RouteLimitOptions): Partial<RouteRequest> {
  return {
    ...(timeout === undefined ? {} : { timeout: timeout === Infinity ? null : timeout }),
    ...(bodyTimeout === undefined ? {} : { body_timeout: bodyTimeout === Infinity ? null : bodyTimeout }),
    ...(payloadBytes === undefined ? {} : { payload_bytes: payloadBytes }),
  };
}

/** Reads the limits of a registered route. @throws {InvalidConfigError} */
export function fromRequest({ timeout, body_timeout, payload_bytes }: RouteRequest): RouteLimitOptions {
  const endless = (ms: number | null | undefined): number | undefined => (ms === null ? Infinity : ms);
  const given = { timeout: endless(timeout), bodyTimeout: endless(body_timeout), payloadBytes: payload_bytes };
  const limits = Object.entries(routeLimitOptions.resolve(given)).filter(([, limit]) => limit !== null);
  return Object.fromEntries(limits) as RouteLimitOptions;
}
