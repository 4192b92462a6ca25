/**
 * Virtual time. A world runs in one macrotask: its tasks run one after another, in the order of their times, and after each task all
 * microtasks run. So the same tasks always run in the same order, and no real time passes between them.
 */

import { drainMicrotasks } from "bun:jsc";
import type { Clock, Timer } from "../../src/clock.ts";
import type { Die } from "./choices.ts";

/** A scheduled call; it is cancelled when `run` is set to `null`. */
interface Task {
  at: number;
  /** Order of tasks with the same time. */
  serial: number;
  run: (() => void) | null;
}

/** Time of all processes of a world, in ms. */
export class VirtualTime {
  now = 1_000;
  /** Time that passes with each reading of a clock, in ms. */
  cost = 0;
  /** Number of tasks that ran. */
  steps = 0;
  /** Tasks as a binary heap. */
  readonly #heap: Task[] = [];
  #turn: (() => void)[] = [];
  #serial = 0;

  /** Runs `run` after `ms`. */
  after(ms: number, run: () => void): Task {
    const task: Task = { at: this.now + ms, serial: ++this.#serial, run };
    const heap = this.#heap;
    let at = heap.length;
    heap.push(task);
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!isBefore(task, heap[parent]!)) break;
      heap[at] = heap[parent]!;
      at = parent;
    }
    heap[at] = task;
    return task;
  }

  /** Runs `run` in the next turn, after all tasks that are due now. */
  immediate(run: () => void): void {
    this.#turn.push(run);
  }

  /** Runs all tasks. Returns `false` if there are still tasks after `limit` steps. Call it from a macrotask only. */
  run(limit: number): boolean {
    drainMicrotasks();
    for (; this.steps < limit; this.steps++) {
      const first = this.#heap[0];
      if (this.#turn.length > 0 && !(first && first.at <= this.now)) {
        const turn = this.#turn;
        this.#turn = [];
        for (const run of turn) {
          run();
          drainMicrotasks();
        }
      } else if (first) {
        this.#remove();
        const { run } = first;
        if (!run) continue;
        this.now = Math.max(this.now, first.at);
        run();
        drainMicrotasks();
      } else return true;
    }
    return false;
  }

  /** Removes the first task of the heap. */
  #remove(): void {
    const heap = this.#heap;
    const last = heap.pop()!;
    if (heap.length === 0) return;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && isBefore(heap[child + 1]!, heap[child]!)) child++;
      if (!isBefore(heap[child]!, last)) break;
      heap[at] = heap[child]!;
      at = child;
    }
    heap[at] = last;
  }
}

function isBefore(a: Task, b: Task): boolean {
  return a.at === b.at ? a.serial < b.serial : a.at < b.at;
}

/** A process of a world: the clock of its library, which stops with the process. */
export class Process implements Clock {
  readonly time: VirtualTime;
  readonly pid: number;
  readonly #die: Die;
  /** Time of the end, in ms; `Infinity` while the process lives. */
  #diedAt = Infinity;
  /** Time from the end until others can see that it has ended, in ms. */
  readonly #proofMs: number;
  #stoppedAt = 0;
  /** Time until which the process is stopped (SIGSTOP), in ms. */
  #stoppedUntil = 0;
  /** What came due while the process was stopped. */
  readonly #waiting: (() => void)[] = [];
  /** Number of timers of the library that have not fired and are not closed. */
  timers = 0;

  constructor(time: VirtualTime, pid: number, die: Die) {
    this.time = time;
    this.pid = pid;
    this.#die = die;
    this.#proofMs = die.small("proof of death", 60);
  }

  /** Ends the process (SIGKILL): nothing runs in it from now on. */
  kill(): void {
    this.#diedAt = Math.min(this.#diedAt, this.time.now);
  }

  get isDead(): boolean {
    return this.#diedAt !== Infinity;
  }

  /** Whether others can see that the process has ended. */
  get isProvenDead(): boolean {
    return this.time.now >= this.#diedAt + this.#proofMs;
  }

  /** Stops the process for `ms`: nothing runs in it meanwhile. */
  stop(ms: number): void {
    if (!this.isStopped) this.#stoppedAt = this.time.now;
    this.#stoppedUntil = Math.max(this.#stoppedUntil, this.time.now + ms);
    this.time.after(ms, this.#goOn);
  }

  /** Runs what waited for the end of the stop, in the order in which it came: frames do not overtake each other. */
  readonly #goOn = (): void => {
    while (this.#waiting.length > 0 && !this.isStopped && !this.isDead) {
      this.#waiting.shift()!();
      drainMicrotasks();
    }
  };

  /** Whether the process was stopped within the last `ms`. */
  wasStopped(ms: number): boolean {
    return this.#stoppedUntil > 0 && this.time.now < this.#stoppedUntil + ms;
  }

  /** Time since the process was stopped, in ms. */
  get stoppedFor(): number {
    return this.time.now - this.#stoppedAt;
  }

  /** Whether the process is stopped now. */
  get isStopped(): boolean {
    return this.time.now < this.#stoppedUntil;
  }

  /** Runs `run` in this process after `ms`, or as soon as the process continues. Never if the process has died. */
  later(ms: number, run: () => void): Task {
    return this.time.after(ms, () => {
      if (this.isDead) return;
      if (this.isStopped || this.#waiting.length > 0) this.#waiting.push(run);
      else run();
    });
  }

  readonly now = (): number => (this.time.now += this.time.cost);

  /** Resolves after `ms`, for code of the world: unlike a timer of the library, it is not counted. */
  pause(ms: number): Promise<void> {
    return new Promise((resolve) => void this.later(Math.ceil(ms), resolve));
  }

  readonly after = (ms: number, done: () => void): Timer => {
    let isOpen = true;
    this.timers++;
    const close = (): void => {
      if (isOpen) this.timers--;
      isOpen = false;
    };
    this.later(Math.max(0, Math.ceil(ms)), () => {
      if (!isOpen) return;
      close();
      done();
    });
    return { close, ref: () => {}, unref: () => {} };
  };

  readonly immediate = (done: () => void): void => {
    this.time.immediate(() => {
      if (this.isDead) return;
      if (this.isStopped) this.later(0, done);
      else done();
    });
  };

  readonly random = (): number => this.#die.below("random", 1_000) / 1_000;

  readonly drain = (): void => drainMicrotasks();
}
