/** Rounds of one contestant, and what several alternating rounds say together. */

import { CommandError } from "../usage.ts";

/** Sends a body; resolves to the one that came back, or to what has it. */
export type Call = (body: Uint8Array) => Promise<Uint8Array | { readonly body: Uint8Array }>;

/** Latencies of one round in nanoseconds, and what it took altogether. */
export interface Round {
  latencies: Float64Array;
  seconds: number;
}

/** When a round ends: after `samples`, or after `ms` when that is earlier and `minimum` samples are there. */
export interface Limits {
  /** What is done in the first so many ms does not count. Default 0. */
  leadInMs?: number;
  samples: number;
  minimum: number;
  ms: number;
}

let counter = 0;

/** `count` bodies of one size, at least 4 bytes. */
export function makeBodies(bytes: number, count: number): Uint8Array[] {
  return Array.from({ length: count }, (_, i) => new Uint8Array(bytes).map((_, at) => (at * 31 + i) & 255));
}

/** Gives a body a number of its own, so that no reply to another request passes. */
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
    throw new CommandError(`a reply has ${reply.length} bytes, its request had ${body.length}`);
  if (Buffer.compare(reply, body) !== 0) {
    const at = reply.findIndex((byte, i) => byte !== body[i]);
    throw new CommandError(`a reply of ${reply.length} bytes differs from its request at byte ${at}`);
  }
}

/** Samples of the round that runs; one buffer for all rounds, so that measuring makes no garbage. */
let samples = new Float64Array(1 << 20);

function record(index: number, nanoseconds: number): void {
  if (index === samples.length) {
    const longer = new Float64Array(2 * samples.length);
    longer.set(samples);
    samples = longer;
  }
  samples[index] = nanoseconds;
}

/** As many callers as bodies, each asking again as soon as its reply is checked. */
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

/** One request each millisecond, as Bun's timer counts it: both sides have gone to sleep in between. */
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

/**
 * Runs each contestant once to warm up (`isWarmUp`), then `rounds` times in turn, there and back, so that none always
 * follows the same other one. Resolves to the rounds by contestant.
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

/** The middle value; of an even number the upper one of the two. */
export function median(values: ArrayLike<number>): number {
  return quantile(Float64Array.from(values).sort(), 0.5);
}

/** Requests per second of a round. */
export function perSecond({ latencies, seconds }: Round): number {
  return latencies.length / seconds;
}

/** What rounds say together: medians over the rounds, in µs. p99.9 of all samples, `null` under 10 000 of them. */
export interface Summary {
  p50_us: number;
  p90_us: number;
  p99_us: number;
  p999_us: number | null;
  requests_per_second: number;
}

const P999_SAMPLES = 10_000;

/** Sums up the rounds of one contestant in one case. */
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

/** Three decimals: nanoseconds of a value in µs. */
export function round(value: number): number {
  return Math.round(value * 1000) / 1000;
}
