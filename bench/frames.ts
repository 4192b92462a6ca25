/** Frames of the contestant `unix-socket`: u32 length of the body, u32 id, body; little-endian. */

interface Writable {
  /** Writes as many bytes as fit into the kernel's buffer. Returns their number. */
  write(bytes: Uint8Array): number;
}

const HEADER = 8;
/** Frames of one turn of the event loop go out in one system call, up to this many bytes. */
const BATCH_BYTES = 128 * 1024;

/** Assembles frames from the chunks of a socket. Copies only bodies that arrive in parts. */
export class FrameReader {
  readonly #onFrame: (id: number, body: Uint8Array) => void;
  readonly #header = new Uint8Array(HEADER);
  #headerBytes = 0;
  /** Body that has arrived in part. */
  #body: Uint8Array | null = null;
  #bodyBytes = 0;

  constructor(onFrame: (id: number, body: Uint8Array) => void) {
    this.#onFrame = onFrame;
  }

  /** Takes ownership of the chunk: Bun allocates a new one for each read. */
  push(chunk: Uint8Array): void {
    let at = 0;
    while (at < chunk.length) {
      if (this.#body) {
        const part = chunk.subarray(at, at + this.#body.length - this.#bodyBytes);
        this.#body.set(part, this.#bodyBytes);
        this.#bodyBytes += part.length;
        at += part.length;
        if (this.#bodyBytes === this.#body.length) this.#finish(this.#body);
      } else {
        while (this.#headerBytes < HEADER && at < chunk.length) this.#header[this.#headerBytes++] = chunk[at++]!;
        if (this.#headerBytes < HEADER) return;
        const length = word(this.#header, 0);
        if (chunk.length - at >= length) {
          this.#finish(chunk.subarray(at, at + length));
          at += length;
        } else {
          this.#body = Buffer.allocUnsafe(length);
          this.#bodyBytes = 0;
        }
      }
    }
  }

  #finish(body: Uint8Array): void {
    this.#body = null;
    this.#headerBytes = 0;
    this.#onFrame(word(this.#header, 4), body);
  }
}

function word(bytes: Uint8Array, at: number): number {
  return (bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24)) >>> 0;
}

/**
 * Writes frames in order. Frames of one turn go out together. Bytes that the socket does not accept wait for {@link flush}.
 * A body may be written later without a copy, so it must not change before its response has arrived.
 */
export class FrameWriter {
  readonly #socket: Writable;
  readonly #batch = new Uint8Array(BATCH_BYTES);
  #batchBytes = 0;
  #scheduled = false;
  /** Bytes that the socket did not accept. */
  #waiting: Uint8Array[] = [];

  constructor(socket: Writable) {
    this.#socket = socket;
  }

  write(id: number, body: Uint8Array): void {
    if (this.#batchBytes + HEADER + body.length > BATCH_BYTES) this.#sendBatch();
    this.#putWord(body.length);
    this.#putWord(id);
    const first = body.subarray(0, BATCH_BYTES - this.#batchBytes);
    this.#batch.set(first, this.#batchBytes);
    this.#batchBytes += first.length;
    if (first.length < body.length) {
      this.#sendBatch();
      this.#send(body.subarray(first.length), false);
    } else if (!this.#scheduled) {
      this.#scheduled = true;
      queueMicrotask(this.#onTurnEnd);
    }
  }

  /** Continues to write when the socket has room again. */
  flush(): void {
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const bytes of waiting) this.#send(bytes, false);
  }

  readonly #onTurnEnd = (): void => {
    this.#scheduled = false;
    this.#sendBatch();
  };

  #putWord(value: number): void {
    for (let shift = 0; shift < 32; shift += 8) this.#batch[this.#batchBytes++] = value >>> shift;
  }

  #sendBatch(): void {
    if (this.#batchBytes > 0) this.#send(this.#batch.subarray(0, this.#batchBytes), true);
    this.#batchBytes = 0;
  }

  #send(bytes: Uint8Array, copy: boolean): void {
    const sent = this.#waiting.length > 0 ? 0 : Math.max(0, this.#socket.write(bytes));
    if (sent < bytes.length) this.#waiting.push(copy ? bytes.slice(sent) : bytes.subarray(sent));
  }
}
