/** A reader of a fleet's ring, which is told when there is more to read. */

import { availableParallelism } from "node:os";
import { systemClock } from "../clock.ts";
import { InvalidConfigError } from "../errors.ts";
import { CursorHandle } from "../native/cursor.ts";
import type { FleetHandle } from "../native/fleet.ts";
import { type EventReader, type From, startOf } from "./event-ring.ts";
import type { Wake } from "./wake.ts";

/** @internal What a reader asks of its fleet. */
export interface ReaderFleet {
  readonly handle: FleetHandle;
  readonly epoch: number;
  readonly isObserver: boolean;
  readonly wake: Wake;
}

/** After the last event a reader looks for so long on each turn of the event loop before it sleeps, in ms. */
const SPIN_MS = availableParallelism() > 1 ? 0.05 : 0;
/** A writer that has stopped in the middle of a publication wakes nobody: a reader looks so often meanwhile, in ms. */
const STOPPED_WRITER_MS = 1;
/** Pause between two looks of an observer at what its fleet's name leads to now. */
const LOOK_MS = 100;

export class Reader extends CursorHandle implements EventReader {
  /**
   * Until it is told: the fleet's epoch when the one that was asked for has passed, and it begins at the oldest event; for
   * an observer, the epoch of the file that has taken the place of its own.
   */
  #newEpoch: number | null;
  readonly #fleet: ReaderFleet;
  #toldEpoch: number;
  #lookedAt = -Infinity;
  #foundAt = 0;
  #deaf: (() => void) | null = null;
  #wake: (() => void) | null = null;

  constructor(fleet: ReaderFleet, ring: number, from: From) {
    const { start, event, isNewEpoch } = startOf(from, fleet.epoch, () => fleet.handle.head(ring));
    super(fleet.handle, ring, start, event);
    this.#fleet = fleet;
    this.#newEpoch = isNewEpoch ? fleet.epoch : null;
    this.#toldEpoch = fleet.epoch;
  }

  takeNewEpoch(): number | null {
    const epoch = this.#newEpoch;
    this.#newEpoch = null;
    return epoch;
  }

  override poll(max: number): number {
    const count = super.poll(max);
    if (count > 0 && SPIN_MS > 0) this.#foundAt = systemClock.now();
    if (count === 0 && this.lost === 0 && this.#fleet.isObserver) this.#lookAtFile();
    return count;
  }

  /** Looks again on the next turns of the event loop when something came just now; then it sleeps, without a timer. */
  listen(wake: () => void): boolean {
    if (SPIN_MS > 0 && systemClock.now() - this.#foundAt < SPIN_MS) return false;
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

  readonly #wakeUp = (): void => {
    const wake = this.#wake;
    this.#wake = null;
    wake?.();
  };

  override close(): void {
    if (this.closed) return;
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
}
