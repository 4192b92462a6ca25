/** A streamed body on its way: one direction of one request, as a ring with counts on both sides. */

import type { Incoming } from "../../src/bus/body-reader.ts";
import type { Outgoing } from "../../src/bus/body-writer.ts";
import type { Clock } from "../../src/clock.ts";
import type { Die } from "./choices.ts";
import type { Process } from "./clock.ts";

/** Bytes of one direction. On a wire that asks, each side sees the counts of the other side later. */
export class Pipe {
  readonly bytes: Uint8Array;
  readonly slot: number;
  readonly token: number;
  /** Bytes that the writer handed over, and how many of them the reader can see. */
  sent = 0;
  visible = 0;
  /** Bytes that the reader took, and how many of them the writer counts as room. */
  taken = 0;
  credited = 0;
  /** How the writer ended the stream, and how it ended for the reader. */
  end: "open" | "end" | "error" = "open";
  seenEnd: "open" | "end" | "error" = "open";
  errorHead: Uint8Array | null = null;
  /** Bytes that the writer waits for. */
  need = 0;
  /** Times of the last write and of the last read, in ms. */
  writtenAt = 0;
  readAt = 0;

  /** `slot` and `token` say which request the pipe belongs to. */
  constructor(capacity: number, slot: number, token: number) {
    this.bytes = new Uint8Array(capacity);
    this.slot = slot;
    this.token = token;
  }

  get capacity(): number {
    return this.bytes.length;
  }
}

/** The side of a connection that a pipe end belongs to. */
export interface PipeOwner {
  readonly clock: Clock;
  readonly host: Process;
  readonly die: Die;
  /** Whether the request still belongs to this side. A side that finds that it does not, gives up the request. */
  holds(pipe: Pipe, isWriter: boolean): boolean;
  /** Called when the writer handed over `bytes` bytes or ended. */
  pushed(pipe: Pipe, bytes: number): void;
  /** Called when the reader took `bytes` bytes. */
  pulled(pipe: Pipe, bytes: number): void;
  /** Called when the writer has ended the stream. */
  finished(pipe: Pipe): void;
}

/** The writer's end of a pipe. */
export class PipeWriter implements Outgoing {
  onClosed: (() => void) | null = null;
  readonly pipe: Pipe;
  readonly #owner: PipeOwner;
  /** Bytes that were written but not handed over. */
  #kept = 0;
  #isClosed = false;
  #isFlushDue = false;
  #wake: (() => void) | null = null;

  constructor(owner: PipeOwner, pipe: Pipe) {
    this.#owner = owner;
    this.pipe = pipe;
  }

  get #room(): number {
    const { capacity, sent, credited } = this.pipe;
    return capacity - (sent + this.#kept - credited);
  }

  write(bytes: Uint8Array, from: number): number {
    const { pipe } = this;
    let at = from;
    while (at < bytes.length) {
      if (this.#room === 0 && (!this.#tell() || this.#room === 0)) return at;
      if (this.#isClosed) return at;
      const place = (pipe.sent + this.#kept) % pipe.capacity;
      const length = Math.min(this.#room, bytes.length - at, pipe.capacity - place);
      pipe.bytes.set(bytes.subarray(at, at + length), place);
      this.#kept += length;
      at += length;
      pipe.writtenAt = this.#owner.host.time.now;
      if (!this.#owner.die.chance("keeps bytes", 300) && !this.#tell()) return at;
    }
    if (this.#kept > 0 && !this.#isFlushDue) {
      this.#isFlushDue = true;
      this.#owner.clock.immediate(this.#flushLate);
    }
    return at;
  }

  async reserve(wanted: number): Promise<boolean> {
    const { pipe } = this;
    const bytes = Math.min(wanted, pipe.capacity);
    if (!this.#tell()) return false;
    if (this.#room >= bytes) return true;
    pipe.need = bytes;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#wake = resolve;
    await promise;
    this.#wake = null;
    pipe.need = 0;
    return this.#tell();
  }

  flush(): boolean {
    return this.#tell();
  }

  async end(errorHead: Uint8Array | null): Promise<void> {
    const { pipe } = this;
    if (errorHead) await this.reserve(errorHead.length);
    if (this.#kept > 0) this.#tell();
    pipe.errorHead = this.#isClosed ? null : errorHead;
    pipe.end = pipe.errorHead ? "error" : "end";
    this.#owner.finished(pipe);
  }

  close(): void {
    this.onClosed = null;
    this.#isClosed = true;
    this.#wake?.();
  }

  /** Called when the reader made room, or the request may have another owner. */
  moved(): void {
    if (this.pipe.need > 0 && this.#tell() && this.#room >= this.pipe.need) this.#wake?.();
  }

  readonly #flushLate = (): void => {
    this.#isFlushDue = false;
    if (this.#kept > 0) this.#tell();
  };

  /** Hands over the written bytes. Returns `false` if the stream is closed. */
  #tell(): boolean {
    if (this.#isClosed) return false;
    if (!this.#owner.holds(this.pipe, true)) {
      const { onClosed } = this;
      this.close();
      onClosed?.();
      return false;
    }
    const bytes = this.#kept;
    this.#kept = 0;
    this.pipe.sent += bytes;
    if (bytes > 0) this.#owner.pushed(this.pipe, bytes);
    return true;
  }
}

/** Largest chunk that a reader gets, in bytes; small, so that chunks and writes differ. */
const CHUNK_BYTES = 96;

/** The reader's end of a pipe. */
export class PipeReader implements Incoming {
  onMoved: (() => void) | null = null;
  end: "open" | "end" | "error" = "open";
  readonly pipe: Pipe;
  readonly #owner: PipeOwner;
  #last = 0;

  constructor(owner: PipeOwner, pipe: Pipe) {
    this.#owner = owner;
    this.pipe = pipe;
  }

  read(into: Uint8Array | null): Uint8Array | null {
    const { pipe } = this;
    const last = this.#last;
    this.#last = 0;
    if (!this.#owner.holds(pipe, false)) return null;
    if (last > 0) this.#owner.pulled(pipe, last);
    const readable = pipe.visible - pipe.taken;
    if (readable === 0) {
      this.end = pipe.seenEnd;
      return null;
    }
    const at = pipe.taken % pipe.capacity;
    const length = Math.min(readable, into ? into.length : CHUNK_BYTES, pipe.capacity - at);
    this.#last = length;
    pipe.readAt = this.#owner.host.time.now;
    pipe.taken += length; // the room is given back by the next call
    const chunk = pipe.bytes.subarray(at, at + length);
    if (!into) return chunk.slice();
    into.set(chunk);
    return into.subarray(0, length);
  }

  errorHead(): Uint8Array | null {
    return this.pipe.seenEnd === "error" ? this.pipe.errorHead : null;
  }
}
