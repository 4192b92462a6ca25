/** A cursor of the C library. It copies batches of events out of a ring into memory that is read in place. */

import { SlotbusError, ClosedError } from "../errors.ts";
import { callError } from "./fleet-failure.ts";
import type { FleetHandle } from "./fleet.ts";
import { C, detach, errorText, FIELDS, native, type Pointer, view } from "./library.ts";

const BATCH = {
  position: FIELDS["sb_batch.position"][0] / 8,
  event: FIELDS["sb_batch.event"][0] / 8,
  overwritten: FIELDS["sb_batch.overwritten"][0] / 8,
  bytes: FIELDS["sb_batch.bytes"][0] / 4,
  records: FIELDS["sb_batch.bytes"][0] + 4,
} as const;
const RECORD = {
  position: FIELDS["sb_record.position"][0] / 8,
  event: FIELDS["sb_record.event"][0] / 8,
  time: FIELDS["sb_record.time_ms"][0] / 8,
  kind: FIELDS["sb_record.kind"][0] / 4,
  bytes: FIELDS["sb_record.bytes"][0] / 4,
  writer: FIELDS["sb_record.writer"][0] / 4,
  incarnation: FIELDS["sb_record.incarnation"][0] / 4,
  size: FIELDS["sb_record.incarnation"][0] + 4,
} as const;

/** Where a cursor starts: at the next event, at the oldest event in the ring, or at a position of this epoch. */
export type Start = "head" | "oldest" | number;

/** A cursor. Its fields also hold the current record, which {@link next} moves. */
export class CursorHandle {
  /**
   * Events lost before the first record of the last {@link poll}; for a new cursor, frames lost before its first frame.
   */
  lost = 0;
  /** Records of the last batch that {@link next} has not reached. */
  left = 0;
  position = 0;
  event = 0;
  time = 0;
  kind = 0;
  writer = 0;
  incarnation = 0;
  /** The record's payload is `memory` from `start` to `end`, until the next poll. */
  memory: Buffer<ArrayBuffer> = Buffer.from(new ArrayBuffer(0));
  /** Another view of {@link memory}: its `slice` copies, the `slice` of a `Buffer` does not. */
  bytes: Uint8Array<ArrayBuffer> = new Uint8Array(0);
  start = 0;
  end = 0;
  readonly #pointer: Pointer;
  #address = 0;
  #doubles: Float64Array = new Float64Array(0);
  #words: Uint32Array = new Uint32Array(0);
  /** Offset of the next record. */
  #at = 0;
  #closed = false;

  /** `event`: number of the first event, to count lost events; -1: unknown. @throws `RESOURCE` */
  constructor(fleet: FleetHandle, ring: number, start: Start, event = -1) {
    const position = typeof start === "number" ? start : 0;
    const from = start === "head" ? C.SB_FROM_HEAD : start === "oldest" ? C.SB_FROM_OLDEST : C.SB_FROM_POSITION;
    const cursor = native.sb_cursor_open(fleet.pointer, ring, from, position, event) as Pointer | null;
    if (!cursor) throw new SlotbusError("RESOURCE", `Cannot open a cursor: ${errorText(native.sb_error_last())}.`);
    this.#pointer = cursor;
    this.#follow();
    if (typeof start === "number" && event < 0) this.lost = this.nextPosition - position;
  }

  get closed(): boolean {
    return this.#closed;
  }

  /** Position of the frame behind the last batch. */
  get nextPosition(): number {
    return this.#doubles[BATCH.position]!;
  }

  /** Number of the event behind the last batch. */
  get nextEvent(): number {
    return this.#doubles[BATCH.event]!;
  }

  /** Copies at most `max` events out of the ring. Returns their number and sets {@link lost}. */
  poll(max: number): number {
    if (this.#closed) throw new ClosedError("The cursor");
    const count = native.sb_cursor_poll(this.#pointer, max);
    if (count < 0) throw callError(count, "Cannot poll the cursor");
    this.#follow();
    this.left = count;
    this.#at = BATCH.records;
    this.lost = this.#doubles[BATCH.overwritten]!;
    return count;
  }

  /** Moves to the next record of the batch; `false` at its end. */
  next(): boolean {
    if (this.left === 0) return false;
    this.left--;
    const double = this.#at / 8;
    const word = this.#at / 4;
    const bytes = this.#words[word + RECORD.bytes]!;
    this.position = this.#doubles[double + RECORD.position]!;
    this.event = this.#doubles[double + RECORD.event]!;
    this.time = this.#doubles[double + RECORD.time]!;
    this.kind = this.#words[word + RECORD.kind]!;
    this.writer = this.#words[word + RECORD.writer]!;
    this.incarnation = this.#words[word + RECORD.incarnation]!;
    this.start = this.#at + RECORD.size;
    this.end = this.start + bytes;
    this.#at = (this.end + 7) & ~7;
    return true;
  }

  /**
   * Asks to be woken at the next event. `"now"`: there is more to poll. `"soon"`: poll again soon, because a writer has
   * stopped in the middle of a publication and would wake nobody.
   */
  park(): "now" | "when woken" | "soon" {
    const when = native.sb_cursor_park(this.#pointer);
    return when === C.SB_POLL_NOW ? "now" : when === C.SB_POLL_SOON ? "soon" : "when woken";
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.left = 0;
    detach(this.memory.buffer); // no other view is left: payloads are copies
    native.sb_cursor_close(this.#pointer);
  }

  /** Updates the views: the batch moves to a larger buffer for a large event. */
  #follow(): void {
    const address = native.sb_cursor_batch(this.#pointer) as unknown as number;
    if (address === this.#address && BATCH.records + this.#words[BATCH.bytes]! <= this.memory.length) return;
    detach(this.memory.buffer);
    const head = new Uint32Array(view(address, BATCH.records));
    const bytes = BATCH.records + Math.max(C.SB_POLL_BYTES, head[BATCH.bytes]!);
    detach(head.buffer);
    const buffer = view(address, bytes);
    this.#address = address;
    this.memory = Buffer.from(buffer);
    this.bytes = new Uint8Array(buffer);
    this.#doubles = new Float64Array(buffer, 0, Math.floor(bytes / 8));
    this.#words = new Uint32Array(buffer, 0, Math.floor(bytes / 4));
  }
}
