/** What a stdio bus counts. */

/** Counters since the bus was made, and how it is now. `In` is towards the workers, `Out` from them. */
export interface StdioStats {
  messagesIn: number;
  bytesIn: number;
  messagesOut: number;
  bytesOut: number;
  /** Times a worker was started again after its process had ended. */
  workerRestarts: number;
  /** Ids of the pools that are paused now, because their workers end too often. */
  paused: string[];
  /** Messages for a pool that there is not. */
  routingErrors: number;
  /** Connections to servers of the bus. */
  clientConnects: number;
  clientDisconnects: number;
  /** Connections that a server closed: their bytes were not JSON-RPC, or they did not send the token. */
  clientRefusals: number;
  /** Requests that workers have now. */
  inFlight: number;
  /** Requests that wait for one. */
  waiting: number;
  /** Items that subscriptions lost by their policy, and notifications that clients did not take. */
  dropped: number;
  /** Answers that came when their caller had given up. */
  late: number;
  /** What workers wrote that is no message, or none that fits. */
  protocolErrors: number;
  /** Of all requests, from the call to the answer, in ms; 0 when there was none. */
  p50: number;
  p99: number;
  /** Processes that run. */
  workers: {
    pool: string;
    worker: number;
    life: number;
    pid: number;
    inFlight: number;
    /** Bytes that its pipe has not taken. */
    queuedBytes: number;
  }[];
}

/** Buckets for each doubling of a latency. */
const STEPS = 8;

/** Latencies in buckets that are an eighth wide: an answer of `quantile` is off by a sixteenth at most. */
export class Latencies {
  readonly #counts = new Uint32Array(32 * STEPS);
  #total = 0;

  add(ms: number): void {
    const us = Math.max(1, ms * 1_000) >>> 0;
    this.#total++;
    if (us < STEPS) {
      this.#counts[us]!++;
      return;
    }
    const shift = 28 - Math.clz32(us); // leaves four bits, the first of which is set
    this.#counts[(shift + 1) * STEPS + (us >>> shift) - STEPS]!++;
  }

  /** In ms: the middle of the bucket in which that part of all ends; 0 when there are none. */
  quantile(part: number): number {
    let left = Math.ceil(this.#total * part);
    if (left === 0) return 0;
    for (let at = 0; at < this.#counts.length; at++) {
      left -= this.#counts[at]!;
      if (left > 0) continue;
      if (at < STEPS) return at / 1_000;
      const shift = Math.floor(at / STEPS) - 1;
      return (((at % STEPS) + STEPS + 0.5) * 2 ** shift) / 1_000;
    }
    return 0;
  }
}
