/** Rounds of one contestant, and what several alternating rounds say together. */

/** One call of a contestant that checks what came back. */
export type Call = (body: Uint8Array) => Promise<Uint8Array>;

/** Latencies of one round in nanoseconds, and what it took altogether. */
export interface Round {
  latencies: number[];
  seconds: number;
}

/** When a round ends: after `samples`, or after `ms` when that is earlier and `minimum` samples are there. */
export interface Limits {
  samples: number;
  minimum: number;
  ms: number;
}

/** A reply that is not the request. */
export class WrongReplyError extends Error {}

let counter = 0;

/** Bodies of one size; each call changes the first bytes, so that no stale reply passes. */
export function makeBodies(bytes: number, count: number): Uint8Array[] {
  return Array.from({ length: count }, (_, i) => new Uint8Array(bytes).map((_, at) => (at * 31 + i) & 255));
}

function stamp(body: Uint8Array): void {
  counter = (counter + 1) >>> 0;
  body[0] = counter;
  body[1] = counter >>> 8;
  body[2] = counter >>> 16;
  body[3] = counter >>> 24;
}

function check(reply: Uint8Array, body: Uint8Array): void {
  if (reply.length !== body.length || Buffer.compare(reply, body) !== 0) {
    throw new WrongReplyError(`a reply of ${reply.length} bytes is not the request of ${body.length} bytes`);
  }
}

/** As many callers as bodies, each asking again as soon as it is answered. */
export async function closedLoop(call: Call, bodies: Uint8Array[], limits: Limits): Promise<Round> {
  const latencies: number[] = [];
  const start = Bun.nanoseconds();
  const end = start + limits.ms * 1e6;
  let left = limits.samples;
  const caller = async (body: Uint8Array): Promise<void> => {
    while (left-- > 0) {
      stamp(body);
      const before = Bun.nanoseconds();
      const reply = await call(body);
      const after = Bun.nanoseconds();
      check(reply, body);
      latencies.push(after - before);
      if (after > end && latencies.length >= limits.minimum) left = 0;
    }
  };
  await Promise.all(bodies.map(caller));
  return { latencies, seconds: (Bun.nanoseconds() - start) / 1e9 };
}

/** One request each millisecond, so that both sides have gone to sleep. */
export async function sparseLoop(call: Call, body: Uint8Array, samples: number): Promise<Round> {
  const latencies: number[] = [];
  const start = Bun.nanoseconds();
  for (let i = 0; i < samples; i++) {
    await Bun.sleep(1);
    stamp(body);
    const before = Bun.nanoseconds();
    const reply = await call(body);
    latencies.push(Bun.nanoseconds() - before);
    check(reply, body);
  }
  return { latencies, seconds: (Bun.nanoseconds() - start) / 1e9 };
}

function quantile(sorted: ArrayLike<number>, q: number): number {
  return sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))] ?? 0;
}

export function median(values: readonly number[]): number {
  return quantile(
    values.toSorted((a, b) => a - b),
    0.5,
  );
}

/** What rounds say together: medians over the rounds, in µs. p99.9 of all samples, `null` under 10 000 of them. */
export interface Summary {
  p50_us: number;
  p90_us: number;
  p99_us: number;
  p999_us: number | null;
  requests_per_second: number;
  samples: number;
}

const P999_SAMPLES = 10_000;

export function summarise(rounds: readonly Round[]): Summary {
  const sorted = rounds.map(({ latencies }) => Float64Array.from(latencies).sort());
  const us = (q: number): number => round(median(sorted.map((latencies) => quantile(latencies, q))) / 1000);
  const samples = rounds.reduce((sum, { latencies }) => sum + latencies.length, 0);
  const all = samples >= P999_SAMPLES ? Float64Array.from(rounds.flatMap(({ latencies }) => latencies)).sort() : null;
  return {
    p50_us: us(0.5),
    p90_us: us(0.9),
    p99_us: us(0.99),
    p999_us: all && round(quantile(all, 0.999) / 1000),
    requests_per_second: Math.round(median(rounds.map(({ latencies, seconds }) => latencies.length / seconds))),
    samples,
  };
}

/** Three decimals: nanoseconds of a value in µs. */
export function round(value: number): number {
  return Math.round(value * 1000) / 1000;
}
