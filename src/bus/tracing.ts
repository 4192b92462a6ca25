/**
 * Tracing channels of `node:diagnostics_channel`: `slotbus.request` traces each request of a bus, `slotbus.handle` each run of a
 * handler. The channels publish only while `start` has a subscriber: subscribe to `start` in addition to other events.
 */

import { tracingChannel, type TracingChannel } from "node:diagnostics_channel";
import { InvalidConfigError } from "../errors.ts";

/** Message of `tracing:slotbus.request:*`. A subscriber of `start` may set {@link traceparent}; the request then sends it. */
export interface RequestTrace {
  readonly bus: string;
  readonly id: string;
  readonly method: string;
  readonly path: string;
  /** Route pattern; `""` if no router matched one. */
  readonly pattern: string;
  /** Kind of request. `"sync"` ends at `end`, the others at `asyncEnd`; a stream ends when the head has arrived. */
  readonly kind: "copy" | "borrow" | "stream" | "sync";
  /** W3C trace context that is sent with the request; `null` for none. */
  traceparent: string | null;
  /** The response, from `asyncEnd` (or `end`) on, unless the request failed. */
  readonly result?: { readonly status: number; readonly workerPid: number };
  /** The error of the request, from `error` on. */
  readonly error?: unknown;
}

/** Message of `tracing:slotbus.handle:*`. */
export interface HandleTrace {
  readonly bus: string;
  readonly id: string;
  readonly method: string;
  readonly path: string;
  readonly pattern: string;
  /** Whether `serveSync` runs the handler. If so, the run ends at `end`, otherwise at `asyncEnd`. */
  readonly sync: boolean;
  /** W3C trace context from the caller; `null` if it is absent or malformed. */
  readonly traceparent: string | null;
  /** A subscriber of `start` may set this function, which then runs the handler. */
  around: (<T>(run: () => T) => T) | null;
  /** Return value of the handler, if it responded by returning a value. */
  readonly result?: unknown;
  readonly error?: unknown;
}

export const requestTraces: TracingChannel<RequestTrace> = tracingChannel<RequestTrace>("slotbus.request");
export const handleTraces: TracingChannel<HandleTrace> = tracingChannel<HandleTrace>("slotbus.handle");

/** A request is traced if this channel has subscribers: checking all five channels would cost 4 % of each request. */
export const { start: requestStart } = requestTraces;
/** The run of a handler is traced if this channel has subscribers. */
export const { start: handleStart } = handleTraces;

export const TRACEPARENT = "traceparent";
const FORMAT = /^(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$/;

/** Whether `text` is a valid `traceparent` of W3C Trace Context. */
export function isTraceparent(text: string | null | undefined): text is string {
  return typeof text === "string" && FORMAT.test(text);
}

/**
 * Adds `traceparent` to a list of names and values that starts at `first`, and removes existing ones.
 * @throws {InvalidConfigError}
 */
export function setTraceparent(list: string[], first: number, traceparent: string): void {
  if (!isTraceparent(traceparent)) {
    throw new InvalidConfigError(
      `traceparent is ${JSON.stringify(traceparent)?.slice(0, 80)}; it must be a W3C trace context.`,
      {
        hint: 'Use the form "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".',
      },
    );
  }
  for (let at = list.length - 2; at >= first; at -= 2) if (list[at]!.toLowerCase() === TRACEPARENT) list.splice(at, 2);
  list.push(TRACEPARENT, traceparent);
}
