/** A cursor that sleeps until there is more to read. */

import { availableParallelism } from "node:os";
import { nextTurn, systemClock } from "../clock.ts";
import { InvalidConfigError } from "../errors.ts";
import { Hold } from "../hold.ts";
import { CursorHandle, type Start } from "../native/cursor.ts";
import type { FleetHandle } from "../native/fleet.ts";
import type { Wake } from "./wake.ts";

/** @internal What a reader asks of its fleet. */
export interface ReaderFleet {
  readonly handle: FleetHandle;
  readonly epoch: number;
  readonly isObserver: boolean;
  readonly wake: Wake;
}

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

/** After the last event a reader looks for so long on each turn of the event loop before it sleeps, in ms. */
const SPIN_MS = availableParallelism() > 1 ? 0.05 : 0;
/** A writer that has stopped in the middle of a publication wakes nobody: a reader looks so often meanwhile, in ms. */
const STOPPED_WRITER_MS = 1;
/** Pause between two looks of an observer at what its fleet's name leads to now. */
const LOOK_MS = 100;
/** Batches read without a turn of the event loop. */
const BATCHES_PER_TURN = 16;

export class Reader extends CursorHandle {
  /**
   * Until it is told: the fleet's epoch when the one that was asked for has passed, and it begins at the oldest event; for
   * an observer, the epoch of the file that has taken the place of its own.
   */
  #newEpoch: number | null;
  /** Events lost so far. */
  overwritten: number;
  readonly #fleet: ReaderFleet;
  readonly #ring: number;
  #toldEpoch: number;
  #lookedAt = -Infinity;
  readonly #hold = new Hold();
  #foundAt = 0;
  #batches = 0;
  #deaf: (() => void) | null = null;
  #wake: (() => void) | null = null;

  constructor(fleet: ReaderFleet, ring: number, from: From) {
    const { start, event, isNewEpoch } = startOf(fleet, ring, from);
    super(fleet.handle, ring, start, event);
    this.#fleet = fleet;
    this.#ring = ring;
    this.#newEpoch = isNewEpoch ? fleet.epoch : null;
    this.#toldEpoch = fleet.epoch;
    this.overwritten = this.lost;
  }

  /** An epoch that is to be told, once; else `null`. */
  takeNewEpoch(): number | null {
    const epoch = this.#newEpoch;
    this.#newEpoch = null;
    return epoch;
  }

  override poll(max: number): number {
    const count = super.poll(max);
    this.overwritten += this.lost;
    this.#batches++;
    if (count > 0 && SPIN_MS > 0) this.#foundAt = systemClock.now();
    if (count === 0 && this.lost === 0 && this.#fleet.isObserver) this.#lookAtFile();
    return count;
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
      if (!this.isOpen || this.#fleet.handle.head(this.#ring) !== this.nextPosition) return;
    }
    const { promise, resolve } = Promise.withResolvers<void>();
    if (!this.#sleepUntil(resolve)) return;
    this.#hold.set(true);
    await promise;
    this.#hold.set(false);
  }

  /**
   * Calls `wake` when there may be more to poll, once. `false`: look again on the next turn of the event loop. The process
   * does not stay alive for it.
   */
  listen(wake: () => void): boolean {
    this.#batches = 0;
    return !this.#isRecent() && this.#sleepUntil(wake);
  }

  readonly #wakeUp = (): void => {
    const wake = this.#wake;
    this.#wake = null;
    wake?.();
  };

  override close(): void {
    if (!this.isOpen) return;
    super.close();
    this.#wakeUp();
    this.#deaf?.();
    this.#deaf = null;
  }

  /** Nobody tells an observer that its file was replaced: what comes is in another one. */
  #lookAtFile(): void {
    const now = systemClock.now();
    if (now - this.#lookedAt < LOOK_MS) return;
    this.#lookedAt = now;
    const epoch = this.#fleet.handle.fileEpoch();
    if (epoch === 0 || epoch === this.#toldEpoch) return;
    this.#toldEpoch = epoch;
    this.#newEpoch = epoch;
  }

  #isRecent(): boolean {
    return SPIN_MS > 0 && systemClock.now() - this.#foundAt < SPIN_MS;
  }

  #sleepUntil(wake: () => void): boolean {
    if (this.#fleet.isObserver) {
      throw new InvalidConfigError("an observer cannot sleep for events: it writes nothing, not even that it waits.", {
        hint: "Call `poll`, or join the fleet.",
      });
    }
    this.#deaf ??= this.#fleet.wake.listen(this.#wakeUp); // first: what is published from here on is heard
    const when = this.park();
    if (when === "now") return false;
    this.#wake = wake;
    if (when === "soon") systemClock.after(STOPPED_WRITER_MS, this.#wakeUp);
    return true;
  }
}

/** Where the cursor of a reader begins; `event`: number of the first one, -1: unknown. */
function startOf(fleet: ReaderFleet, ring: number, from: From): { start: Start; event: number; isNewEpoch: boolean } {
  if (from === "head" || from === "oldest") return { start: from, event: -1, isNewEpoch: false };
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
  if (epoch !== fleet.epoch) return { start: "oldest", event: -1, isNewEpoch: true };
  const head = fleet.handle.head(ring);
  if (position > head) {
    throw new InvalidConfigError(`from is position ${position}; the ring's head is ${head}.`, {
      hint: "Keep bookmarks: they tell positions of an earlier epoch.",
    });
  }
  return { start: position, event, isNewEpoch: false };
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}
