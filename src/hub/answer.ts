/** Answers of a hub's handlers. */

import type { Answer, Answerable } from "../bus/answer.ts";
import type { HeadersLike } from "../bus/headers.ts";

/** What a handler may answer with. */
export type HubAnswer = HandlerResponse | Answerable;

/** Returns what the bus takes for an answer of a hub's handler. */
export function toAnswerable<T>(answer: T | HandlerResponse): T | Answer {
  return answer instanceof HandlerResponse ? answer.answer : answer;
}

/** What a handler of a {@link HubWorker} answers, unless it returns a `Response`. */
export class HandlerResponse {
  /** @internal */
  readonly answer: Answer;

  private constructor(answer: Answer) {
    this.answer = answer;
  }

  /** A value as JSON; `status` is 200 unless given. Throws `TypeError` for what is no JSON. */
  static json(value: unknown, status = 200): HandlerResponse {
    const json = JSON.stringify(value);
    if (json === undefined) throw new TypeError(`${typeof value} is no JSON.`);
    return new HandlerResponse({ status, body: json, contentType: "application/json" });
  }

  /** 200 with a value as JSON. */
  static okJson(value: unknown): HandlerResponse {
    return HandlerResponse.json(value, 200);
  }

  /** `{ "error": message }`. */
  static error(status: number, message: string): HandlerResponse {
    return HandlerResponse.json({ error: message }, status);
  }

  /** Bytes, or text. */
  static bytes(body: Uint8Array | string, contentType = "application/octet-stream", status = 200): HandlerResponse {
    return new HandlerResponse({ status, body, contentType });
  }

  /** The same with headers; several of one name are kept. */
  static bytesWithHeaders(
    body: Uint8Array | string,
    contentType: string,
    headers: HeadersLike,
    status = 200,
  ): HandlerResponse {
    return new HandlerResponse({ status, body, contentType, headers });
  }

  /** A status without a body. */
  static status(status: number): HandlerResponse {
    return new HandlerResponse({ status });
  }

  /** 200 with `{}`. */
  static ok(): HandlerResponse {
    return HandlerResponse.json({});
  }
}
