/**
 * Decides when a side of a bus polls, spins and parks.
 *
 * A turn polls in rounds without leaving JavaScript. Between two rounds the microtasks run, so code that awaited a response can
 * send its next request before the next poll. After `ROUNDS` rounds the event loop runs. While work may arrive soon, the driver
 * continues with `setImmediate` until its budget is used up. Then it parks: until the other side rings the doorbell there is no
 * timer, no poll and no wake-up.
 *
 * The budget adapts. If spinning finds work, or the doorbell rings soon after parking, the budget becomes the ceiling. Each vain
 * spin halves it, down to 0. After a pause, a side that had to wake the other one does not spin for the response: two sleeping
 * processes on one processor wake each other fastest when both really sleep. Two busy processes on one processor block each
 * other, so a side that spins moves away from the other side's processor. Among many other programs, no side spins
 * (`contention.ts`).
 */

import type { Spinning } from "../../bus/stats.ts";
import type { Driven } from "../../bus/wire.ts";
import type { Clock } from "../../clock.ts";
import { BATCH, Contention, SINGLE } from "./contention.ts";

/** The part of one side of a bus that its driver uses. */
export interface Side {
  /** Polls for events for up to `spinNs`, handles them and returns their number. */
  poll(spinNs: number): number;
  /** Holds the bells until {@link ring}, so that one bell tells the other side of all that is sent meanwhile. */
  hold(): void;
  ring(): void;
  /** Whether an event can arrive; if not, spinning is useless. */
  mayReceive(): boolean;
  /** Asks the other side to ring the doorbell. Returns `false` if there is work already. */
  park(): boolean;
  /** Tells the other side that no doorbell is needed. */
  unpark(): void;
  /** Moves away from the processor on which the other side was last seen. */
  spread(): void;
}

/** Number of polls before the event loop runs; a round takes 1-3 µs. */
const ROUNDS = 16;
/** Longest spin inside one poll, in ns; it blocks the thread. */
const SLICE_NS = 2_000;
/** Duration of a turn that finds nothing, in ns: the slice and one pass of the event loop. */
const TURN_NS = SLICE_NS + 500;
/** Bytes that a side reads, processes and writes while the other side spins for one turn. */
const BYTES_PER_TURN = 8_192;
/** Longest spin for bytes that were sent, in turns: 1 ms. */
const MAX_PATIENCE = 400;
/**
 * Duration of a wake-up, as a multiple of the ceiling. If the doorbell rings within this time after parking, spinning would have
 * paid.
 */
const WORTH = 3;

/** After this number of consecutive vain spins, a side ignores recent doorbells: another process needs the processor. */
const GIVE_UP = 8;
/** It then tries again after this number of doorbells, */
const TRY_AGAIN = 64;
/** or after a pause of this time. */
const FORGET_MS = 20;

/** After this number of messages without a pause a side moves away from the other one's processor. */
const STREAK = 4;

/** Two bells within this time are a burst of messages. */
const BURST_MS = 0.1;

/** Polls that find this number of messages on average find batches. */
const MANY = 4;

/** Drivers of this thread that hold bells. */
const holding = new Set<Driver>();

/** Rings all bells that are held in this thread. Call it before the thread blocks. */
export function ringAll(): void {
  for (const driver of holding) driver.release();
}

/** Drives one side of a bus. */
export class Driver {
  readonly #side: Side;
  readonly #clock: Clock;
  readonly #single: Contention;
  readonly #batch: Contention;
  readonly #ceiling: number; // turns
  #budget: number; // turns
  #left = 0; // turns
  /** Turns added to the budget for the bytes that were sent last. */
  #patience = 0;
  /** Whether a turn runs or is scheduled; otherwise the side is parked. */
  #active = false;
  /** Moving average of the messages that a poll finds. */
  #messages = 0;
  #stopped = false;
  #holds = false;
  /** `clock.now()` of the last bell that rang outside of a turn. */
  #rangAt = -1;
  /** Whether a turn runs now. */
  #turns = false;
  /** Whether the doorbell started this turn, so that its work was not found by spinning. */
  #rung = false;
  /** Whether the last bytes were sent after a pause: no more may follow. */
  #cold = false;
  /** Number of messages since the last pause that found this side parked. */
  #streak = 0;
  /** Number of consecutive spins that found nothing. */
  #vain = 0;
  /** `clock.now()` when the side parked, or when it last sent bytes since. */
  #since = 0;
  /** Number of times that the doorbell ended the parked state. */
  #wakeups = 0;

  /** `single`, `batch`: contention for single messages and for batches. */
  constructor(
    side: Side,
    spinUs: number,
    clock: Clock,
    single = new Contention(SINGLE),
    batch = new Contention(BATCH),
  ) {
    this.#side = side;
    this.#clock = clock;
    this.#single = single;
    this.#batch = batch;
    this.#ceiling = Math.ceil((spinUs * 1000) / TURN_NS);
    this.#budget = this.#ceiling;
  }

  get #spinning(): Spinning {
    if (this.#ceiling === 0) return "off";
    if (this.#isContended) return "contended";
    return this.#budget === 0 ? "vain" : "on";
  }

  driven(): Driven {
    return { wakeups: this.#wakeups, spinning: this.#spinning };
  }

  /**
   * Called when `bytes` bytes were sent: a response or the next request may arrive soon. This side spins while the other side
   * copies them and writes as many. If the other side must wake up first (`rang`), this side parks, unless both were busy a
   * moment ago.
   */
  expect(bytes: number, rang: boolean): void {
    if (rang && !this.#holds && !this.#turns) this.#gather();
    this.#patience = bytes < BYTES_PER_TURN ? 0 : Math.min(MAX_PATIENCE, Math.ceil(bytes / BYTES_PER_TURN));
    if (this.#active) {
      this.#refill();
      return;
    }
    const recent = this.#isRecent();
    if (recent && rang) this.#patience += WORTH * this.#ceiling; // stay awake until the other side is: then both stay awake
    if (recent || (this.#budget > 0 && !rang)) {
      this.wake();
    } else {
      this.#since = this.#clock.now();
      this.#cold = true;
    }
  }

  /** Called when a bell rang outside of a turn. If one rang just before, the next ones of this job ring at its end. */
  #gather(): void {
    const now = this.#clock.now();
    if (now - this.#rangAt < BURST_MS) {
      this.hold();
      queueMicrotask(this.#release);
    }
    this.#rangAt = now;
  }

  /** Starts a turn, after a change that only a poll finds. */
  wake(): void {
    if (this.#active || this.#stopped) return;
    this.#unpark();
    this.#clock.immediate(this.#turn);
  }

  /** Called by the event loop when the other side rang the doorbell: runs a turn at once. */
  ring(): void {
    if (this.#active || this.#stopped) return;
    this.#wakeups++;
    this.#isRecent();
    this.#cold = false;
    this.#unpark();
    this.#rung = true;
    this.#turn();
  }

  /** Holds the bells of this side until {@link release}. */
  hold(): void {
    this.#holds = true;
    holding.add(this);
    this.#side.hold();
  }

  release(): void {
    if (!this.#holds) return;
    this.#holds = false;
    holding.delete(this);
    if (!this.#stopped) this.#side.ring();
  }

  readonly #release = (): void => this.release();

  /** Stops the driver; no poll follows. */
  stop(): void {
    this.#stopped = true;
  }

  /** Whether this side parked or sent bytes so recently that spinning longer would have paid. */
  #isRecent(): boolean {
    const now = this.#clock.now();
    const pause = now - this.#since;
    if (pause >= FORGET_MS) this.#vain = 0;
    if (pause * 1e6 >= WORTH * this.#ceiling * TURN_NS) {
      this.#streak = 0;
      return false;
    }
    if (this.#contends(now)) return false;
    if (!this.#cold && ++this.#streak === STREAK) this.#vain = 0; // it moves now
    if (this.#vain >= GIVE_UP && ++this.#vain % TRY_AGAIN !== 0) return false;
    if (!this.#cold && this.#streak >= STREAK) this.#side.spread();
    this.#budget = this.#ceiling;
    return true;
  }

  get #isContended(): boolean {
    return this.#single.isHigh || (this.#messages >= MANY && this.#batch.isHigh);
  }

  /** Looks whether contention is high now. */
  #contends(now: number): boolean {
    this.#single.look(now);
    if (this.#messages >= MANY) this.#batch.look(now);
    return this.#isContended;
  }

  #unpark(): void {
    this.#active = true;
    this.#side.unpark();
    this.#refill();
  }

  #refill(): void {
    this.#left = this.#budget > 0 && !this.#isContended ? this.#budget + this.#patience : 0;
  }

  readonly #turn = (): void => {
    if (this.#stopped) return;
    this.#turns = true;
    if (this.#left > 0 && this.#contends(this.#clock.now())) this.#left = 0;
    const spin = this.#left > 0 ? SLICE_NS : 0;
    let found = 0;
    for (let round = 0; round < ROUNDS; round++) {
      const now = this.#side.poll(this.#side.mayReceive() ? spin : 0);
      if (now === 0) break;
      found += now;
      this.#messages += (now - this.#messages) / 8;
      this.#clock.drain();
      this.release();
      if (this.#stopped) return;
    }
    this.#turns = false;
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
