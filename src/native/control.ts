/** Encodes, decodes and sends the messages of the control socket. */

import type { Clock, Timer } from "../clock.ts";
import { C, native } from "./library.ts";

/** Decodes messages; keeps an incomplete message until the next chunk. */
export class MessageReader {
  #tail: Uint8Array | null = null;

  /** Calls `onMessage` for each complete message; returns the number of doorbells. */
  read(chunk: Uint8Array, onMessage: (type: number, body: Uint8Array) => void): number {
    let bytes = chunk;
    if (this.#tail) {
      bytes = new Uint8Array(this.#tail.length + chunk.length);
      bytes.set(this.#tail, 0);
      bytes.set(chunk, this.#tail.length);
      this.#tail = null;
    }
    let bells = 0;
    let at = 0;
    while (at < bytes.length) {
      const type = bytes[at]!;
      if (type === C.SB_MSG_BELL) {
        bells++;
        at++;
        continue;
      }
      const length = bytes[at + 1];
      if (length === undefined || at + 2 + length > bytes.length) {
        this.#tail = bytes.slice(at); // Bun reuses the memory of its chunk
        break;
      }
      onMessage(type, bytes.subarray(at + 2, at + 2 + length));
      at += 2 + length;
    }
    return bells;
  }
}

/** Offset of the last word of a JOIN. */
const JOIN_FLAGS = 20;
const RETRY_MS = 5;
const empty = new Uint8Array(8);
const encoder = new TextEncoder();

/** Sends messages on one socket, in order. Retries on a timer while the socket is full. */
export class MessageWriter {
  #fd: number;
  readonly #clock: Clock;
  #waiting: { type: number; body: Uint8Array }[] = [];
  #timer: Timer | null = null;

  constructor(fd: number, clock: Clock) {
    this.#fd = fd;
    this.#clock = clock;
  }

  /** Sends a message. Ignores a broken socket, which its reader reports. */
  send(type: number, body: Uint8Array = empty.subarray(0, 0)): void {
    if (this.#fd < 0) return;
    this.#waiting.push({ type, body });
    if (!this.#timer) this.#flush();
  }

  close(): void {
    this.#fd = -1;
    this.#waiting = [];
    this.#timer?.close();
    this.#timer = null;
  }

  readonly #flush = (): void => {
    this.#timer = null;
    for (; this.#waiting.length > 0; this.#waiting.shift()) {
      const { type, body } = this.#waiting[0]!;
      const bytes = body.length > 0 ? body : empty;
      if (native.sb_control_send(this.#fd, type, bytes, body.length) !== -C.SB_EAGAIN) continue;
      this.#timer = this.#clock.after(RETRY_MS, this.#flush);
      return;
    }
  };
}

/** Returns the body of a CANCEL message. */
export function cancelBody(slot: number, token: number): Uint8Array {
  return new Uint8Array(new Uint32Array([slot, token]).buffer);
}

/** Returns the body of the GOODBYE after an eviction: the reason, cut to the size of a message. */
export function reasonBody(reason: string): Uint8Array {
  const body = new Uint8Array(C.SB_MESSAGE_MAX - 2);
  return body.subarray(0, encoder.encodeInto(reason, body).written);
}

/** Decodes a CANCEL message; `null` when its length is wrong. */
export function readCancel(body: Uint8Array): { slot: number; token: number } | null {
  if (body.length !== 8) return null;
  const words = new DataView(body.buffer, body.byteOffset, 8);
  return { slot: words.getUint32(0, true), token: words.getUint32(4, true) };
}

/**
 * Decodes and checks a JOIN message. `code`: 0 when it is valid, else the positive error code. `versions`: protocol
 * versions of the peer, when they are the error.
 */
export function readJoin(body: Uint8Array) {
  const copy = Buffer.alloc(C.SB_MESSAGE_MAX);
  copy.set(body);
  const found = new Uint32Array(2);
  const code = -native.sb_join_check(copy, body.length, found);
  return {
    code,
    isObserver: found[0] === C.SB_ROLE_OBSERVER,
    concurrency: found[1]!,
    /** Whether the worker wants frames on the socket in place of a region: the last word of its JOIN. */
    usesFrames: code === 0 && (copy.readUInt32LE(JOIN_FLAGS) & 1) !== 0,
    versions: `${found[0]} to ${found[1]}`,
  };
}

/** Sends REFUSED with a positive error code (`SB_E…`). */
export function refuse(fd: number, code: number): void {
  native.sb_join_refuse(fd, code);
}
