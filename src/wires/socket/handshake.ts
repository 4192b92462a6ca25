/**
 * The messages of the handshake, without the C library: `type u8, length u8, body`, little-endian. A worker that cannot share memory
 * joins with {@link FRAMES} in JOIN, and the client answers WELCOME instead of HELLO; after ATTACHED both sides send frames (frames.ts).
 * A client that cannot share memory refuses other workers with `SB_EUNSUPPORTED`: they join again by frames.
 */

import { C } from "../../native/abi.ts";

/** The first 8 bytes of each handshake message, `SB_MAGIC`. */
const MAGIC = 0x0053_5542_5430_4c53n;
const JOIN_BYTES = 24;
const REFUSED_BYTES = 16;
const WELCOME_BYTES = 32;
/** Largest message, in bytes. */
export const MESSAGE_BYTES = C.SB_MESSAGE_MAX;
/** Bit of JOIN's last word: the worker wants frames and gets no region. */
export const FRAMES = 1;
/** Answer of a client to a worker that joined by frames. */
export const WELCOME = 8;

/** A decoded JOIN. */
export interface Join {
  readonly minVersion: number;
  readonly maxVersion: number;
  readonly isObserver: boolean;
  readonly concurrency: number;
  readonly usesFrames: boolean;
}

/** What a client tells a worker that joined by frames; sizes are in bytes. */
export interface Welcome {
  /** Identifies this life of the bus. */
  readonly tag: number;
  readonly headLimit: number;
  readonly payloadLimit: number;
  /** Number of requests that the worker gets at once from this client. */
  readonly concurrency: number;
}

function message(type: number, bytes: number): [whole: Uint8Array, body: DataView] {
  const whole = new Uint8Array(2 + bytes);
  whole[0] = type;
  whole[1] = bytes;
  const body = new DataView(whole.buffer, 2);
  if (bytes >= 8) body.setBigUint64(0, MAGIC, true);
  return [whole, body];
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
}

/** Returns the JOIN of a worker that uses frames. */
export function encodeJoin(concurrency: number): Uint8Array {
  const [whole, body] = message(C.SB_MSG_JOIN, JOIN_BYTES);
  body.setUint16(8, C.SB_ABI, true);
  body.setUint16(10, C.SB_ABI, true);
  body.setUint32(12, C.SB_ROLE_WORKER, true);
  body.setUint32(16, concurrency, true);
  body.setUint32(20, FRAMES, true);
  return whole;
}

/** Decodes the body of a JOIN of any version; `null` if it is malformed. */
export function decodeJoin(bytes: Uint8Array): Join | null {
  const body = viewOf(bytes);
  if (bytes.length < 12 || body.getBigUint64(0, true) !== MAGIC) return null;
  const [minVersion, maxVersion] = [body.getUint16(8, true), body.getUint16(10, true)];
  const isOurs = minVersion <= C.SB_ABI && maxVersion >= C.SB_ABI;
  if (!isOurs) return { minVersion, maxVersion, isObserver: false, concurrency: 0, usesFrames: false };
  if (bytes.length !== JOIN_BYTES) return null;
  const [role, concurrency] = [body.getUint32(12, true), body.getUint32(16, true)];
  const isObserver = role === C.SB_ROLE_OBSERVER;
  if (!isObserver && (role !== C.SB_ROLE_WORKER || concurrency < 1 || concurrency > C.SB_SLOTS_MAX)) return null;
  const usesFrames = (body.getUint32(20, true) & FRAMES) !== 0;
  return { minVersion, maxVersion, isObserver, concurrency, usesFrames };
}

/** Returns a REFUSED with a positive error code (`SB_E…`). */
export function encodeRefused(code: number): Uint8Array {
  const [whole, body] = message(C.SB_MSG_REFUSED, REFUSED_BYTES);
  body.setUint16(8, C.SB_ABI, true);
  body.setUint16(10, C.SB_ABI, true);
  body.setUint32(12, code, true);
  return whole;
}

/** Decodes the body of a REFUSED; `null` if it is malformed. */
export function decodeRefused(bytes: Uint8Array): { code: number; versions: string } | null {
  const body = viewOf(bytes);
  if (bytes.length < 12 || body.getBigUint64(0, true) !== MAGIC) return null;
  const versions = `${body.getUint16(8, true)} to ${body.getUint16(10, true)}`;
  return { code: bytes.length < REFUSED_BYTES ? C.SB_EVERSION : body.getUint32(12, true), versions };
}

/** Returns the WELCOME of a client. */
export function encodeWelcome({ tag, headLimit, payloadLimit, concurrency }: Welcome): Uint8Array {
  const [whole, body] = message(WELCOME, WELCOME_BYTES);
  body.setUint32(8, C.SB_ABI, true);
  body.setUint32(12, tag, true);
  body.setUint32(16, headLimit, true);
  body.setUint32(20, payloadLimit, true);
  body.setUint32(24, concurrency, true);
  return whole;
}

/** Decodes the body of a WELCOME; `null` if it is malformed or a limit is out of range. */
export function decodeWelcome(bytes: Uint8Array): Welcome | null {
  const body = viewOf(bytes);
  if (bytes.length !== WELCOME_BYTES || body.getBigUint64(0, true) !== MAGIC) return null;
  if (body.getUint32(8, true) !== C.SB_ABI) return null;
  const [tag, headLimit, payloadLimit, concurrency] = [12, 16, 20, 24].map((at) => body.getUint32(at, true)) as [
    number,
    number,
    number,
    number,
  ];
  const isValid =
    headLimit >= C.SB_HEAD_MIN && headLimit <= C.SB_HEAD_MAX && payloadLimit >= 1 && payloadLimit <= C.SB_PAYLOAD_MAX;
  const isRunnable = concurrency >= 1 && concurrency <= C.SB_SLOTS_MAX;
  return isValid && isRunnable ? { tag, headLimit, payloadLimit, concurrency } : null;
}

/** Returns an ATTACHED with the process id of the worker. */
export function encodeAttached(): Uint8Array {
  const [whole, body] = message(C.SB_MSG_ATTACHED, 4);
  body.setUint32(0, process.pid, true);
  return whole;
}

/** Decodes the body of an ATTACHED: the process id that the worker states, 0 if it states none. */
export function decodeAttached(bytes: Uint8Array): number {
  return bytes.length === 4 ? viewOf(bytes).getUint32(0, true) : 0;
}

/** Collects the messages of a handshake until one ends it; the rest of the bytes are frames. */
export class HandshakeReader {
  #bytes = new Uint8Array(0);

  /** Calls `onMessage` for each whole message while it returns `true`. Returns the bytes after the last message. */
  read(chunk: Uint8Array, onMessage: (type: number, body: Uint8Array) => boolean): Uint8Array {
    let bytes: Uint8Array = chunk;
    if (this.#bytes.length > 0) {
      bytes = new Uint8Array(this.#bytes.length + chunk.length);
      bytes.set(this.#bytes);
      bytes.set(chunk, this.#bytes.length);
    }
    let at = 0;
    let goesOn = true;
    while (goesOn && at + 2 <= bytes.length && at + 2 + bytes[at + 1]! <= bytes.length) {
      const end = at + 2 + bytes[at + 1]!;
      goesOn = onMessage(bytes[at]!, bytes.subarray(at + 2, end));
      at = end;
    }
    if (!goesOn) return bytes.subarray(at);
    this.#bytes = bytes.slice(at, at + MESSAGE_BYTES + 2);
    return bytes.subarray(bytes.length);
  }
}

/** Encodes the reason of an eviction for GOODBYE, cut to the size of a message. */
export function cutReason(reason: string): Uint8Array {
  const bytes = new Uint8Array(MESSAGE_BYTES - 2);
  return bytes.subarray(0, new TextEncoder().encodeInto(reason, bytes).written);
}
