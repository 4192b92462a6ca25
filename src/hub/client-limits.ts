/** Limits of each client of a hub: running requests, and requests per second. */

import { Failure, RETRY } from "./failure.ts";
import type { ResolvedHubOptions } from "./options.ts";

/** What one client uses. */
interface Use {
  /** Requests that run. */
  running: number;
  /** Requests that may begin now without waiting for the next second. */
  tokens: number;
  /** `performance.now()` when `tokens` was computed. */
  at: number;
}

/** Clients that are remembered at most. Above it, those without a running request are forgotten, the oldest first. */
const CLIENTS_MAX = 100_000;
/** Time between two searches for clients that no longer use anything, in ms. */
const SWEEP_MS = 1_000;

/** Limits the running requests, and the requests per second, of each client. */
export class ClientLimits {
  readonly #concurrency: number;
  /** Requests per second. */
  readonly #rate: number;
  readonly #burst: number;
  readonly #uses = new Map<string, Use>();
  #sweptAt = 0;

  /** Returns `null` if the options limit nothing. */
  static of(options: ResolvedHubOptions["perClient"]): ClientLimits | null {
    return options.concurrency === null && options.rate === null ? null : new ClientLimits(options);
  }

  constructor({ concurrency, rate, burst }: ResolvedHubOptions["perClient"]) {
    this.#concurrency = concurrency ?? Infinity;
    this.#rate = rate ?? Infinity;
    this.#burst = rate === null ? Infinity : (burst ?? rate);
  }

  /** Number of clients that are remembered. */
  get size(): number {
    return this.#uses.size;
  }

  /** Begins a request at the time `now`. Call the returned function when it has ended. @throws {Failure} 429 above a limit. */
  enter(address: string, now: number): () => void {
    const key = clientKey(address);
    if (now - this.#sweptAt > SWEEP_MS) this.#sweep(now);
    let use = this.#uses.get(key);
    if (use === undefined) {
      if (this.#uses.size >= CLIENTS_MAX) this.#forgetOne();
      this.#uses.set(key, (use = { running: 0, tokens: this.#burst, at: now }));
    }
    this.#refill(use, now);
    if (use.running >= this.#concurrency)
      throw new Failure(429, "CLIENT_LIMIT", `This client already has ${use.running} requests running.`, RETRY);
    if (use.tokens < 1) {
      const seconds = Math.ceil((1 - use.tokens) / this.#rate);
      const what = `This client sends more than ${this.#rate} requests per second.`;
      throw new Failure(429, "CLIENT_LIMIT", what, { "retry-after": String(seconds) });
    }
    use.tokens -= 1;
    use.running += 1;
    let hasEnded = false;
    return () => {
      if (!hasEnded) use.running -= 1;
      hasEnded = true;
    };
  }

  #refill(use: Use, now: number): void {
    if (use.tokens < this.#burst)
      use.tokens = Math.min(this.#burst, use.tokens + ((now - use.at) / 1_000) * this.#rate);
    use.at = now;
  }

  /** Forgets the clients that have no running request and may send a whole burst. */
  #sweep(now: number): void {
    this.#sweptAt = now;
    for (const [key, use] of this.#uses) {
      this.#refill(use, now);
      if (use.running === 0 && use.tokens >= this.#burst) this.#uses.delete(key);
    }
  }

  #forgetOne(): void {
    for (const [key, { running }] of this.#uses) {
      if (running > 0) continue;
      this.#uses.delete(key);
      return;
    }
  }
}

/** Identifies a client: an IPv4 address, or the first 64 bits of an IPv6 address, which one client may have as a whole. */
export function clientKey(address: string): string {
  const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(address)?.[1];
  if (mapped !== undefined || !address.includes(":")) return mapped ?? address;
  const [left = "", right = ""] = address.toLowerCase().split("::", 2);
  const head = left === "" ? [] : left.split(":");
  const tail = right === "" ? [] : right.split(":");
  const groups = address.includes("::")
    ? [...head, ...Array<string>(Math.max(0, 8 - head.length - tail.length)).fill("0"), ...tail]
    : head;
  return groups
    .slice(0, 4)
    .map((group) => Number.parseInt(group, 16).toString(16))
    .join(":");
}

/** Returns the response; `ended` is called when its body has been sent, or when the client has disconnected. */
export function untilSent(response: Response, signal: AbortSignal, ended: () => void): Response {
  if (response.body === null) {
    ended();
    return response;
  }
  signal.addEventListener("abort", ended, { once: true });
  const reader = response.body.getReader();
  const source = {
    async pull(controller: ReadableStreamDefaultController<Uint8Array>): Promise<void> {
      try {
        const { done, value } = await reader.read();
        if (!done) return controller.enqueue(value);
        ended();
        controller.close();
      } catch (error) {
        ended();
        throw error;
      }
    },
    cancel(reason: unknown): Promise<void> {
      ended();
      return reader.cancel(reason);
    },
  };
  const { status, statusText, headers } = response;
  return new Response(new ReadableStream(source, { highWaterMark: 0 }), { status, statusText, headers });
}
