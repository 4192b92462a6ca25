/**
 * The event-loop driver, one per side: poll, handle, poll again while that finds work, then park.
 *
 * A turn polls in rounds without leaving JavaScript: between two rounds the microtasks run, so the code that
 * awaited a response can send its next request before the next poll. After `ROUNDS` rounds the event
 * loop gets its turn. When nothing is found the driver goes on by `setImmediate` for its budget, then parks:
 * the other side rings a bell, and until then there is no timer, no poll, no wake-up.
 *
 * The budget adapts. Work found while spinning, or soon after parking, sets it to the ceiling; spinning in
 * vain halves it, to nothing.
 */

import { drainMicrotasks } from "bun:jsc";
import { availableParallelism } from "node:os";

/** What a driver drives. */
export interface Side {
  /** Looks for work for up to `spinNs`, handles what it finds and returns how much that was. */
  poll(spinNs: number): number;
  /** Tells the other side to ring. `false`: there is work, poll again. */
  park(): boolean;
  unpark(): void;
}

/** Polls in a row before the event loop gets its turn; a round takes 1-3 µs. */
const ROUNDS = 16;
/** Longest spin inside one poll, in nanoseconds; it blocks the thread for that long. */
const SLICE_NS = 2_000;
/** What a turn costs that finds nothing: the slice and one pass of the event loop. */
const TURN_NS = SLICE_NS + 500;
/** What a side copies in, hands to somebody and writes anew while the other spins for one turn. */
const BYTES_PER_TURN = 8_192;
/** 1 ms. */
const MAX_PATIENCE = 400;
/** A wake-up this many ceilings after parking would have been worth spinning for. */
const WORTH = 3;

/** Default of the option `spin`, in microseconds: 50, or 0 where there is one processor only. */
export const DEFAULT_SPIN_US = availableParallelism() > 1 ? 50 : 0;

export class Driver {
  readonly #side: Side;
  readonly #ceiling: number; // turns
  #budget: number; // turns
  #left = 0; // turns
  /** Turns on top of the budget for what was handed over last. */
  #patience = 0;
  /** A turn runs or is scheduled; otherwise the side is parked. */
  #active = false;
  #stopped = false;
  #since = 0;
  /** Times the driver left its parked state. */
  wakeups = 0;

  constructor(side: Side, spinUs: number) {
    this.#side = side;
    this.#ceiling = Math.ceil((spinUs * 1000) / TURN_NS);
    this.#budget = this.#ceiling;
  }

  /**
   * `bytes` were handed to the other side: an answer may come soon, or a next request. It needs time to copy them and to
   * write as many, which is no reason to park.
   */
  expect(bytes: number): void {
    this.#patience = bytes < BYTES_PER_TURN ? 0 : Math.min(MAX_PATIENCE, Math.ceil(bytes / BYTES_PER_TURN));
    if (this.#active) this.#refill();
    else if (this.#budget > 0) this.#start();
    else this.#since = Bun.nanoseconds(); // stays parked: the bell will ring
  }

  /** The other side rang, or something changed that only a poll can see. */
  wake(): void {
    if (this.#active || this.#stopped) return;
    this.wakeups++;
    const late = Bun.nanoseconds() - this.#since;
    if (late < WORTH * this.#ceiling * TURN_NS) this.#budget = this.#ceiling;
    this.#start();
  }

  /** Ends it; no poll follows. */
  stop(): void {
    this.#stopped = true;
  }

  #refill(): void {
    this.#left = this.#budget > 0 ? this.#budget + this.#patience : 0;
  }

  #start(): void {
    if (this.#stopped) return;
    this.#active = true;
    this.#side.unpark();
    this.#refill();
    setImmediate(this.#turn);
  }

  readonly #turn = (): void => {
    if (this.#stopped) return;
    const spin = this.#left > 0 ? SLICE_NS : 0;
    let found = 0;
    for (let round = 0; round < ROUNDS; round++) {
      const now = this.#side.poll(spin);
      if (now === 0) break;
      found += now;
      drainMicrotasks();
      if (this.#stopped) return;
    }
    if (found > 0) {
      if (spin > 0) this.#budget = this.#ceiling;
      this.#refill();
    } else if (--this.#left <= 0) {
      this.#budget >>= 1;
      if (this.#side.park()) {
        this.#active = false;
        this.#since = Bun.nanoseconds();
        return;
      }
    }
    setImmediate(this.#turn);
  };
}
