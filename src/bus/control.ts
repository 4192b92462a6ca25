/** Messages of the control socket: taken apart as they come, and sent whole or kept until they fit. */

import { C, native } from "../native/library.ts";

/** Collects bytes into messages; an incomplete tail waits for the next chunk. */
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

/** Sends messages on one socket; what does not fit now is sent again by a timer, in order. */
export class MessageWriter {
  #fd: number;
  #waiting: { type: number; body: Uint8Array }[] = [];
  #timer: ReturnType<typeof setTimeout> | null = null;

  constructor(fd: number) {
    this.#fd = fd;
  }

  /** A broken socket is reported by its reader, so a failure here is not. */
  send(type: number, body: Uint8Array = empty.subarray(0, 0)): void {
    if (this.#fd < 0) return;
    if (this.#waiting.length > 0 || !this.#trySend(type, body)) {
      this.#waiting.push({ type, body });
      this.#timer ??= setTimeout(this.#retry, RETRY_MS);
    }
  }

  close(): void {
    this.#fd = -1;
    this.#waiting = [];
    if (this.#timer) clearTimeout(this.#timer);
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
    if (this.#waiting.length > 0) this.#timer = setTimeout(this.#retry, RETRY_MS);
  };
}

/** Body of CANCEL. */
export function cancelBody(slot: number, token: number): Uint8Array {
  return new Uint8Array(new Uint32Array([slot, token]).buffer);
}

/** Reads a CANCEL; `null` when its length is wrong. */
export function readCancel(body: Uint8Array): { slot: number; token: number } | null {
  if (body.length !== 8) return null;
  const words = new DataView(body.buffer, body.byteOffset, 8);
  return { slot: words.getUint32(0, true), token: words.getUint32(4, true) };
}
