/** Real time and real processes, in place of the classes of `clock.ts`. */

import { type Clock, sleep, systemClock } from "../../../src/clock.ts";
import { native } from "../../../src/native/library.ts";
import { processState } from "../../prove/actor.ts";
import { VirtualTime } from "../clock.ts";
import type { Link } from "../link.ts";
import type { Host } from "../processes.ts";

/** The link of a claim above a real wire: there is none. */
export const NO_LINK = null as unknown as Link;

/** Period of the pulse of a process, in ms; and a delay of one from which on the process was paused: delays add up. */
const PULSE_MS = 10;
const PAUSE_MS = 4;
/** Longest timeout of a call, in ms. */
const CALL_MS = 900;
/** Longest time from the proof of a death until /proc shows it, in ms. */
const DEATH_MS = 100;

/** Time since the beginning of the world, in ms, the same in all its processes. */
export class RealTime extends VirtualTime {
  readonly #tasks = new Set<NodeJS.Timeout>();

  /** `epoch`: the time of the machine at the beginning. */
  constructor(epoch: number) {
    super();
    Object.defineProperty(this, "now", { get: () => native.sb_now_ms() - epoch });
  }

  override after(ms: number, run: () => void): ReturnType<VirtualTime["after"]> {
    const task = { at: this.now + ms, serial: 0, run: run as (() => void) | null };
    const timer = setTimeout(() => {
      this.#tasks.delete(timer);
      task.run?.();
    }, ms);
    this.#tasks.add(timer);
    return task;
  }

  /** Cancels what is planned. */
  end(): void {
    for (const timer of this.#tasks) clearTimeout(timer);
  }
}

/** The pauses of a process: it was stopped, or the machine was busy. Its pulse is in memory that other processes may share. */
export class Pauses {
  readonly #words: Int32Array;
  readonly #time: VirtualTime;

  constructor(words: Int32Array, time: VirtualTime) {
    this.#words = words;
    this.#time = time;
  }

  /** Starts the pulse of this process. */
  start(): NodeJS.Timeout {
    this.#words[0] = this.#time.now;
    return setInterval(() => {
      const { now } = this.#time;
      if (this.#isLate(now)) this.#words[1] = now;
      this.#words[0] = now;
    }, PULSE_MS);
  }

  #isLate(now: number): boolean {
    return now - this.#words[0]! > PULSE_MS + PAUSE_MS;
  }

  /** Whether the process was paused within the last `ms`, or while a call may have waited before. */
  has(ms: number): boolean {
    const { now } = this.#time;
    const last = this.#words[1]!;
    return this.#isLate(now) || (last > 0 && now - last < ms + CALL_MS);
  }
}

/** A process of a real world. */
export abstract class RealHost implements Host {
  abstract readonly pid: number;
  readonly time: VirtualTime;
  isDead = false;
  readonly timers = 0;
  readonly now: Clock["now"] = systemClock.now;
  readonly after: Clock["after"] = systemClock.after;
  readonly immediate: Clock["immediate"] = systemClock.immediate;
  readonly random: Clock["random"] = systemClock.random;
  readonly drain: Clock["drain"] = systemClock.drain;

  constructor(time: VirtualTime) {
    this.time = time;
  }

  /** Waits a little for the proof: the file of a process shows its end slightly later than its sockets do. */
  get isProvenDead(): boolean {
    const end = systemClock.now() + DEATH_MS;
    for (;;) {
      if (/^[ZX]?$/.test(processState(this.pid))) return true;
      if (systemClock.now() > end) return false;
    }
  }

  later(ms: number, run: () => void): unknown {
    return this.time.after(ms, () => {
      if (!this.isDead) run();
    });
  }

  pause(ms: number): Promise<void> {
    return sleep(this, ms);
  }

  abstract wasStopped(ms: number): boolean;
  abstract readonly stop: (ms: number) => void;
}

/** This process. */
export class OwnHost extends RealHost {
  readonly pid = process.pid;
  readonly stop: (ms: number) => void;
  readonly #pauses: Pauses;

  /** `stop`: has this process stopped for some ms. */
  constructor(time: VirtualTime, pauses: Pauses, stop: (ms: number) => void) {
    super(time);
    this.#pauses = pauses;
    this.stop = stop;
  }

  wasStopped(ms: number): boolean {
    return this.#pauses.has(ms);
  }
}

/** Another process: only its id is known. */
export class PeerHost extends RealHost {
  pid: number;
  readonly stop: (ms: number) => void;

  constructor({ time }: Host, pid: number, stop: (ms: number) => void = () => {}) {
    super(time as VirtualTime);
    this.pid = pid;
    this.stop = stop;
  }

  wasStopped(): boolean {
    return true;
  }
}
