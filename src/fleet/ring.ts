/** A ring of a fleet. Every cursor of every member reads each event, or learns how many events it missed. */

import { WholeBody } from "../body.ts";
import { checkInteger, checkOptions, shown } from "../check.ts";
import { InvalidConfigError, PayloadTooLargeError } from "../errors.ts";
import type { FleetGeometry } from "../native/fleet-geometry.ts";
import type { Bookmark, EventRing, From } from "./event-ring.ts";
import { Items } from "./items.ts";
import { type CursorOptions, cursorOptions, ringPublishOptions } from "./options.ts";
import { Reader, type ReaderFleet } from "./reader.ts";

/** An event as {@link Ring.publish} published it. */
export class Frame extends WholeBody {
  /** The option `kind` of {@link Ring.publish}. */
  readonly kind: number;
  /** Time of publication by the publisher's wall clock, in ms. */
  readonly time: number;
  /** Index of the member that published the event. */
  readonly writer: number;
  /** Incarnation of that member: distinguishes it from other members with the same index. */
  readonly incarnation: number;
  /** Position of its first frame in the ring. */
  readonly position: number;
  /** Number of the event in the ring, from 0. */
  readonly event: number;
  /** The payload, as a copy that you may keep. */
  readonly body: Uint8Array<ArrayBuffer>;

  /** @internal Copies the current event of `reader`. */
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
 * An item of a cursor: an event, the number of events that were overwritten at this place, or a new epoch. A new epoch
 * means that the fleet has a new file. A member continues with that file; an observer must call `Fleet.observe` again.
 */
export type CursorItem = Frame | { readonly overwritten: number } | { readonly epoch: number };

const POLL_MAX = 65_536;
const KIND_MAX = 0xffff_ffff;
const noOptions = {};
const encoder = new TextEncoder();

/** @internal The parts of a fleet that a ring uses. */
export interface RingFleet extends ReaderFleet {
  readonly geometry: FleetGeometry;
  onClose(listener: () => void): () => void;
}

/** A ring of a fleet. Any member publishes bytes to it and reads them with cursors. */
export class Ring implements EventRing {
  readonly name: string;
  /** Number of frames. */
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

  /** Position of the next frame: the number of frames published so far. */
  get head(): number {
    return this.fleet.handle.head(this.#index);
  }

  /**
   * Publishes bytes, or text as UTF-8, to all cursors. Never waits for readers. Waits microseconds for another
   * publisher of the ring, and up to 1 s if that publisher was stopped (SIGSTOP) in the middle of its publication.
   *
   * @throws {PayloadTooLargeError}, {@link InvalidConfigError}, {@link FleetBusyError}, {@link ClosedError}.
   */
  publish(payload: Uint8Array | string, options: { kind?: number | undefined } = noOptions): void {
    const kind = options === noOptions ? 0 : kindIn(options);
    this.send(this.#stage(payload), kind);
  }

  /**
   * Opens a cursor: a place in the ring that advances with each event that you read.
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
      throw new InvalidConfigError(`payload is ${shown(payload)}; it must be a Uint8Array or text.`);
    }
    if (payload.length > most) throw new PayloadTooLargeError("event", payload.length, most);
    this.draft(payload.length).set(payload);
    return payload.length;
  }
}

function kindIn(options: { kind?: number | undefined }): number {
  for (const key in checkOptions("publish()", options)) if (key !== "kind") ringPublishOptions.check(options);
  return checkInteger("kind", options.kind ?? 0, 0, KIND_MAX);
}

/**
 * A place in a ring for one reader. It does not slow down publishers or other readers. It ends with `close()`, when a
 * loop over it ends, when its signal aborts, and when the fleet is closed.
 */
export class Cursor extends Items<CursorItem> {
  readonly ring: Ring;
  readonly #reader: Reader;
  readonly #batch: number;
  readonly #signal: AbortSignal | null;
  readonly #forget: () => void;
  /** New epoch that {@link take} has not returned yet. */
  #newEpoch: number | null;
  /** Number of lost events that {@link take} has not reported yet. */
  #unreported: number;
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
    this.#unreported = this.#lost = this.#reader.lost;
    this.#position = this.#reader.nextPosition;
    this.#event = this.#reader.nextEvent;
    this.#forget = ring.onClose(() => this.close());
    signal?.addEventListener("abort", this.#abort);
  }

  get closed(): boolean {
    return this.#reader.closed;
  }

  /** Number of events that were overwritten before this cursor read them. */
  get lost(): number {
    return this.#lost;
  }

  /** Place of the next event. Pass it as `from` to continue there with a later cursor. */
  get bookmark(): Bookmark {
    return { epoch: this.ring.fleet.epoch, position: this.#position, event: this.#event };
  }

  /** Returns the items that are available now, at most `max` events. Empty if there are none. */
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

  /** Closes the cursor. A loop over it ends. Calling it again does nothing. */
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

  /** Reads a batch from the ring. Returns `false` if there is nothing new. */
  #fill(max: number): boolean {
    const found = this.#reader.poll(max);
    this.batches++;
    this.#unreported += this.#reader.lost;
    this.#lost += this.#reader.lost;
    if (found > 0 || this.#unreported > 0) return true;
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
    if (this.#unreported > 0) {
      const overwritten = this.#unreported;
      this.#unreported = 0;
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
