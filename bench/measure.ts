/** Measures rounds of contestants and summarises them. */

import { CommandError } from "../src/cli/usage.ts";

/** Sends a body. Resolves to the body that came back, or to an object that has it. */
export type Call = (body: Uint8Array) => Promise<Uint8Array | { readonly body: Uint8Array }>;

/** Latencies of one round in ns, and its duration. */
export interface Round {
  latencies: Float64Array;
  seconds: number;
}

/** A round ends after `samples`, or after `ms` if that is earlier and there are `minimum` samples. */
export interface Limits {
  /** Requests of this time at the start do not count, in ms. Default 0. */
  leadInMs?: number;
  samples: number;
  minimum: number;
  ms: number;
}

/** A round that a client in another language measures: with `sparse`, that number of requests, one per millisecond. */
export interface Order extends Omit<Limits, "samples"> {
  readonly bytes: number;
  readonly inFlight: number;
  readonly sparse: number;
}

let counter = 0;

/** Makes `count` bodies of one size, at least 4 bytes. */
export function makeBodies(bytes: number, count: number): Uint8Array[] {
  return Array.from({ length: count }, (_, i) => new Uint8Array(bytes).map((_, at) => (at * 31 + i) & 255));
}

/** Writes a new number into a body, so that the response to another request is noticed. */
function stamp(body: Uint8Array): void {
  counter = (counter + 1) >>> 0;
  body[0] = counter;
  body[1] = counter >>> 8;
  body[2] = counter >>> 16;
  body[3] = counter >>> 24;
}

function check(answer: Awaited<ReturnType<Call>>, body: Uint8Array): void {
  const reply = answer instanceof Uint8Array ? answer : answer.body;
  if (reply.length !== body.length)
    throw new CommandError(`a response has ${reply.length} bytes, its request had ${body.length}`);
  if (Buffer.compare(reply, body) !== 0) {
    const at = reply.findIndex((byte, i) => byte !== body[i]);
    throw new CommandError(`a response of ${reply.length} bytes differs from its request at byte ${at}`);
  }
}

/** Samples of the current round. All rounds use one buffer, so that measuring produces no garbage. */
let samples = new Float64Array(1 << 20);

function record(index: number, nanoseconds: number): void {
  if (index === samples.length) {
    const longer = new Float64Array(2 * samples.length);
    longer.set(samples);
    samples = longer;
  }
  samples[index] = nanoseconds;
}

/** Runs one caller per body. Each sends its next request as soon as it has checked the response. */
export async function closedLoop(call: Call, bodies: Uint8Array[], limits: Limits): Promise<Round> {
  let count = 0;
  let start = Bun.nanoseconds();
  const from = start + (limits.leadInMs ?? 0) * 1e6;
  const end = from + limits.ms * 1e6;
  let left = limits.samples;
  const caller = async (body: Uint8Array): Promise<void> => {
    while (left-- > 0) {
      stamp(body);
      const before = Bun.nanoseconds();
      const reply = await call(body);
      const after = Bun.nanoseconds();
      check(reply, body);
      if (after < from) start = after;
      else record(count++, after - before);
      if (after > end && count >= limits.minimum) left = 0;
    }
  };
  await Promise.all(bodies.map(caller));
  return { latencies: samples.slice(0, count), seconds: (Bun.nanoseconds() - start) / 1e9 };
}

/** Sends one request per millisecond by Bun's timer, so that both sides sleep in between. */
export async function sparseLoop(call: Call, body: Uint8Array, count: number): Promise<Round> {
  const start = Bun.nanoseconds();
  for (let i = 0; i < count; i++) {
    const tick = Bun.sleep(1);
    stamp(body);
    const before = Bun.nanoseconds();
    const reply = await call(body);
    record(i, Bun.nanoseconds() - before);
    check(reply, body);
    await tick;
  }
  return { latencies: samples.slice(0, count), seconds: (Bun.nanoseconds() - start) / 1e9 };
}

/** Requests of {@link offeredLoop} that may wait for their responses at once. */
const MOST_OFFERED = 1_000;
/** Grain of Bun's timer, in ns. */
const TICK = 1e6;

/**
 * Offers `rate` requests per second for `ms`, by Bun's timer in groups of one per millisecond, whether earlier ones have been
 * answered or not. A latency counts from when the request was due, so that a pause counts for all requests that it delays;
 * delays of the timer up to a millisecond do not count.
 */
export async function offeredLoop(call: Call, bytes: number, rate: number, ms: number): Promise<Round> {
  const free = makeBodies(bytes, MOST_OFFERED);
  const start = Bun.nanoseconds();
  const total = Math.floor((rate * ms) / 1000);
  let [sent, answered] = [0, 0];
  const one = async (body: Uint8Array, from: number): Promise<void> => {
    stamp(body);
    const reply = await call(body);
    record(answered++, Bun.nanoseconds() - from);
    check(reply, body);
    free.push(body);
  };
  const failed = Promise.withResolvers<never>();
  while (answered < total) {
    const due = Math.min(total, Math.floor(((Bun.nanoseconds() - start) * rate) / 1e9));
    for (; sent < due && free.length > 0; sent++) {
      const dueAt = start + ((sent + 1) * 1e9) / rate;
      one(free.pop()!, Math.min(Bun.nanoseconds(), dueAt + TICK)).catch(failed.reject);
    }
    await Promise.race([Bun.sleep(1), failed.promise]);
  }
  return { latencies: samples.slice(0, answered), seconds: (Bun.nanoseconds() - start) / 1e9 };
}

/**
 * Runs each contestant once to warm up (`isWarmUp`), then `rounds` times in turn. The order is reversed in every second
 * round, so that no contestant always follows the same one. Resolves to the rounds by contestant.
 */
export async function alternate<T, R>(
  contestants: readonly T[],
  rounds: number,
  run: (contestant: T, isWarmUp: boolean) => R | Promise<R>,
): Promise<Map<T, R[]>> {
  const results = new Map<T, R[]>(contestants.map((contestant) => [contestant, []]));
  for (let i = 0; i <= rounds; i++) {
    for (const contestant of i % 2 === 0 ? contestants : contestants.toReversed()) {
      const result = await run(contestant, i === 0);
      if (i > 0) results.get(contestant)!.push(result);
    }
  }
  return results;
}

function quantile(sorted: ArrayLike<number>, q: number): number {
  return sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))] ?? 0;
}

/** Returns the middle value, or the upper of the two middle values. */
export function median(values: ArrayLike<number>): number {
  return quantile(Float64Array.from(values).sort(), 0.5);
}

/** Requests per second of a round. */
export function perSecond({ latencies, seconds }: Round): number {
  return latencies.length / seconds;
}

/** Medians over the rounds, in µs; p99.9 is of all samples together, `null` for fewer than 10 000. */
export interface Summary {
  p50_us: number;
  p90_us: number;
  p99_us: number;
  p999_us: number | null;
  requests_per_second: number;
}

const P999_SAMPLES = 10_000;

/** Summarises the rounds of one contestant in one case. */
export function summarise(rounds: readonly Round[]): Summary {
  const sorted = rounds.map(({ latencies }) => Float64Array.from(latencies).sort());
  const us = (q: number): number => round(median(sorted.map((latencies) => quantile(latencies, q))) / 1000);
  const all = new Float64Array(rounds.reduce((sum, { latencies }) => sum + latencies.length, 0));
  let at = 0;
  for (const { latencies } of rounds) {
    all.set(latencies, at);
    at += latencies.length;
  }
  all.sort();
  return {
    p50_us: us(0.5),
    p90_us: us(0.9),
    p99_us: us(0.99),
    p999_us: all.length >= P999_SAMPLES ? round(quantile(all, 0.999) / 1000) : null,
    requests_per_second: Math.round(median(rounds.map(perSecond))),
  };
}

/** Rounds to three decimals: a value in µs to ns. */
export function round(value: number): number {
  return Math.round(value * 1000) / 1000;
}
