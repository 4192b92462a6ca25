/** Frames of the raw unix socket contestant: u32 length of the body, u32 id, body; little-endian. */

interface Writable {
  write(bytes: Uint8Array): number;
}

/** Puts frames together from chunks. */
export class FrameReader {
  readonly #onFrame: (id: number, body: Uint8Array) => void;
  #chunks: Uint8Array[] = [];
  #bytes = 0;

  constructor(onFrame: (id: number, body: Uint8Array) => void) {
    this.#onFrame = onFrame;
  }

  push(chunk: Uint8Array): void {
    this.#chunks.push(chunk.slice()); // Bun uses its buffer again
    this.#bytes += chunk.length;
    if (this.#bytes < 8 || this.#bytes < 8 + word(this.#head(), 0)) return;
    let bytes = this.#chunks.length === 1 ? this.#chunks[0]! : Buffer.concat(this.#chunks);
    let at = 0;
    while (bytes.length - at >= 8 && bytes.length - at >= 8 + word(bytes, at)) {
      const length = word(bytes, at);
      this.#onFrame(word(bytes, at + 4), bytes.subarray(at + 8, at + 8 + length));
      at += 8 + length;
    }
    bytes = bytes.subarray(at);
    this.#chunks = bytes.length > 0 ? [bytes] : [];
    this.#bytes = bytes.length;
  }

  #head(): Uint8Array {
    if (this.#chunks[0]!.length < 8) this.#chunks = [Buffer.concat(this.#chunks)];
    return this.#chunks[0]!;
  }
}

function word(bytes: Uint8Array, at: number): number {
  return (bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24)) >>> 0;
}

/** Writes frames; what the socket does not take waits for `flush`, in order. */
export class FrameWriter {
  #waiting: Uint8Array[] = [];

  write(socket: Writable, id: number, body: Uint8Array): void {
    const frame = new Uint8Array(8 + body.length);
    new Uint32Array(frame.buffer, 0, 2).set([body.length, id]);
    frame.set(body, 8);
    if (this.#waiting.length > 0) this.#waiting.push(frame);
    else this.#send(socket, frame);
  }

  flush(socket: Writable): void {
    const frames = this.#waiting;
    this.#waiting = [];
    for (const frame of frames) {
      if (this.#waiting.length > 0) this.#waiting.push(frame);
      else this.#send(socket, frame);
    }
  }

  #send(socket: Writable, frame: Uint8Array): void {
    const sent = Math.max(0, socket.write(frame));
    if (sent < frame.length) this.#waiting.push(frame.subarray(sent));
  }
}
