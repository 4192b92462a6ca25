/** Reads a ring of a fleet, and sleeps until there are more events. */

import { availableParallelism } from "node:os";
import { systemClock } from "../clock.ts";
import { InvalidConfigError } from "../errors.ts";
import { CursorHandle } from "../native/cursor.ts";
import type { FleetHandle } from "../native/fleet.ts";
import { type EventReader, type From, startOf } from "./event-ring.ts";
import type { Wake } from "./wake.ts";

/** @internal The parts of a fleet that a reader uses. */
export interface ReaderFleet {
  readonly handle: FleetHandle;
  readonly epoch: number;
  readonly isObserver: boolean;
  readonly wake: Wake;
}

/** Time after the last event in which a reader polls on each turn of the event loop before it sleeps, in ms. */
const SPIN_MS = availableParallelism() > 1 ? 0.05 : 0;
/** Polling interval while a stopped writer holds the ring's lock, in ms. The writer cannot wake readers. */
const STOPPED_WRITER_MS = 1;
/** Interval at which an observer checks whether the fleet's file was replaced, in ms. */
const FILE_CHECK_MS = 100;

export class Reader extends CursorHandle implements EventReader {
  /**
   * A new epoch that {@link takeNewEpoch} has not returned yet. For a bookmark with another epoch, this is the fleet's
   * epoch; for an observer, it is the epoch of the file that replaced the observed file.
   */
  #newEpoch: number | null;
  readonly #fleet: ReaderFleet;
  #toldEpoch: number;
  #checkedAt = -Infinity;
  #foundAt = 0;
  #unlisten: (() => void) | null = null;
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
    if (count === 0 && this.lost === 0 && this.#fleet.isObserver) this.#checkFile();
    return count;
  }

  /** Polls on each turn for a short time after the last event (returns `false`), then sleeps without a timer. */
  listen(wake: () => void): boolean {
    if (SPIN_MS > 0 && systemClock.now() - this.#foundAt < SPIN_MS) return false;
    if (this.#fleet.isObserver) {
      throw new InvalidConfigError("An observer cannot wait for events: it has no write access to the fleet's file.", {
        hint: "Call `poll()`, or join the fleet with `Fleet.join`.",
      });
    }
    this.#unlisten ??= this.#fleet.wake.listen(this.#wakeUp); // before park(): events in between must wake it
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
    this.#unlisten?.();
    this.#unlisten = null;
  }

  /** Checks whether another file has replaced the observed one. Nothing notifies an observer of it. */
  #checkFile(): void {
    const now = systemClock.now();
    if (now - this.#checkedAt < FILE_CHECK_MS) return;
    this.#checkedAt = now;
    const epoch = this.#fleet.handle.fileEpoch();
    if (epoch === 0 || epoch === this.#toldEpoch) return;
    this.#toldEpoch = epoch;
    this.#newEpoch = epoch;
  }
}
