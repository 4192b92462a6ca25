/** Puts heads and whole bodies into frames. */

import { type Arena, type BodyLike, type MessageKind, viewOf, writeBody } from "../../bus/codec.ts";
import { Head, type HeadReader } from "../../bus/head.ts";
import { ERROR_STRINGS } from "../../bus/response.ts";
import { PayloadTooLargeError } from "../../errors.ts";
import { FRAME_BYTES } from "./frames.ts";
import { Rest } from "./rest.ts";
import type { FrameWriter } from "./writer.ts";

/** Bodies up to this size travel in the frame of their head, if it has room. */
export const INLINE_BYTES = 32_768;

const encoder = new TextEncoder();

/** A body that is encoded. */
export interface Encoded {
  /** Size of the body, in bytes. */
  bytes: number;
  /** Number of bytes that follow the head in the arena. */
  inline: number;
  /** The body, if it is not in the arena; user code may change it later. */
  large: Uint8Array | null;
}

/** Reused by each call of {@link encodeBody}. */
const encoded: Encoded = { bytes: 0, inline: 0, large: null };

/**
 * Writes a small body into the arena, at `offset`. The result is valid until the next call.
 *
 * @throws {PayloadTooLargeError}; {@link InvalidConfigError} if `body` is not a body.
 */
export function encodeBody(arena: Arena, offset: number, body: BodyLike, limit: number, what: MessageKind): Encoded {
  const isText = typeof body === "string";
  const size = isText ? body.length : sizeOf(body);
  if ((isText ? 3 * size : size) <= INLINE_BYTES) {
    const isEmpty = body === undefined || body === null;
    encoded.bytes = encoded.inline = isEmpty ? 0 : writeBody(arena, offset, body, limit, what);
    encoded.large = null;
    return encoded;
  }
  if (size > limit) throw tooLarge(what, isText ? Buffer.byteLength(body) : size, limit);
  const large = isText ? encoder.encode(body) : viewOf(body)!;
  if (large.length > limit) throw tooLarge(what, large.length, limit);
  encoded.bytes = large.length;
  encoded.inline = 0;
  encoded.large = large;
  return encoded;
}

function tooLarge(what: MessageKind, bytes: number, limit: number): PayloadTooLargeError {
  return new PayloadTooLargeError(what, bytes, limit, what === "response");
}

function sizeOf(body: Exclude<BodyLike, string>): number {
  return body instanceof Uint8Array ? body.length : (viewOf(body)?.length ?? 0);
}

/** Returns an arena for heads of up to `headLimit` bytes and small bodies. */
export function arenaBytes(headLimit: number): number {
  return headLimit + INLINE_BYTES + 8;
}

/**
 * Copies the first `first` bytes of a head and a body into the frame that the writer has begun at `at`. Returns the rest that follows in
 * BODY frames; `null` for none. `onSent` is called when the rest is sent.
 */
export function fillFrame(
  writer: FrameWriter,
  at: number,
  first: number,
  arena: Arena,
  head: number,
  { inline, large }: Encoded,
  exchange: number,
  onSent: (() => void) | null,
): Rest | null {
  const length = head + inline;
  copySmall(arena.bytes, writer.bytes, at, first);
  if (first === length && !large) return null;
  const rest = first === length ? NOTHING : arena.bytes.slice(first, length); // the arena is used again
  return new Rest(exchange, large ? [rest, large] : [rest], onSent);
}

const NOTHING = new Uint8Array(0);

/** Up to this size, a loop copies bytes faster than a call of the runtime does. */
const SHORT_BYTES = 96;

/** Copies the first `length` bytes. */
export function copySmall(from: Uint8Array, to: Uint8Array, at: number, length: number): void {
  if (length > SHORT_BYTES) to.set(from.subarray(0, length), at);
  else for (let i = 0; i < length; i++) to[at + i] = from[i]!;
}

/** Returns how many bytes of a head and an inline body the first frame has, after `fixed` bytes. */
export function firstBytes(fixed: number, head: number, inline: number): number {
  return Math.min(head + inline, FRAME_BYTES - fixed);
}

/** Decodes a copy of the head of a response, or of an error. @throws `PROTOCOL` */
export function decodeHead(
  { answers, incoming }: { answers: HeadReader; incoming: Arena },
  bytes: Uint8Array,
  length: number,
  isError: boolean,
): Head {
  if (isError) return Head.decode(bytes.slice(0, length), ERROR_STRINGS);
  copySmall(bytes, incoming.bytes, 0, length);
  return answers.read(incoming, length);
}
