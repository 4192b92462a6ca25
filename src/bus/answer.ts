/** The values with which a handler may respond: checks them and splits them into head and body. */

import { InvalidConfigError, SlotbusError } from "../errors.ts";
import { isStreamSource, type StreamSource } from "./body-writer.ts";
import { type Arena, type BodyLike, encodeHead } from "./codec.ts";
import { flattenHeaders, type HeadersLike } from "./headers.ts";

const TEXT = "text/plain;charset=utf-8";
const JSON_TYPE = "application/json";
/** Bytes of an error head besides message and stack: the table, the code, the name, and the notes about truncated text. */
const ERROR_OVERHEAD = 512;
const ANSWER_KEYS = new Set(["status", "headers", "contentType", "body", "json"]);

/** A response with a status, headers and a body. */
export interface Answer {
  /** Status, 200-599. Default: 200. */
  status?: number;
  headers?: HeadersLike;
  /** Content type. Default: `text/plain` for text, `application/json` for JSON, none for bytes. */
  contentType?: string;
  /** Body of the response. A stream is sent while it produces bytes, as fast as the caller reads. */
  body?: BodyLike | StreamSource;
  /** A value sent as JSON in place of `body`. */
  json?: unknown;
}

/**
 * Value with which a handler may respond. `null` is a response with status 204. A stream, a generator and a `Response` with a
 * stream are sent while they produce bytes.
 */
export type Answerable = BodyLike | Answer | Response | StreamSource;

/** A response that can be sent at once. */
export type PlainAnswer = BodyLike | (Omit<Answer, "body"> & { body?: BodyLike });

/** Returns the stream if the response, or its body, is one; `null` otherwise. */
export function sourceOf(answer: unknown): StreamSource | null {
  if (typeof answer !== "object" || answer === null || answer instanceof Uint8Array) return null;
  if (isStreamSource(answer)) return answer;
  if (!("body" in answer)) return null;
  return isStreamSource(answer.body) ? answer.body : null;
}

/**
 * Appends the strings of the head to `strings` and returns the body; {@link statusOf} returns the status.
 * @throws {InvalidConfigError}
 */
export function takeApart(answer: PlainAnswer, strings: string[]): BodyLike {
  strings.push("");
  if (typeof answer === "string") {
    strings[0] = TEXT;
    return answer;
  }
  if (answer === null || isBytes(answer)) return answer;
  const given = checkAnswer(answer) as Exclude<PlainAnswer, BodyLike>;
  const body = given.json === undefined ? given.body : JSON.stringify(given.json);
  const type = given.json === undefined ? (typeof body === "string" ? TEXT : "") : JSON_TYPE;
  strings[0] = given.contentType ?? type;
  if (given.headers) flattenHeaders(given.headers, strings);
  return body;
}

/** Returns the status of a response that {@link takeApart} has checked. */
export function statusOf(answer: PlainAnswer): number {
  if (answer === null) return 204;
  return typeof answer === "string" || isBytes(answer) ? 200 : ((answer as Answer).status ?? 200);
}

function isBytes(answer: unknown): answer is Uint8Array | ArrayBuffer | DataView {
  return answer instanceof Uint8Array || answer instanceof ArrayBuffer || ArrayBuffer.isView(answer);
}

/** @throws {InvalidConfigError} */
export function checkAnswer(answer: unknown): Answer {
  if (!isPlainAnswer(answer)) {
    throw new InvalidConfigError(`A handler cannot respond with ${describe(answer)}.`, {
      hint: "Return text, bytes, null, a Response, or { status, headers, contentType, body | json }.",
    });
  }
  const { status = 200 } = answer;
  if (!Number.isInteger(status) || status < 200 || status > 599) {
    throw new InvalidConfigError(`A handler responded with status ${String(status)}; it must be 200 to 599.`);
  }
  return answer;
}

function isPlainAnswer(answer: unknown): answer is Answer {
  if (typeof answer !== "object" || answer === null) return false;
  const prototype = Object.getPrototypeOf(answer);
  if (prototype !== Object.prototype && prototype !== null) return false;
  for (const key in answer) if (!ANSWER_KEYS.has(key)) return false;
  return true;
}

/** Encodes an error as a head of at most `limit` bytes. The code always fits; name, message and stack are truncated. */
export function encodeError(arena: Arena, error: unknown, limit: number): number {
  const room = Math.floor((limit - ERROR_OVERHEAD) / 3 / 2); // a UTF-16 unit takes at most 3 bytes of UTF-8
  const isError = error instanceof Error;
  const code = error instanceof SlotbusError ? read(() => error.code, "HANDLER_FAILED") : "HANDLER_FAILED";
  const message = isError ? read(() => error.message, "") : `The handler threw ${describe(error)}`;
  const texts = [
    cut(code, 60),
    cut(isError ? read(() => error.name, "Error") : "Error", 60),
    cut(message, room),
    cut(isError ? read(() => error.stack, "") : "", room),
  ];
  return encodeHead(arena, texts, 0, texts.length, limit, "response", true);
}

/** Reads a text from a user's error object, whose getter may return anything or throw. */
function read(get: () => unknown, otherwise: string): string {
  try {
    const text = get();
    return typeof text === "string" ? text : String(text ?? otherwise);
  } catch {
    return otherwise;
  }
}

/** Describes a value in a few words. */
function describe(value: unknown): string {
  if (typeof value === "object" && value !== null) {
    const keys = read(() => Object.keys(value).slice(0, 5).join(", "), "");
    return `an object of ${read(() => value.constructor.name, "no class")} with keys {${keys}}`;
  }
  if (typeof value === "function") return "a function";
  return `the ${typeof value} ${String(value).slice(0, 80)}`;
}

function cut(text: string, units: number): string {
  return text.length <= units ? text : `${text.slice(0, units)}… [cut, ${text.length} characters]`;
}
