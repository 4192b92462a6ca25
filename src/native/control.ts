/** Messages of the control socket: decoded as they come, and sent whole or kept until they fit. */

import type { Clock, Timer } from "../clock.ts";
import { C, native } from "./library.ts";

/** Types of messages. */
export const MESSAGE = {
  join: C.SB_MSG_JOIN,
  attached: C.SB_MSG_ATTACHED,
  cancel: C.SB_MSG_CANCEL,
  drain: C.SB_MSG_DRAIN,
  goodbye: C.SB_MSG_GOODBYE,
} as const;

/** Decodes messages; an incomplete one waits for the next chunk. */
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
        this.#tail = bytes.slice(at); // Bun uses its chunk again
        break;
      }
      onMessage(type, bytes.subarray(at + 2, at + 2 + length));
      at += 2 + length;
    }
    return bells;
  }
}

const RETRY_MS = 5;
const empty = new Uint8Array(8);

/** Sends messages on one socket. A message that does not fit is sent by a timer later, in order. */
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
    if (this.#waiting.length > 0 || !this.#trySend(type, body)) {
      this.#waiting.push({ type, body });
      this.#timer ??= this.#clock.after(RETRY_MS, this.#retry);
    }
  }

  /** Rings the doorbell. */
  ring(): void {
    this.send(C.SB_MSG_BELL);
  }

  close(): void {
    this.#fd = -1;
    this.#waiting = [];
    this.#timer?.close();
    this.#timer = null;
  }

  #trySend(type: number, body: Uint8Array): boolean {
    const bytes = body.length > 0 ? body : empty;
    return native.sb_control_send(this.#fd, type, bytes, body.length) !== -C.SB_EAGAIN;
  }

  readonly #retry = (): void => {
    this.#timer = null;
    while (this.#waiting.length > 0) {
      const { type, body } = this.#waiting[0]!;
      if (!this.#trySend(type, body)) break;
      this.#waiting.shift();
    }
    if (this.#waiting.length > 0) this.#timer = this.#clock.after(RETRY_MS, this.#retry);
  };
}

/** The body of a CANCEL. */
export function cancelBody(slot: number, token: number): Uint8Array {
  return new Uint8Array(new Uint32Array([slot, token]).buffer);
}

/** Reads a CANCEL; `null` when its length is wrong. */
export function readCancel(body: Uint8Array): { slot: number; token: number } | null {
  if (body.length !== 8) return null;
  const words = new DataView(body.buffer, body.byteOffset, 8);
  return { slot: words.getUint32(0, true), token: words.getUint32(4, true) };
}

/** A JOIN, checked. */
export interface Join {
  /** Why it is refused, as a positive code; 0 when it is valid. */
  code: number;
  isOtherVersion: boolean;
  isObserver: boolean;
  concurrency: number;
  /** Versions of the protocol that the peer speaks, when they are the reason. */
  versions: string;
}

/** Reads and checks a JOIN. */
export function readJoin(body: Uint8Array): Join {
  const copy = Buffer.alloc(C.SB_MESSAGE_MAX);
  copy.set(body);
  const found = new Uint32Array(2);
  const code = -native.sb_join_check(copy, body.length, found);
  return {
    code,
    isOtherVersion: code === C.SB_EVERSION,
    isObserver: found[0] === C.SB_ROLE_OBSERVER,
    concurrency: found[1]!,
    versions: `${found[0]} to ${found[1]}`,
  };
}

/** Codes of a refusal. */
export const REFUSAL = {
  closed: C.SB_ECLOSED,
  user: C.SB_EPERM,
  busy: C.SB_EBUSY,
  full: C.SB_EFULL,
  late: C.SB_ETIMEDOUT,
  protocol: C.SB_EPROTO,
} as const;

/** Sends REFUSED with a code of {@link REFUSAL}. */
export function refuse(fd: number, code: number): void {
  native.sb_join_refuse(fd, code);
}

/** The version of the protocol that this library speaks. */
export const PROTOCOL = C.SB_ABI;
