/**
 * Decides when a side polls, spins and parks: it polls and handles while that finds work, then parks.
 *
 * A turn polls in rounds without leaving JavaScript: between two rounds the microtasks run, so the code that awaited a
 * response can send its next request before the next poll. After `ROUNDS` rounds the event loop gets its turn. While
 * something may come soon the driver goes on by `setImmediate` for its budget; then it parks: the other side rings a bell,
 * and until then there is no timer, no poll, no wake-up.
 *
 * The budget adapts. Work found while spinning, or a bell soon after parking, sets it to the ceiling; spinning in vain
 * halves it, to nothing. After a pause, a side whose answer needs the other one to wake up first does not spin for it: two
 * sleepers on one processor wake each other fastest when both really sleep. Two busy ones there are in each other's way, so
 * a side that spins leaves the processor that the other one is on.
 */

import type { Clock } from "../../clock.ts";

/** One side of a bus, as its driver sees it. */
export interface Side {
  /** Looks for work for up to `spinNs`, handles it and returns how many events that were. */
  poll(spinNs: number): number;
  /** Whether anything can come; if not, spinning is pointless. */
  mayReceive(): boolean;
  /** Asks the other side to ring. `false`: there is work, poll again. */
  park(): boolean;
  /** Asks for no ring any more. */
  unpark(): void;
  /** Leaves the processor on which the other side was last seen. */
  spread(): void;
}

/** Polls in a row before the event loop gets its turn; a round takes 1-3 µs. */
const ROUNDS = 16;
/** Longest spin inside one poll, in ns; it blocks the thread. */
const SLICE_NS = 2_000;
/** Duration of a turn that finds nothing, in ns: the slice and one pass of the event loop. */
const TURN_NS = SLICE_NS + 500;
/** Bytes that a side copies in, hands out and writes anew while the other side spins for one turn. */
const BYTES_PER_TURN = 8_192;
/** Longest time to spin for bytes that were handed over, in turns: 1 ms. */
const MAX_PATIENCE = 400;
/** Duration of a wake-up in ceilings of the budget: a bell within that time after parking would have been worth spinning for. */
const WORTH = 3;

/** After so many vain spins in a row a side does not spin because of a recent bell: somebody else needs the processor. */
const GIVE_UP = 8;
/** Then it tries again every so many bells, */
const TRY_AGAIN = 64;
/** and after a pause of 20 ms. */
const FORGET_MS = 20;

/** Drives one side of a bus. */
export class Driver {
  readonly #side: Side;
  readonly #clock: Clock;
  readonly #ceiling: number; // turns
  #budget: number; // turns
  #left = 0; // turns
  /** Turns on top of the budget, for what was handed over last. */
  #patience = 0;
  /** Whether a turn runs or is scheduled; otherwise the side is parked. */
  #active = false;
  #stopped = false;
  /** Whether a bell began this turn: what it finds was not found by spinning. */
  #rung = false;
  /** Whether the last hand-over came after a pause: it may be the only one. */
  #cold = false;
  /** Times in a row that spinning found nothing. */
  #vain = 0;
  /** `clock.now()` of parking, or of the last hand-over since. */
  #since = 0;
  /** Times a bell ended the parked state. */
  wakeups = 0;

  constructor(side: Side, spinUs: number, clock: Clock) {
    this.#side = side;
    this.#clock = clock;
    this.#ceiling = Math.ceil((spinUs * 1000) / TURN_NS);
    this.#budget = this.#ceiling;
  }

  /**
   * `bytes` were handed to the other side: an answer or the next request may come soon. The other side needs time to copy them and
   * to write as many, during which this side spins. If the other side must wake up first (`rang`), this side parks, unless both
   * were busy just now.
   */
  expect(bytes: number, rang: boolean): void {
    this.#patience = bytes < BYTES_PER_TURN ? 0 : Math.min(MAX_PATIENCE, Math.ceil(bytes / BYTES_PER_TURN));
    if (this.#active) {
      this.#refill();
      return;
    }
    const recent = this.#isRecent();
    if (recent && rang) this.#patience += WORTH * this.#ceiling; // to be awake when it is: then both stay awake
    if (recent || (this.#budget > 0 && !rang)) {
      this.wake();
    } else {
      this.#since = this.#clock.now();
      this.#cold = true;
    }
  }

  /** Something changed that only a poll finds. */
  wake(): void {
    if (this.#active || this.#stopped) return;
    this.#unpark();
    this.#clock.immediate(this.#turn);
  }

  /** The other side rang. Called by the event loop, so the turn begins at once. */
  ring(): void {
    if (this.#active || this.#stopped) return;
    this.wakeups++;
    this.#isRecent();
    this.#cold = false;
    this.#unpark();
    this.#rung = true;
    this.#turn();
  }

  /** Ends the driver; no poll follows. */
  stop(): void {
    this.#stopped = true;
  }

  /** Whether this side parked or handed something over so recently that spinning on would have paid. */
  #isRecent(): boolean {
    const pause = this.#clock.now() - this.#since;
    if (pause >= FORGET_MS) this.#vain = 0;
    if (pause * 1e6 >= WORTH * this.#ceiling * TURN_NS) return false;
    if (this.#vain >= GIVE_UP && ++this.#vain % TRY_AGAIN !== 0) return false;
    if (!this.#cold) this.#side.spread();
    this.#budget = this.#ceiling;
    return true;
  }

  #unpark(): void {
    this.#active = true;
    this.#side.unpark();
    this.#refill();
  }

  #refill(): void {
    this.#left = this.#budget > 0 ? this.#budget + this.#patience : 0;
  }

  readonly #turn = (): void => {
    if (this.#stopped) return;
    const spin = this.#left > 0 ? SLICE_NS : 0;
    let found = 0;
    for (let round = 0; round < ROUNDS; round++) {
      const now = this.#side.poll(this.#side.mayReceive() ? spin : 0);
      if (now === 0) break;
      found += now;
      this.#clock.drain();
      if (this.#stopped) return;
    }
    if (found > 0) {
      if (spin > 0 && !this.#rung) {
        this.#budget = this.#ceiling;
        this.#vain = 0;
      }
      this.#refill();
    } else if (this.#left > 1) {
      this.#left--;
    } else if (this.#left === 1) {
      this.#left = 0;
      this.#budget >>= 1;
      this.#vain++;
    }
    this.#rung = false;
    if ((this.#left > 0 && this.#side.mayReceive()) || !this.#side.park()) {
      this.#clock.immediate(this.#turn);
      return;
    }
    this.#active = false;
    this.#since = this.#clock.now();
  };
}
