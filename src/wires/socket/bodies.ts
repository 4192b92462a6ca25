/** Puts heads and whole bodies into frames. */

import { type Arena, type BodyLike, type MessageKind, viewOf, writeBody } from "../../bus/codec.ts";
import { PayloadTooLargeError } from "../../errors.ts";
import { FRAME_BYTES, type FrameWriter } from "./frames.ts";

/** Bodies up to this size travel in the frame of their head, if it has room. */
export const INLINE_BYTES = 32_768;

const encoder = new TextEncoder();

/** A body that is encoded or copied. */
export interface Encoded {
  /** Number of bytes that follow the head in the arena. */
  inline: number;
  /** The body, if it is not in the arena; its memory belongs to the wire. */
  own: Uint8Array | null;
}

/** Reused by each call of {@link encodeBody}. */
const encoded: Encoded = { inline: 0, own: null };

/**
 * Writes a small body into the arena, at `offset`; copies a large one. The result is valid until the next call.
 *
 * @throws {PayloadTooLargeError}; {@link InvalidConfigError} if `body` is not a body.
 */
export function encodeBody(arena: Arena, offset: number, body: BodyLike, limit: number, what: MessageKind): Encoded {
  const large = typeof body === "string" ? 3 * body.length > INLINE_BYTES : sizeOf(body) > INLINE_BYTES;
  if (!large) {
    encoded.own = null;
    encoded.inline = body === undefined || body === null ? 0 : writeBody(arena, offset, body, limit, what);
    return encoded;
  }
  const isText = typeof body === "string";
  const bytes = isText ? body.length : sizeOf(body);
  if (bytes > limit)
    throw new PayloadTooLargeError(what, isText ? Buffer.byteLength(body) : bytes, limit, what === "response");
  const own = isText ? encoder.encode(body) : viewOf(body)!.slice();
  if (own.length > limit) throw new PayloadTooLargeError(what, own.length, limit, what === "response");
  encoded.own = own;
  encoded.inline = 0;
  return encoded;
}

function sizeOf(body: Exclude<BodyLike, string>): number {
  return body instanceof Uint8Array ? body.length : (viewOf(body)?.length ?? 0);
}

/** Returns an arena for heads of up to `headLimit` bytes and small bodies. */
export function arenaBytes(headLimit: number): number {
  return headLimit + INLINE_BYTES + 8;
}

/**
 * Copies as much of a head and a body as fits into the frame that the writer has begun at `at`. Returns the rest that follows in BODY
 * frames; `null` for none.
 */
export function fillFrame(
  writer: FrameWriter,
  at: number,
  room: number,
  arena: Arena,
  head: number,
  { inline, own }: Encoded,
): Uint8Array | null {
  const length = head + inline;
  const first = Math.min(length, room);
  writer.bytes.set(arena.bytes.subarray(0, first), at);
  if (first < length) {
    const rest = new Uint8Array(length - first + (own?.length ?? 0));
    rest.set(arena.bytes.subarray(first, length));
    if (own) rest.set(own, length - first);
    return rest;
  }
  return own;
}

/** Returns how many bytes of a head and an inline body the first frame has, after `fixed` bytes. */
export function firstBytes(fixed: number, head: number, inline: number): number {
  return Math.min(head + inline, FRAME_BYTES - fixed);
}
