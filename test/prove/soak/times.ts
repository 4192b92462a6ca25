/**
 * Records when processes were killed and continued, and the delays of others, in shared memory that outlives killed
 * processes. Times are `Date.now()`, because all processes read the same value from that clock.
 */

import { closeSync, ftruncateSync, openSync } from "node:fs";
import { join } from "node:path";

/** Delays that are kept, in whole ms. */
export const SERIES = [
  /** From the kill of a worker until the client reports it with an event or a rejection. */
  "worker killed",
  /** The same delay from the time at which the client saw that the process was gone. */
  "worker gone",
  /** From the same kills to the end of a bare socket in a process that does nothing else. */
  "worker control",
  /** From the kill of the client to each worker's `disconnected`. */
  "client killed",
  "client control",
  /** Lateness of requests that settled after their deadline, without the time for which their client had no processor. */
  "after the deadline",
  /** The same for requests that failed because their worker died. */
  "after the death",
  /** Lateness of the timers of a process that does nothing else. */
  "timer control",
] as const;
export type Series = (typeof SERIES)[number];

const BUCKETS = 16_384;
const PIDS = 65_536;

/** With fewer samples, the 99th percentile is the worst one or two, mere noise of the machine; the 95th is judged instead. */
export const FEW = 300;

/** Count, percentiles and maximum of a series, in ms. */
export interface Delays {
  count: number;
  p50: number;
  p95: number;
  p99: number;
  /** The second longest; the longest if there is no other. */
  second: number;
  max: number;
}

/** Delays counted by `buckets`: bucket n counts delays of n / `perMs` ms. */
export function delaysIn(buckets: Uint32Array, perMs = 1): Delays {
  const count = buckets.reduce((sum, n) => sum + n, 0);
  const nth = (rank: number): number => {
    let left = Math.max(1, rank);
    const bucket = buckets.findIndex((n) => (left -= n) <= 0);
    return Math.max(0, bucket) / perMs;
  };
  const at = (quantile: number): number => nth(Math.ceil(quantile * count));
  return { count, p50: at(0.5), p95: at(0.95), p99: at(0.99), second: nth(count - 1), max: nth(count) };
}

export class Times {
  readonly #buckets: Uint32Array;
  /** Times by pid: killed, continued, and death noticed. */
  readonly #killed: Float64Array;
  readonly #continued: Float64Array;
  readonly #heard: Float64Array;
  /** Times at which the last client was killed, and at which the client was last continued. */
  readonly #client: Float64Array;

  static create(directory: string): Times {
    const file = openSync(join(directory, "times"), "wx");
    ftruncateSync(file, 3 * PIDS * 8 + 16 + SERIES.length * BUCKETS * 4);
    closeSync(file);
    return new Times(directory);
  }

  constructor(directory: string) {
    const { buffer, byteOffset } = Bun.mmap(join(directory, "times"), { shared: true });
    const table = (n: number): Float64Array => new Float64Array(buffer, byteOffset + n * PIDS * 8, PIDS);
    this.#killed = table(0);
    this.#continued = table(1);
    this.#heard = table(2);
    this.#client = new Float64Array(buffer, byteOffset + 3 * PIDS * 8, 2);
    this.#buckets = new Uint32Array(buffer, byteOffset + 3 * PIDS * 8 + 16, SERIES.length * BUCKETS);
  }

  /** Forgets the previous process with the pid of a new process. */
  born(pid: number): void {
    for (const table of [this.#killed, this.#continued, this.#heard]) table[pid % PIDS] = 0;
  }

  /** Kills a process. Records the time before the kill, because others may notice at once, and again after it. */
  kill(pid: number, isClient: boolean): void {
    this.#stampKill(pid, isClient);
    process.kill(pid, "SIGKILL");
    this.#stampKill(pid, isClient);
  }

  /** Records that a process was seen to be gone, where the delay starts. */
  gone(pid: number): void {
    this.#killed[pid % PIDS] = -Date.now();
  }

  #stampKill(pid: number, isClient: boolean): void {
    const now = Date.now();
    this.#killed[pid % PIDS] = now;
    if (isClient) this.#client[0] = now;
  }

  /** Records that a process is about to be continued. */
  continue(pid: number, isClient: boolean): void {
    this.#continued[pid % PIDS] = Date.now();
    if (isClient) this.#client[1] = Date.now();
  }

  /** Time at which a worker was killed; `Infinity` if it was not. */
  killedAt(pid: number): number {
    return Math.abs(this.#killed[pid % PIDS]!) || Infinity;
  }

  get clientKilledAt(): number {
    return this.#client[0]!;
  }

  get clientContinuedAt(): number {
    return this.#client[1]!;
  }

  /** Records that the client noticed the end of a worker; only the first time counts. */
  hear(pid: number): void {
    const killed = this.#killed[pid % PIDS]!;
    if (killed === 0 || this.#heard[pid % PIDS]! > 0) return;
    this.#heard[pid % PIDS] = Date.now();
    const since = Math.max(Math.abs(killed), this.clientContinuedAt);
    this.add(killed > 0 ? "worker killed" : "worker gone", Date.now() - since);
  }

  /** Records that this process, a worker, noticed the end of its client. */
  hearClient(): void {
    this.add("client killed", Date.now() - Math.max(this.clientKilledAt, this.#continued[process.pid % PIDS]!));
  }

  add(series: Series, ms: number): void {
    const bucket = Math.max(0, Math.min(BUCKETS - 1, Math.round(ms)));
    Atomics.add(this.#buckets, SERIES.indexOf(series) * BUCKETS + bucket, 1);
  }

  read(series: Series): Delays {
    const start = SERIES.indexOf(series) * BUCKETS;
    return delaysIn(this.#buckets.subarray(start, start + BUCKETS));
  }
}

export function delaysText({ count, p50, p99, max }: Delays): string {
  return `p50 ${p50} ms, p99 ${p99} ms, max ${max} ms of ${count}`;
}
