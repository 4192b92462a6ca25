/** What a client hears when there is no answer of a worker. */

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

/** Why a request is answered by the hub itself. */
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

/** Seconds after which a client may try again. */
export const RETRY = { "retry-after": "1" };

/** The failure that an error of the bus is. What a worker's error says is for its log, not for a client. */
export function failureOf(error: unknown): Failure {
  if (error instanceof Failure) return error;
  if (error instanceof NoWorkerError) return new Failure(503, "NO_WORKER", "no worker serves this route now.", RETRY);
  if (error instanceof BusOverloadedError) return new Failure(503, "OVERLOADED", "too many requests wait.", RETRY);
  if (error instanceof ClosedError && error.mayHaveExecuted)
    return new Failure(502, "HUB_CLOSED", "the hub closed before the worker had answered.");
  if (error instanceof ClosedError) return closing();
  if (error instanceof RequestTimeoutError) return new Failure(504, "TIMEOUT", "no answer within the time limit.");
  if (error instanceof WorkerDiedError)
    return new Failure(502, "WORKER_DIED", "the worker ended before it had answered.");
  const isOfRequest = error instanceof SlotbusError && !error.mayHaveExecuted;
  if (error instanceof PayloadTooLargeError && isOfRequest) return tooLarge(error.limit);
  if (error instanceof HeadTooLargeError && isOfRequest)
    return new Failure(431, "HEAD_TOO_LARGE", `path and headers are larger than ${error.limit} bytes.`);
  if (error instanceof RemoteError && error.remoteCode === "NO_ANSWER")
    return new Failure(500, "NO_ANSWER", "the handler returned nothing.");
  if (error instanceof RemoteError) return new Failure(500, "HANDLER_FAILED", "the handler failed.");
  if (error instanceof SlotbusError) return new Failure(502, error.code, "the worker broke the protocol.");
  throw error;
}

/** The hub closes: no handler has run. */
export function closing(): Failure {
  return new Failure(503, "CLOSING", "the hub is closing.", RETRY);
}

/** `bytes`: the size of the body, if it is known. */
export function tooLarge(limit: number, bytes?: number): Failure {
  const size = bytes === undefined ? `larger than ${limit} bytes` : `${bytes} bytes; the limit is ${limit} bytes`;
  return new Failure(413, "PAYLOAD_TOO_LARGE", `the body is ${size}.`);
}
