/**
 * The streams of one slot. Each direction is a ring of bytes in the sender's arena. Two 64-bit counts in the slot hold the
 * numbers of bytes sent and taken.
 */

import type { Incoming } from "../../bus/body-reader.ts";
import type { Outgoing } from "../../bus/body-writer.ts";
import type { Arena } from "../../bus/codec.ts";
import type { Clock } from "../../clock.ts";
import { C } from "../../native/abi.ts";
import { endOf, type FlowStatus, LOOK } from "../../native/flow.ts";

/** Number of bytes that are handed over together, unless the other side has nothing left to read. */
const BATCH_BYTES = 8_192;
/** Size of the largest chunk, in bytes. */
const CHUNK_BYTES = 65_536;

/** The connection to which rings belong. `Of` is the type by which it identifies them. */
export interface RingsOwner<Of> {
  /**
   * Adds to the counts of sent and taken bytes, and waits for `need` bytes of room. Returns `false` if the slot has another owner
   * now.
   */
  move(rings: Rings<Of>, sent: number, taken: number, need: number): boolean;
  /** Ends this side's stream. `errorBytes` is the length of the encoded error after its last byte; 0 for none. */
  finish(rings: Rings<Of>, errorBytes: number): void;
}

/** One side's access to the two rings of a slot. */
export class Rings<Of = unknown> {
  readonly owner: RingsOwner<Of>;
  readonly of: Of;
  /** Offset of a ring in its arena, and its size, in bytes. */
  readonly start: number;
  readonly size: number;
  /** Result of the last `move`. */
  readonly status: FlowStatus;
  /** Room that the writer waits for, in bytes. Both directions share one word in the slot, so each `move` writes it again. */
  need = 0;
  readonly #written: Arena;
  readonly #own: Arena;
  readonly #clock: Clock;
  #incoming: RingReader | null = null;
  #outgoing: RingWriter | null = null;

  /** `written` is the arena that the other side writes, `own` the arena that this side writes. */
  constructor(
    owner: RingsOwner<Of>,
    of: Of,
    headLimit: number,
    written: Arena,
    own: Arena,
    status: FlowStatus,
    clock: Clock,
  ) {
    this.owner = owner;
    this.of = of;
    this.start = headLimit;
    this.size = Math.min(C.SB_RING_MAX, own.bytes.length - headLimit);
    this.status = status;
    this.#written = written;
    this.#own = own;
    this.#clock = clock;
  }

  /** Created on first use, because most streams have one direction. */
  get incoming(): Incoming {
    return (this.#incoming ??= new RingReader(this, this.#written));
  }

  get outgoing(): Outgoing {
    return (this.#outgoing ??= new RingWriter(this, this.#own, this.#clock));
  }

  /** Called when the other side moved bytes or waits for bytes. */
  moved(): void {
    this.#outgoing?.moved();
    this.#incoming?.onMoved?.();
  }
}

class RingWriter implements Outgoing {
  onClosed: (() => void) | null = null;
  readonly #rings: Rings;
  readonly #arena: Arena;
  readonly #clock: Clock;
  /** Room in the ring from `#at` on, in bytes. */
  #room: number;
  #at: number;
  /** Number of bytes that were written but not handed over. */
  #kept = 0;
  /** Whether the other side has taken all bytes, so that the next bytes are handed over at once. */
  #isEager = true;
  #isFlushing = false;
  #isClosed = false;
  #wake: (() => void) | null = null;

  constructor(rings: Rings, arena: Arena, clock: Clock) {
    this.#rings = rings;
    this.#arena = arena;
    this.#clock = clock;
    this.#room = rings.size; // this side has sent nothing yet
    this.#at = rings.start;
  }

  write(bytes: Uint8Array, from: number): number {
    let at = from;
    while (at < bytes.length) {
      if (this.#room === 0 && (!this.#tell(0) || this.#room === 0)) return at;
      const length = Math.min(this.#room, bytes.length - at);
      this.#arena.bytes.set(length === bytes.length ? bytes : bytes.subarray(at, at + length), this.#at);
      this.#at += length;
      this.#room -= length;
      this.#kept += length;
      at += length;
      if ((this.#isEager || this.#kept >= BATCH_BYTES) && !this.#tell(0)) return at;
    }
    if (this.#kept > 0 && !this.#isFlushing) {
      this.#isFlushing = true;
      this.#clock.immediate(this.#flushLate);
    }
    return at;
  }

  async reserve(wanted: number): Promise<boolean> {
    const bytes = Math.min(wanted, this.#rings.size);
    if (!this.#tell(bytes)) return false;
    if (this.#rings.status[LOOK.free]! >= bytes) return true;
    this.#rings.need = bytes;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#wake = resolve;
    await promise;
    this.#wake = null;
    this.#rings.need = 0;
    return this.#tell(0);
  }

  flush(): boolean {
    return this.#tell(0);
  }

  async end(errorHead: Uint8Array | null): Promise<void> {
    let errorBytes = 0;
    if (errorHead && (await this.reserve(errorHead.length))) {
      this.#place(errorHead);
      errorBytes = errorHead.length;
    }
    if (this.#kept > 0) this.#tell(0);
    this.#rings.owner.finish(this.#rings, errorBytes);
  }

  close(): void {
    this.onClosed = null;
    this.#isClosed = true;
    this.#room = 0; // from now on the slot may belong to another request
    this.#wake?.();
  }

  moved(): void {
    const { need, status } = this.#rings;
    if (need > 0 && this.#tell(need) && status[LOOK.free]! >= need) this.#wake?.();
  }

  /** Writes bytes after the end of the stream, without handing them over. There must be room. */
  #place(bytes: Uint8Array): void {
    const { start, size } = this.#rings;
    const first = Math.min(bytes.length, start + size - this.#at);
    this.#arena.bytes.set(bytes.subarray(0, first), this.#at);
    this.#arena.bytes.set(bytes.subarray(first), start);
  }

  readonly #flushLate = (): void => {
    this.#isFlushing = false;
    if (this.#kept > 0) this.#tell(this.#rings.need);
  };

  /** Hands over the written bytes and reads how much room there is. Returns `false` if the stream is closed. */
  #tell(need: number): boolean {
    if (this.#isClosed) return false;
    const sent = this.#kept;
    this.#kept = 0;
    const { owner, status, size } = this.#rings;
    if (!owner.move(this.#rings, sent, 0, need)) {
      const { onClosed } = this;
      this.close();
      onClosed?.();
      return false;
    }
    this.#isEager = size - status[LOOK.free]! <= sent;
    this.#room = status[LOOK.room]!;
    this.#at = status[LOOK.writeAt]!;
    return true;
  }
}

class RingReader implements Incoming {
  onMoved: (() => void) | null = null;
  end: "open" | "end" | "error" = "open";
  readonly #rings: Rings;
  readonly #arena: Arena;
  /** Size of the last chunk, in bytes. */
  #taken = 0;

  constructor(rings: Rings, arena: Arena) {
    this.#rings = rings;
    this.#arena = arena;
  }

  read(into: Uint8Array | null): Uint8Array | null {
    const rings = this.#rings;
    const taken = this.#taken;
    this.#taken = 0;
    if (!rings.owner.move(rings, 0, taken, rings.need)) return null;
    const { status } = rings;
    const readable = status[LOOK.readable]!;
    if (readable === 0) {
      this.end = endOf(status);
      return null;
    }
    const length = Math.min(readable, into ? into.length : CHUNK_BYTES);
    const at = status[LOOK.readAt]!;
    const { bytes } = this.#arena;
    this.#taken = length;
    if (!into) return bytes.slice(at, at + length);
    into.set(bytes.subarray(at, at + length));
    return into.subarray(0, length);
  }

  errorHead(): Uint8Array | null {
    const { status, start, size } = this.#rings;
    if (endOf(status) !== "error") return null;
    const from = status[LOOK.readAt]! - start + status[LOOK.unread]!;
    const { bytes } = this.#arena;
    return Uint8Array.from({ length: status[LOOK.errorBytes]! }, (_, i) => bytes[start + ((from + i) % size)]!);
  }
}
