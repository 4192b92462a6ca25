/** Batches of events that C copied out of a ring, read where they lie, and the sleep until there are more. */

import { availableParallelism } from "node:os";
import { nextTurn, systemClock } from "../clock.ts";
import { FleetClosedError, InvalidConfigError, ResourceError } from "../errors.ts";
import { C, detach, errorText, FIELDS, native, type Pointer, view } from "../native/library.ts";
import { callError } from "./failure.ts";
import type { Fleet } from "./fleet.ts";

/** A place in a ring that can be kept, and given to a later cursor. */
export interface Bookmark {
  /** Of the fleet's file. */
  readonly epoch: number;
  /** Of the next frame. */
  readonly position: number;
  /** Number of the next event: what was lost in between is counted by it. */
  readonly event?: number;
}

/** Where to begin: what comes, the oldest that is there, or a place. A number is a position of this epoch. */
export type From = "head" | "oldest" | number | Bookmark;

const BATCH = {
  position: FIELDS["sb_batch.position"][0] / 8,
  event: FIELDS["sb_batch.event"][0] / 8,
  overwritten: FIELDS["sb_batch.overwritten"][0] / 8,
  bytes: FIELDS["sb_batch.bytes"][0] / 4,
  records: 32,
} as const;
const RECORD = {
  position: FIELDS["sb_record.position"][0] / 8,
  event: FIELDS["sb_record.event"][0] / 8,
  time: FIELDS["sb_record.time_ms"][0] / 8,
  kind: FIELDS["sb_record.kind"][0] / 4,
  bytes: FIELDS["sb_record.bytes"][0] / 4,
  writer: FIELDS["sb_record.writer"][0] / 4,
  incarnation: FIELDS["sb_record.incarnation"][0] / 4,
  size: 40,
} as const;

/** After the last event a reader looks for so long on each turn of the event loop before it sleeps, in ms. */
const SPIN_MS = availableParallelism() > 1 ? 0.05 : 0;
/** A writer that has stopped in the middle of a publication wakes nobody: a reader looks so often meanwhile, in ms. */
const STOPPED_WRITER_MS = 1;
/** Batches read without a turn of the event loop. */
const BATCHES_PER_TURN = 16;

export class Reader {
  /**
   * Until it is told: the fleet's epoch when the one that was asked for has passed, and it begins at the oldest event; for
   * an observer, the epoch of the file that has taken the place of its own.
   */
  #newEpoch: number | null;
  /** Events lost so far. */
  overwritten = 0;
  /** Events lost before the first record of the last {@link poll}. */
  lost = 0;
  /** The record that {@link next} came to. Its payload is `memory` from `start` to `end`, until the next poll. */
  memory: Buffer<ArrayBuffer> = Buffer.from(new ArrayBuffer(0));
  /** The same; its `slice` copies, which a buffer's does not. */
  bytes: Uint8Array<ArrayBuffer> = new Uint8Array(0);
  position = 0;
  event = 0;
  time = 0;
  kind = 0;
  writer = 0;
  incarnation = 0;
  start = 0;
  end = 0;
  readonly #fleet: Fleet;
  readonly #ring: number;
  readonly #cursor: Pointer;
  #address = 0;
  #doubles: Float64Array = new Float64Array(0);
  #words: Uint32Array = new Uint32Array(0);
  /** Records that {@link next} has not come to, and where the next one lies. */
  #left = 0;
  #at = 0;
  #open = true;
  #toldEpoch: number;
  #foundAt = 0;
  #batches = 0;
  #deaf: (() => void) | null = null;
  #wake: (() => void) | null = null;

  constructor(fleet: Fleet, ring: number, from: From) {
    this.#fleet = fleet;
    this.#ring = ring;
    const handle = fleet.native;
    const place = checkFrom(fleet, ring, from);
    this.#newEpoch = place.isNewEpoch ? fleet.epoch : null;
    this.#toldEpoch = fleet.epoch;
    const cursor = native.sb_cursor_open(handle, ring, place.how, place.position, place.event) as Pointer | null;
    if (!cursor) throw new ResourceError(`a cursor could not be opened: ${errorText(native.sb_error_last())}.`);
    this.#cursor = cursor;
    this.#look();
    if (place.how === C.SB_FROM_POSITION && place.event < 0) this.lost = this.nextPosition - place.position;
    this.overwritten = this.lost;
  }

  get isOpen(): boolean {
    return this.#open;
  }

  /** Of the frame behind the last batch. */
  get nextPosition(): number {
    return this.#doubles[BATCH.position]!;
  }

  /** Number of the event behind the last batch. */
  get nextEvent(): number {
    return this.#doubles[BATCH.event]!;
  }

  /** An epoch that is to be told, once; else `null`. */
  takeNewEpoch(): number | null {
    const epoch = this.#newEpoch;
    this.#newEpoch = null;
    return epoch;
  }

  /** Records of the last batch that {@link next} has not come to. */
  get left(): number {
    return this.#left;
  }

  /** Copies at most `max` events out of the ring; returns how many, and sets {@link lost}. */
  poll(max: number): number {
    if (!this.#open) throw new FleetClosedError("the cursor", "Open a new one, of a fleet that is joined.");
    const count = native.sb_cursor_poll(this.#cursor, max);
    if (count < 0) throw callError(count, "a cursor");
    this.#look();
    this.#left = count;
    this.#at = BATCH.records;
    this.lost = this.#doubles[BATCH.overwritten]!;
    this.overwritten += this.lost;
    this.#batches++;
    if (count > 0 && SPIN_MS > 0) this.#foundAt = performance.now();
    if (count === 0 && this.lost === 0 && this.#fleet.isObserver) this.#lookAtFile();
    return count;
  }

  /** Goes to the next record of the batch; `false` at its end. */
  next(): boolean {
    if (this.#left === 0) return false;
    this.#left--;
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

  /** Whether so much was read that the event loop is to have its turn. */
  isTurnDue(): boolean {
    return this.#batches >= BATCHES_PER_TURN;
  }

  /** The same; and it gets it now. */
  isTurnOver(): boolean {
    const isDue = this.isTurnDue();
    if (isDue) this.#batches = 0;
    return isDue;
  }

  /** The event loop had its turn. */
  beginTurn(): void {
    this.#batches = 0;
  }

  /**
   * Resolves when there may be more to poll, or when {@link close} is called. Looks again on the next turns
   * of the event loop when something came just now; then it sleeps, without a timer. The process stays alive meanwhile.
   */
  async sleep(): Promise<void> {
    this.#batches = 0;
    while (this.#isRecent()) {
      await nextTurn(systemClock);
      if (!this.#open || this.#hasMore()) return;
    }
    const { promise, resolve } = Promise.withResolvers<void>();
    if (!this.#park(resolve)) return;
    this.#fleet.wake.ref();
    try {
      await promise;
    } finally {
      this.#fleet.wake.unref();
    }
  }

  /**
   * Calls `wake` when there may be more to poll, once. `false`: look again on the next turn of the event loop. The process
   * does not stay alive for it.
   */
  listen(wake: () => void): boolean {
    this.#batches = 0;
    return !this.#isRecent() && this.#park(wake);
  }

  readonly #wakeUp = (): void => {
    const wake = this.#wake;
    this.#wake = null;
    wake?.();
  };

  close(): void {
    if (!this.#open) return;
    this.#open = false;
    this.#left = 0;
    this.#wakeUp();
    this.#deaf?.();
    this.#deaf = null;
    detach(this.memory.buffer); // nobody else has it: payloads are copies
    native.sb_cursor_close(this.#cursor);
  }

  /** Nobody tells an observer that its file was replaced: what comes is in another one. */
  #lookAtFile(): void {
    const { epochThere } = this.#fleet;
    if (epochThere === 0 || epochThere === this.#toldEpoch) return;
    this.#toldEpoch = epochThere;
    this.#newEpoch = epochThere;
  }

  #isRecent(): boolean {
    return SPIN_MS > 0 && performance.now() - this.#foundAt < SPIN_MS;
  }

  #hasMore(): boolean {
    return native.sb_ring_head(this.#fleet.native, this.#ring) !== this.nextPosition;
  }

  #park(wake: () => void): boolean {
    if (this.#fleet.isObserver) {
      throw new InvalidConfigError("an observer cannot sleep for events: it writes nothing, not even that it waits.", {
        hint: "Call `poll`, or join the fleet.",
      });
    }
    this.#deaf ??= this.#fleet.wake.listen(this.#wakeUp); // first: what is published from here on is heard
    const when = native.sb_cursor_park(this.#cursor);
    if (when === C.SB_POLL_NOW) return false;
    this.#wake = wake;
    if (when === C.SB_POLL_SOON) setTimeout(this.#wakeUp, STOPPED_WRITER_MS);
    return true;
  }

  /** Looks at the batch where it is now: it moves when a large event comes. */
  #look(): void {
    const address = native.sb_cursor_batch(this.#cursor) as unknown as number;
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

/** What {@link Reader} hands to C. */
interface Place {
  how: number;
  position: number;
  /** -1: unknown. */
  event: number;
  isNewEpoch: boolean;
}

function checkFrom(fleet: Fleet, ring: number, from: From): Place {
  const place: Place = { how: C.SB_FROM_HEAD, position: 0, event: -1, isNewEpoch: false };
  if (from === "head") return place;
  if (from === "oldest") return { ...place, how: C.SB_FROM_OLDEST };
  const {
    epoch,
    position,
    event = -1,
  } = typeof from === "number" ? { epoch: fleet.epoch, position: from } : (from ?? {});
  const isPlace = isCount(epoch) && isCount(position) && (event === -1 || isCount(event));
  if (!isPlace) {
    throw new InvalidConfigError(`from is ${Bun.inspect(from).slice(0, 80)}; a cursor cannot begin there.`, {
      hint: 'Pass "head", "oldest", a position or a bookmark.',
    });
  }
  if (epoch !== fleet.epoch) return { ...place, how: C.SB_FROM_OLDEST, isNewEpoch: true };
  const head = native.sb_ring_head(fleet.native, ring);
  if (position > head) {
    throw new InvalidConfigError(`from is position ${position}; the ring's head is ${head}.`, {
      hint: "Keep bookmarks: they tell positions of an earlier epoch.",
    });
  }
  return { how: C.SB_FROM_POSITION, position, event, isNewEpoch: false };
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}
