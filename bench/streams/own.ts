/** Measures slotbus alone: the first bytes of a stream, a typed call, many streams at once, a reader that stops. */

import { contract, type Handler, rpc, type SlotBus } from "../../src/index.ts";
import { C } from "../../src/native/abi.ts";
import { CommandError } from "../../src/cli/usage.ts";
import { alternate, closedLoop, makeBodies, median, round } from "../measure.ts";
import { generate, iterate, type Order } from "./source.ts";

/** One case of slotbus alone, with medians of alternating rounds. `ratio` is compared with the goal. */
export type OwnRow = {
  system: "slotbus";
  payload_bytes: number;
  ratio: number;
} & (
  | { case: "first"; first_p50_us: number; round_trip_p50_us: number }
  | { case: "typed"; typed_us: number; request_us: number }
  | { case: "fair"; streams: number; gb_per_second: number }
  | { case: "stall"; ahead_bytes: number; ring_bytes: number; p50_us: number; before_p50_us: number }
);

/** How long these cases measure. */
export interface OwnPlan {
  rounds: number;
  /** Duration of one round of one contestant. */
  roundMs: number;
  leadInMs: number;
  warmUpMs: number;
}

const PIECE_BYTES = 65_536;
const SMALL_BYTES = 64;
/** Number of streams: the default number of slots. */
const STREAMS = 32;
/** Rounds of many streams are longer by this factor, so that each stream has many turns. */
const FAIR_TIMES = 10;
/** Chunks of the stream whose first one is timed. */
const FIRST_CHUNKS = 4;

// ---- the worker's side --------------------------------------------------------------------------------------------------

export const demo = contract("bench", {
  hello: rpc<{ name: string; age: number }, { msg: string; tags: string[] }>(),
});

const input = { name: "Ada", age: 36 };
const output = { msg: "hello Ada", tags: ["a", "b"] };

export const implementation = { hello: () => output };

/** Responds by path: with a stream, with a plain response, or with the progress of the writer of `/stall`. */
export function handler(): Handler {
  let accepted = 0;
  const endless: Order = { how: "generator", chunk: PIECE_BYTES, bytes: Infinity };
  async function* counted(): AsyncGenerator<Uint8Array, void> {
    accepted = 0;
    for await (const chunk of generate(endless)) {
      yield chunk;
      accepted += chunk.length; // the reader has asked for more
    }
  }
  async function* repeated(body: Uint8Array): AsyncGenerator<Uint8Array, void> {
    for (let i = 0; i < FIRST_CHUNKS; i++) yield body;
  }
  return (request) => {
    switch (request.path) {
      case "/echo":
        return request.body;
      case "/source": {
        const order = request.json<Order>();
        return order.how === "loop" ? iterate(order) : generate(order);
      }
      case "/first":
        return repeated(request.body);
      case "/json":
        return request.json<typeof input>().age === input.age ? { json: output } : { status: 400 };
      case "/endless":
        return generate(endless);
      case "/stall":
        return counted();
      case "/accepted":
        return { json: accepted };
      default:
        return { status: 404 };
    }
  };
}

// ---- the client's side --------------------------------------------------------------------------------------------------

const leadIn = (plan: OwnPlan, isWarmUp: boolean): number => (isWarmUp ? plan.warmUpMs : plan.leadInMs);

/** Calls `once` for `plan.roundMs` after a lead-in. Resolves to the ns of each call. */
async function sampleFor(once: () => Promise<number>, ms: number, leadInMs: number): Promise<number[]> {
  const samples: number[] = [];
  const from = Bun.nanoseconds() + leadInMs * 1e6;
  const end = from + ms * 1e6;
  for (let now = 0; now < end || samples.length === 0;) {
    const ns = await once();
    now = Bun.nanoseconds();
    if (now >= from) samples.push(ns);
  }
  return samples;
}

/** Median of each round's ratio. */
function ratioOf(over: readonly number[], under: readonly number[]): number {
  return round(median(over.map((value, i) => value / under[i]!)));
}

const us = (nanoseconds: readonly number[]): number => round(median(nanoseconds) / 1000);

/** Time to the first bytes of a stream, beside a round trip of the same size. */
export async function first(bus: SlotBus, plan: OwnPlan): Promise<OwnRow> {
  const body = makeBodies(SMALL_BYTES, 1)[0]!;
  const trip = async (): Promise<number> => {
    const before = Bun.nanoseconds();
    const reply = await bus.request({ path: "/echo", body });
    const ns = Bun.nanoseconds() - before;
    if (reply.body.length !== SMALL_BYTES) throw new CommandError(`a response has ${reply.body.length} bytes`);
    return ns;
  };
  const stream = async (): Promise<number> => {
    const before = Bun.nanoseconds();
    const chunks = (await bus.stream({ path: "/first", body })).chunks();
    const step = await chunks.next();
    const ns = Bun.nanoseconds() - before;
    let bytes = step.value?.length ?? 0;
    for await (const chunk of chunks) bytes += chunk.length;
    if (bytes !== FIRST_CHUNKS * SMALL_BYTES) throw new CommandError(`${bytes} bytes of a short stream arrived`);
    return ns;
  };
  const results = await alternate([trip, stream], plan.rounds, async (once, isWarmUp) =>
    median(await sampleFor(once, plan.roundMs, leadIn(plan, isWarmUp))),
  );
  const trips = results.get(trip)!;
  const firsts = results.get(stream)!;
  return {
    system: "slotbus",
    case: "first",
    payload_bytes: SMALL_BYTES,
    first_p50_us: us(firsts),
    round_trip_p50_us: us(trips),
    ratio: ratioOf(firsts, trips),
  };
}

/** Calls between two readings of the clock. */
const CALLS = 200;

/** A typed call with a small object, beside an untyped request with the same JSON in user code. */
export async function typed(bus: SlotBus, plan: OwnPlan): Promise<OwnRow> {
  const client = bus.client(demo);
  let seen = 0;
  const request = async (): Promise<void> => {
    seen += (await bus.request({ path: "/json", json: input })).json<typeof output>().msg.length;
  };
  const call = async (): Promise<void> => void (seen += (await client.hello(input)).msg.length);
  const results = await alternate([request, call], plan.rounds, async (one, isWarmUp) => {
    const batch = async (): Promise<number> => {
      const before = Bun.nanoseconds();
      for (let i = 0; i < CALLS; i++) await one();
      return (Bun.nanoseconds() - before) / CALLS;
    };
    return median(await sampleFor(batch, plan.roundMs, leadIn(plan, isWarmUp)));
  });
  if (!(seen > 0)) throw new CommandError("no call got a response");
  const [requests, calls] = [results.get(request)!, results.get(call)!];
  return {
    system: "slotbus",
    case: "typed",
    payload_bytes: JSON.stringify(input).length,
    typed_us: us(calls),
    request_us: us(requests),
    ratio: ratioOf(calls, requests),
  };
}

/** Many streams of one worker: bytes of the slowest stream, divided by the average. */
export async function fair(bus: SlotBus, plan: OwnPlan): Promise<OwnRow> {
  const one = async (isWarmUp: boolean): Promise<{ ratio: number; speed: number }> => {
    const bytes = new Float64Array(STREAMS);
    let isOver = false;
    const read = async (_: unknown, i: number): Promise<void> => {
      const into = new Uint8Array(PIECE_BYTES);
      const response = await bus.stream({ path: "/endless" });
      for await (const piece of response.chunks({ into })) {
        bytes[i]! += piece.length;
        if (isOver) break;
      }
    };
    const reading = Promise.all(Array.from({ length: STREAMS }, read));
    await Promise.race([reading, Bun.sleep(leadIn(plan, isWarmUp))]);
    const before = bytes.slice();
    const start = Bun.nanoseconds();
    await Promise.race([reading, Bun.sleep(FAIR_TIMES * plan.roundMs)]);
    const seconds = (Bun.nanoseconds() - start) / 1e9;
    const got = bytes.map((value, i) => value - before[i]!);
    isOver = true;
    await reading;
    const total = got.reduce((sum, value) => sum + value, 0);
    return { ratio: Math.min(...got) / (total / STREAMS), speed: total / seconds / 1e9 };
  };
  const results = (await alternate(["fair"], plan.rounds, (_, isWarmUp) => one(isWarmUp))).get("fair")!;
  return {
    system: "slotbus",
    case: "fair",
    payload_bytes: PIECE_BYTES,
    streams: STREAMS,
    gb_per_second: round(median(results.map(({ speed }) => speed))),
    ratio: round(median(results.map(({ ratio }) => ratio))),
  };
}

/** Waits until the writer of `/stall` makes no more progress. Resolves to its progress in bytes. */
async function settled(bus: SlotBus): Promise<number> {
  const accepted = async (): Promise<number> => (await bus.request({ path: "/accepted" })).json<number>();
  let before = -1;
  for (let now = await accepted(); now !== before || now === 0; now = await accepted()) {
    before = now;
    await Bun.sleep(20);
  }
  return before;
}

/** A reader stops after one piece: how far its writer gets, and how long round trips take meanwhile. */
export async function stall(bus: SlotBus, plan: OwnPlan): Promise<OwnRow> {
  const bodies = makeBodies(SMALL_BYTES, 1);
  const call = (body: Uint8Array) => bus.request({ path: "/echo", body });
  let ahead = 0;
  const one = async (isWarmUp: boolean): Promise<number> => {
    const limits = { samples: Infinity, minimum: 20, ms: plan.roundMs, leadInMs: leadIn(plan, isWarmUp) };
    return median((await closedLoop(call, bodies, limits)).latencies);
  };
  const stalled = async (isWarmUp: boolean): Promise<number> => {
    const chunks = (await bus.stream({ path: "/stall" })).chunks();
    const taken = (await chunks.next()).value?.length ?? 0;
    await settled(bus);
    const p50 = await one(isWarmUp);
    ahead = Math.max(ahead, (await settled(bus)) - taken);
    await chunks.return();
    return p50;
  };
  const kinds = [one, stalled];
  const results = await alternate(kinds, plan.rounds, (kind, isWarmUp) => kind(isWarmUp));
  if (ahead <= 0) throw new CommandError("the writer did not get ahead of its stopped reader");
  return {
    system: "slotbus",
    case: "stall",
    payload_bytes: PIECE_BYTES,
    ahead_bytes: ahead,
    ring_bytes: C.SB_RING_MAX,
    p50_us: us(results.get(stalled)!),
    before_p50_us: us(results.get(one)!),
    ratio: ratioOf(results.get(stalled)!, results.get(one)!),
  };
}
