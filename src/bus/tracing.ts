/**
 * Tracing channels of `node:diagnostics_channel`: `slotbus.request` around each request of a bus, `slotbus.handle` around each
 * handler of a worker. They publish while `start` has a subscriber: subscribe to it, whatever else you want to hear.
 */

import { tracingChannel, type TracingChannel } from "node:diagnostics_channel";
import { InvalidConfigError } from "../errors.ts";

/** Message of `tracing:slotbus.request:*`. A subscriber of `start` may set {@link traceparent}: then that is sent. */
export interface RequestTrace {
  readonly bus: string;
  readonly id: string;
  readonly method: string;
  readonly path: string;
  /** `""` when no router found one. */
  readonly pattern: string;
  /** `"sync"`: it is over at `end`; otherwise at `asyncEnd`, a stream when its head is here. */
  readonly kind: "copy" | "borrow" | "stream" | "sync";
  /** W3C trace context that goes with the request; `null`: none. */
  traceparent: string | null;
  /** The answer, from `asyncEnd` (or `end`) on, unless it failed. */
  readonly result?: { readonly status: number; readonly workerPid: number };
  /** What it rejected with, from `error` on. */
  readonly error?: unknown;
}

/** Message of `tracing:slotbus.handle:*`. */
export interface HandleTrace {
  readonly bus: string;
  readonly id: string;
  readonly method: string;
  readonly path: string;
  readonly pattern: string;
  /** `true`: of `serveSync`; it is over at `end`, otherwise at `asyncEnd`. */
  readonly sync: boolean;
  /** As the caller sent it; `null`: none, or one that is malformed. */
  readonly traceparent: string | null;
  /** A subscriber of `start` may set it: the handler runs inside. */
  around: (<T>(run: () => T) => T) | null;
  /** What the handler answered, when it did so by returning it. */
  readonly result?: unknown;
  readonly error?: unknown;
}

export const requestTraces: TracingChannel<RequestTrace> = tracingChannel<RequestTrace>("slotbus.request");
export const handleTraces: TracingChannel<HandleTrace> = tracingChannel<HandleTrace>("slotbus.handle");

/** Whether it has subscribers decides whether a request is traced: to ask all five channels each time costs a request 4 %. */
export const { start: requestStart } = requestTraces;
/** The same of the runs of a handler. */
export const { start: handleStart } = handleTraces;

export const TRACEPARENT = "traceparent";
const FORMAT = /^(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$/;

/** Whether it is a `traceparent` of W3C's Trace Context. */
export function isTraceparent(text: string | null | undefined): text is string {
  return typeof text === "string" && FORMAT.test(text);
}

/** Puts it into a list of names and values, from `first` on, in place of those that are there. @throws {InvalidConfigError} */
export function setTraceparent(list: string[], first: number, traceparent: string): void {
  if (!isTraceparent(traceparent)) {
    throw new InvalidConfigError(
      `traceparent is ${JSON.stringify(traceparent)?.slice(0, 80)}; W3C has no such value.`,
      {
        hint: 'It is like "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".',
      },
    );
  }
  for (let at = list.length - 2; at >= first; at -= 2) if (list[at]!.toLowerCase() === TRACEPARENT) list.splice(at, 2);
  list.push(TRACEPARENT, traceparent);
}
