/** The responses that the hub itself sends when there is none from a worker. */

import {
  ClosedError,
  BusOverloadedError,
  HeadTooLargeError,
  NoWorkerError,
  PayloadTooLargeError,
  RemoteError,
  RequestTimeoutError,
  SlotbusError,
  WorkerDiedError,
} from "../errors.ts";

/** An error response of the hub. */
export class Failure extends Error {
  readonly status: number;
  readonly code: string;
  readonly headers: Readonly<Record<string, string>>;

  constructor(status: number, code: string, message: string, headers: Readonly<Record<string, string>> = {}) {
    super(message);
    this.status = status;
    this.code = code;
    this.headers = headers;
  }

  toResponse(requestId: string): Response {
    const body = { error: this.message, code: this.code, request_id: requestId };
    return Response.json(body, { status: this.status, headers: { ...this.headers, "x-request-id": requestId } });
  }
}

/** Header of failures that a client may retry after a second. */
export const RETRY = { "retry-after": "1" };

/**
 * Converts an error of the bus to a response. A worker's error message stays in the worker's log: clients do not see it.
 * `isClosing`: of the hub. Otherwise a bus was closed because its last worker is gone.
 */
export function failureOf(error: unknown, isClosing: boolean): Failure {
  if (error instanceof Failure) return error;
  if (error instanceof ClosedError && error.mayHaveExecuted)
    return new Failure(502, "HUB_CLOSED", "The hub closed before the worker responded.");
  if (error instanceof ClosedError && isClosing) return closing();
  if (error instanceof NoWorkerError || error instanceof ClosedError)
    return new Failure(503, "NO_WORKER", "No worker serves this route.", RETRY);
  if (error instanceof BusOverloadedError)
    return new Failure(503, "OVERLOADED", "Too many requests are waiting for a worker.", RETRY);
  if (error instanceof RequestTimeoutError) return new Failure(504, "TIMEOUT", "The worker did not respond in time.");
  if (error instanceof WorkerDiedError) return new Failure(502, "WORKER_DIED", "The worker died before it responded.");
  const isOfRequest = error instanceof SlotbusError && !error.mayHaveExecuted;
  if (error instanceof PayloadTooLargeError && isOfRequest) return tooLarge(error.limit);
  if (error instanceof HeadTooLargeError && isOfRequest)
    return new Failure(431, "HEAD_TOO_LARGE", `The path and headers are larger than ${error.limit} bytes.`);
  if (error instanceof RemoteError && error.remoteCode === "NO_ANSWER")
    return new Failure(500, "NO_ANSWER", "The handler returned nothing.");
  if (error instanceof RemoteError) return new Failure(500, "HANDLER_FAILED", "The handler failed.");
  if (error instanceof SlotbusError) return new Failure(502, error.code, "The worker broke the bus protocol.");
  throw error;
}

/** The hub is closing; no handler ran. */
export function closing(): Failure {
  return new Failure(503, "CLOSING", "The hub is closing.", RETRY);
}

/** `bytes`: size of the body, if known. */
export function tooLarge(limit: number, bytes?: number): Failure {
  const size = bytes === undefined ? `larger than ${limit} bytes` : `${bytes} bytes; the limit is ${limit} bytes`;
  return new Failure(413, "PAYLOAD_TOO_LARGE", `The body is ${size}.`);
}
