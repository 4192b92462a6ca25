/** A ring of a fleet: whatever one member publishes, every cursor of every member sees, or is told that it is lost. */

import { checkInteger, checkOptions, checkSignal } from "../check.ts";
import { nextTurn, systemClock } from "../clock.ts";
import { InvalidConfigError, PayloadTooLargeError } from "../errors.ts";
import type { FleetGeometry } from "../native/fleet-geometry.ts";
import type { FleetHandle } from "../native/fleet.ts";
import { Items } from "./items.ts";
import { type Bookmark, type From, Reader, type ReaderFleet } from "./reader.ts";

/** An event as it was published. */
export interface Frame {
  /** As given to {@link Ring.publish}. */
  readonly kind: number;
  /** Wall clock of the publisher, in ms. */
  readonly time: number;
  /** Index of the member that published it, and which of those that had it. */
  readonly writer: number;
  readonly incarnation: number;
  /** Of its first frame in the ring. */
  readonly position: number;
  /** Its number in the ring, from 0. */
  readonly event: number;
  /** A copy. */
  readonly payload: Uint8Array<ArrayBuffer>;
}

/**
 * What a cursor finds, in order: events, how many were overwritten before it came, and that the file is a new one, of that
 * epoch. What follows a new epoch comes from that file; but an observer stays with its own, and has to observe again.
 */
export type CursorItem = Frame | { readonly overwritten: number } | { readonly epoch: number };

/** Where a cursor begins, and how it reads. */
export interface CursorOptions {
  /**
   * `"head"` (default): what is published from now on. `"oldest"`: all that is still there. A position, or a
   * {@link Cursor.bookmark}: from there on. Of events lost behind a plain position the frames are counted.
   */
  from?: From | undefined;
  /** Events copied out of the ring at once by `for await`. Default 64. */
  batch?: number | undefined;
  /** Ends it: `for await` rejects with `signal.reason`. */
  signal?: AbortSignal | undefined;
}

const BATCH_MAX = 65_536;
const KIND_MAX = 0xffff_ffff;
const encoder = new TextEncoder();

/** @internal What a ring asks of its fleet. */
export interface RingFleet extends ReaderFleet {
  readonly geometry: FleetGeometry;
  onLeave(listener: () => void): () => void;
}

/** A ring of a fleet: plain bytes, published by any member and read by cursors. */
export class Ring {
  readonly name: string;
  /** Frames, and payload bytes of each. */
  readonly frames: number;
  readonly payload: number;
  /** Bytes of the largest event: a quarter of the ring. */
  readonly limit: number;
  /** @internal */
  readonly fleet: RingFleet;
  /** @internal */
  readonly handle: FleetHandle;
  readonly #index: number;

  /** @internal Use `Fleet.ring`. */
  constructor(fleet: RingFleet, index: number) {
    const { name, frames, payload } = fleet.geometry.rings[index]!;
    this.fleet = fleet;
    this.handle = fleet.handle;
    this.#index = index;
    this.name = name;
    this.frames = frames;
    this.payload = payload;
    this.limit = Math.floor(frames / 4) * payload;
  }

  /** Frames published so far: the position of the next one. */
  get head(): number {
    return this.handle.head(this.#index);
  }

  /**
   * Publishes bytes, or text as UTF-8, to all cursors. Waits for nobody but another publisher, for microseconds; for one
   * that is stopped in the middle, 1 s.
   *
   * @throws {PayloadTooLargeError}, {@link InvalidConfigError}, {@link FleetBusyError}, {@link FleetClosedError}.
   */
  publish(payload: Uint8Array | string, options: { kind?: number | undefined } = {}): void {
    const { kind = 0 } = checkOptions("a publish", options);
    if (kind !== 0) checkInteger("kind", kind, 0, KIND_MAX);
    this.send(this.#stage(payload), kind);
  }

  /**
   * A place in the ring that moves on as events are read.
   *
   *     for await (const item of ring.cursor()) if ("payload" in item) console.log(item.payload);
   *
   * @throws {InvalidConfigError}, {@link ResourceError}, {@link FleetClosedError}.
   */
  cursor(options: CursorOptions = {}): Cursor {
    return new Cursor(this, options);
  }

  /** @internal Publishes what lies in the draft. */
  send(bytes: number, kind: number): void {
    if (bytes > this.limit) throw new PayloadTooLargeError("event", bytes, this.limit);
    if (this.handle.publish(this.#index, kind, bytes)) this.fleet.wake.ringSoon();
  }

  /** @internal */
  reader(from: From): Reader {
    return new Reader(this.fleet, this.#index, from);
  }

  #stage(payload: Uint8Array | string): number {
    if (typeof payload === "string") {
      if (payload.length > this.limit) throw new PayloadTooLargeError("event", Buffer.byteLength(payload), this.limit);
      return encoder.encodeInto(payload, this.handle.draft(payload.length * 3)).written;
    }
    if (!(payload instanceof Uint8Array)) {
      throw new InvalidConfigError(`an event is bytes or text, not ${payload === null ? "null" : typeof payload}.`);
    }
    if (payload.length > this.limit) throw new PayloadTooLargeError("event", payload.length, this.limit);
    this.handle.draft(payload.length).set(payload);
    return payload.length;
  }
}

/** Owned by whoever reads; it slows nobody down. Closed by `close`, by leaving the loop, and when the fleet is left. */
export class Cursor extends Items<CursorItem> {
  readonly ring: Ring;
  readonly #reader: Reader;
  readonly #batch: number;
  readonly #signal: AbortSignal | undefined;
  readonly #forget: () => void;
  /** Not told yet. */
  #newEpoch: number | null;
  /** Lost, and not told yet. */
  #lost: number;
  #position: number;
  #event: number;

  /** @internal Use {@link Ring.cursor}. */
  constructor(ring: Ring, options: CursorOptions) {
    super();
    const { from = "head", batch = 64, signal } = checkOptions("a cursor", options);
    checkInteger("batch", batch, 1, BATCH_MAX);
    checkSignal(signal);
    signal?.throwIfAborted();
    this.ring = ring;
    this.#batch = batch;
    this.#signal = signal;
    this.#reader = ring.reader(from);
    this.#newEpoch = this.#reader.takeNewEpoch();
    this.#lost = this.#reader.lost;
    this.#position = this.#reader.nextPosition;
    this.#event = this.#reader.nextEvent;
    this.#forget = ring.fleet.onLeave(() => this.close());
    signal?.addEventListener("abort", this.#abort);
  }

  get isOpen(): boolean {
    return this.#reader.isOpen;
  }

  /** Events lost so far because they were overwritten before they were read. */
  get overwritten(): number {
    return this.#reader.overwritten;
  }

  /** Place of the next event that was not handed out yet; a later cursor can begin there. */
  get bookmark(): Bookmark {
    return { epoch: this.ring.fleet.epoch, position: this.#position, event: this.#event };
  }

  /** What is there now, at most `max` events. Empty when there is nothing, and when the cursor is closed. */
  poll(max = this.#batch): CursorItem[] {
    checkInteger("max", max, 1, BATCH_MAX);
    const items: CursorItem[] = [];
    for (let events = 0; events < max && this.isOpen;) {
      const item = this.take();
      if (item) {
        items.push(item);
        if ("payload" in item) events++;
      } else if (!this.#fill(max - events)) {
        break;
      }
    }
    return items;
  }

  /** Ends it; a loop over it ends. May be called again. */
  close(): void {
    if (!this.isOpen) return;
    this.#forget();
    this.#signal?.removeEventListener("abort", this.#abort);
    this.#reader.close();
  }

  readonly #abort = (): void => this.fail(this.#signal!.reason);

  protected async read(): Promise<IteratorResult<CursorItem>> {
    if (this.isOpen && this.#reader.isTurnOver()) await nextTurn(systemClock);
    while (this.isOpen) {
      const item = this.take();
      if (item) return { done: false, value: item };
      if (!this.#fill(this.#batch)) await this.#reader.sleep();
    }
    return this.end();
  }

  /** Looks into the ring; `false` when there is nothing. */
  #fill(max: number): boolean {
    const found = this.#reader.poll(max);
    this.#lost += this.#reader.lost;
    if (found > 0 || this.#lost > 0) return true;
    this.#moveOn();
    this.#newEpoch = this.#reader.takeNewEpoch();
    return this.#newEpoch !== null;
  }

  protected take(): CursorItem | null {
    const reader = this.#reader;
    if (!reader.isOpen) return null;
    if (this.#newEpoch !== null) {
      const epoch = this.#newEpoch;
      this.#newEpoch = null;
      return { epoch };
    }
    if (this.#lost > 0) {
      const overwritten = this.#lost;
      this.#lost = 0;
      if (reader.left === 0) this.#moveOn();
      return { overwritten };
    }
    if (!reader.next()) return null;
    const { kind, time, writer, incarnation, position, event } = reader;
    const payload = reader.bytes.slice(reader.start, reader.end);
    this.#position = position + Math.max(1, Math.ceil(payload.length / this.ring.payload));
    this.#event = event + 1;
    return { kind, time, writer, incarnation, position, event, payload };
  }

  #moveOn(): void {
    this.#position = this.#reader.nextPosition;
    this.#event = this.#reader.nextEvent;
  }
}
