/** A ring of a fleet: whatever one member publishes, every cursor of every member sees, or is told that it is lost. */

import { WholeBody } from "../body.ts";
import { checkInteger, checkOptions } from "../check.ts";
import { InvalidConfigError, PayloadTooLargeError } from "../errors.ts";
import type { FleetGeometry } from "../native/fleet-geometry.ts";
import type { Bookmark, EventRing, From } from "./event-ring.ts";
import { Items } from "./items.ts";
import { type CursorOptions, cursorOptions, ringPublishOptions } from "./options.ts";
import { Reader, type ReaderFleet } from "./reader.ts";

/** An event as it was published. */
export class Frame extends WholeBody {
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
  /** A copy, which is yours to keep. */
  readonly body: Uint8Array<ArrayBuffer>;

  /** @internal The record that `reader` has come to. */
  constructor(reader: Reader) {
    super();
    const { kind, time, writer, incarnation, position, event } = reader;
    this.kind = kind;
    this.time = time;
    this.writer = writer;
    this.incarnation = incarnation;
    this.position = position;
    this.event = event;
    this.body = reader.bytes.slice(reader.start, reader.end);
  }
}

/**
 * What a cursor finds, in order: events, how many were overwritten before it came, and that the file is a new one, of that
 * epoch. What follows a new epoch comes from that file; but an observer stays with its own, and has to observe again.
 */
export type CursorItem = Frame | { readonly overwritten: number } | { readonly epoch: number };

const POLL_MAX = 65_536;
const KIND_MAX = 0xffff_ffff;
const noOptions = {};
const encoder = new TextEncoder();

/** @internal What a ring asks of its fleet. */
export interface RingFleet extends ReaderFleet {
  readonly geometry: FleetGeometry;
  onClose(listener: () => void): () => void;
}

/** A ring of a fleet: plain bytes, published by any member and read by cursors. */
export class Ring implements EventRing {
  readonly name: string;
  /** Frames of the ring. */
  readonly frames: number;
  /** Payload of a frame, in bytes. */
  readonly frameBytes: number;
  /** Size of the largest event, in bytes: a quarter of the ring. */
  readonly payloadBytes: number;
  /** @internal */
  readonly fleet: RingFleet;
  readonly #index: number;

  /** @internal Use `Fleet.ring`. */
  constructor(fleet: RingFleet, index: number) {
    const { name, frames, frameBytes } = fleet.geometry.rings[index]!;
    this.fleet = fleet;
    this.#index = index;
    this.name = name;
    this.frames = frames;
    this.frameBytes = frameBytes;
    this.payloadBytes = Math.floor(frames / 4) * frameBytes;
  }

  /** @internal */
  get isObserver(): boolean {
    return this.fleet.isObserver;
  }

  /** Frames published so far: the position of the next one. */
  get head(): number {
    return this.fleet.handle.head(this.#index);
  }

  /**
   * Publishes bytes, or text as UTF-8, to all cursors. Waits for nobody but another publisher, for microseconds; for one
   * that is stopped in the middle, 1 s.
   *
   * @throws {PayloadTooLargeError}, {@link InvalidConfigError}, {@link FleetBusyError}, {@link ClosedError}.
   */
  publish(payload: Uint8Array | string, options: { kind?: number | undefined } = noOptions): void {
    const kind = options === noOptions ? 0 : kindIn(options);
    this.send(this.#stage(payload), kind);
  }

  /**
   * A place in the ring that moves on as events are read.
   *
   *     for await (const item of ring.cursor()) if ("body" in item) console.log(item.text());
   *
   * @throws {InvalidConfigError}, `RESOURCE`, {@link ClosedError}.
   */
  cursor(options: CursorOptions = {}): Cursor {
    return new Cursor(this, options);
  }

  /** @internal */
  draft(bytes: number): Buffer<ArrayBuffer> {
    return this.fleet.handle.draft(bytes);
  }

  /** @internal */
  send(bytes: number, kind: number): void {
    if (bytes > this.payloadBytes) throw new PayloadTooLargeError("event", bytes, this.payloadBytes);
    if (this.fleet.handle.publish(this.#index, kind, bytes)) this.fleet.wake.ringSoon();
  }

  /** @internal */
  reader(from: From): Reader {
    return new Reader(this.fleet, this.#index, from);
  }

  /** @internal */
  onClose(listener: () => void): () => void {
    return this.fleet.onClose(listener);
  }

  #stage(payload: Uint8Array | string): number {
    const most = this.payloadBytes;
    if (typeof payload === "string") {
      if (payload.length > most) throw new PayloadTooLargeError("event", Buffer.byteLength(payload), most);
      return encoder.encodeInto(payload, this.draft(payload.length * 3)).written;
    }
    if (!(payload instanceof Uint8Array)) {
      throw new InvalidConfigError(`an event is bytes or text, not ${payload === null ? "null" : typeof payload}.`);
    }
    if (payload.length > most) throw new PayloadTooLargeError("event", payload.length, most);
    this.draft(payload.length).set(payload);
    return payload.length;
  }
}

function kindIn(options: { kind?: number | undefined }): number {
  for (const key in checkOptions("a publish", options)) if (key !== "kind") ringPublishOptions.check(options);
  return checkInteger("kind", options.kind ?? 0, 0, KIND_MAX);
}

/** Owned by whoever reads; it slows nobody down. Closed by `close`, by leaving the loop, and with the fleet. */
export class Cursor extends Items<CursorItem> {
  readonly ring: Ring;
  readonly #reader: Reader;
  readonly #batch: number;
  readonly #signal: AbortSignal | null;
  readonly #forget: () => void;
  /** Not told yet. */
  #newEpoch: number | null;
  /** Lost, and not told yet. */
  #untold: number;
  /** Lost so far. */
  #lost: number;
  #position: number;
  #event: number;

  /** @internal Use {@link Ring.cursor}. */
  constructor(ring: Ring, options: CursorOptions) {
    super();
    const { from, batch, signal } = cursorOptions.resolve(options);
    signal?.throwIfAborted();
    this.ring = ring;
    this.#batch = batch;
    this.#signal = signal;
    this.#reader = ring.reader(from ?? "head");
    this.#newEpoch = this.#reader.takeNewEpoch();
    this.#untold = this.#lost = this.#reader.lost;
    this.#position = this.#reader.nextPosition;
    this.#event = this.#reader.nextEvent;
    this.#forget = ring.onClose(() => this.close());
    signal?.addEventListener("abort", this.#abort);
  }

  get closed(): boolean {
    return this.#reader.closed;
  }

  /** Events lost so far because they were overwritten before they were read. */
  get lost(): number {
    return this.#lost;
  }

  /** Place of the next event that was not handed out yet; a later cursor can begin there. */
  get bookmark(): Bookmark {
    return { epoch: this.ring.fleet.epoch, position: this.#position, event: this.#event };
  }

  /** What is there now, at most `max` events. Empty when there is nothing, and when the cursor is closed. */
  poll(max = this.#batch): CursorItem[] {
    checkInteger("max", max, 1, POLL_MAX);
    const items: CursorItem[] = [];
    for (let events = 0; events < max && !this.closed;) {
      const item = this.take();
      if (item) {
        items.push(item);
        if (item instanceof Frame) events++;
      } else if (!this.#fill(max - events)) {
        break;
      }
    }
    return items;
  }

  /** Ends it; a loop over it ends. May be called again. */
  close(): void {
    if (this.closed) return;
    this.#forget();
    this.#signal?.removeEventListener("abort", this.#abort);
    this.#reader.close();
  }

  readonly #abort = (): void => this.fail(this.#signal!.reason);

  protected async read(): Promise<IteratorResult<CursorItem>> {
    if (this.isTurnDue && !this.closed) await this.turn();
    while (!this.closed) {
      const item = this.take();
      if (item) return { done: false, value: item };
      if (!this.#fill(this.#batch)) await this.sleep(this.#reader);
    }
    return this.end();
  }

  /** Looks into the ring; `false` when there is nothing. */
  #fill(max: number): boolean {
    const found = this.#reader.poll(max);
    this.batches++;
    this.#untold += this.#reader.lost;
    this.#lost += this.#reader.lost;
    if (found > 0 || this.#untold > 0) return true;
    this.#moveOn();
    this.#newEpoch = this.#reader.takeNewEpoch();
    return this.#newEpoch !== null;
  }

  protected take(): CursorItem | null {
    const reader = this.#reader;
    if (reader.closed) return null;
    if (this.#newEpoch !== null) {
      const epoch = this.#newEpoch;
      this.#newEpoch = null;
      return { epoch };
    }
    if (this.#untold > 0) {
      const overwritten = this.#untold;
      this.#untold = 0;
      if (reader.left === 0) this.#moveOn();
      return { overwritten };
    }
    if (!reader.next()) return null;
    const frame = new Frame(reader);
    this.#position = frame.position + Math.max(1, Math.ceil(frame.body.length / this.ring.frameBytes));
    this.#event = frame.event + 1;
    return frame;
  }

  #moveOn(): void {
    this.#position = this.#reader.nextPosition;
    this.#event = this.#reader.nextEvent;
  }
}
