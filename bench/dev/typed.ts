/**
 * Compares a typed call with an untyped request, with an untyped request plus JSON in user code, and with JSON alone.
 * Measures the items of a typed stream and the time to the first item: `bun bench/dev/typed.ts`. All take turns in short
 * rounds; the program prints medians of the times and of each round's ratios.
 */

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { do_not_optimize } from "mitata";
import { contract, rpc, SlotBus, SlotWorker, stream } from "../../src/index.ts";

type Greeting = { msg: string; tags: string[] };
const demo = contract("demo", {
  hello: rpc<{ name: string; age: number }, Greeting>(),
  many: stream<number, Greeting>(),
});
const input = { name: "Ada", age: 36 };
const output = { msg: "hello Ada", tags: ["a", "b"] };
const requestText = JSON.stringify(input);
const answerText = JSON.stringify(output);
const ROUNDS = 101;
const CALLS = 2_000;
const STREAMS = 200;
const ITEMS = 10_000;

function median(values: number[]): number {
  return values.sort((a, b) => a - b)[values.length >> 1]!;
}

async function nsPerCall(call: () => unknown, calls = CALLS): Promise<number> {
  const started = performance.now();
  for (let i = 0; i < calls; i++) do_not_optimize(await call());
  return ((performance.now() - started) * 1e6) / calls;
}

const name = process.argv[2];
if (name) {
  const worker = await SlotWorker.open({ name });
  worker.implement(demo, {
    hello: () => output,
    async *many(count) {
      for (let i = 0; i < count; i++) yield output;
    },
  });
  worker.serve((request) => {
    if (request.path === "/text") return answerText;
    do_not_optimize(request.json());
    return { json: output };
  });
} else {
  const directory = mkdtempSync(join(tmpdir(), "slotbus-typed-"));
  process.on("exit", () => rmSync(directory, { recursive: true }));
  await using bus = await SlotBus.create({ name: "typed", directory });
  await using _worker = Bun.spawn([process.execPath, import.meta.path, bus.name], {
    env: { ...process.env, SLOTBUS_DIR: directory },
    stdio: ["ignore", "inherit", "inherit"],
  });
  await bus.ready();
  const client = bus.client(demo);
  const subjects = {
    request: () => bus.request({ path: "/text", body: requestText }),
    byHand: async () => (await bus.request({ path: "/json", json: input })).json(),
    json: () => [JSON.parse(JSON.stringify(input)), JSON.parse(JSON.stringify(output))],
    typed: () => client.hello(input),
  };
  /** Time to the first item of a stream, in ns; the rest of the stream does not count. */
  const nsToFirst = async (): Promise<number> => {
    let ns = 0;
    for (let i = 0; i < STREAMS; i++) {
      const started = Bun.nanoseconds();
      const items = client.many(1);
      do_not_optimize(await items.next());
      ns += Bun.nanoseconds() - started;
      await items.next();
    }
    return ns / STREAMS;
  };
  const readAll = async (): Promise<void> => {
    for await (const item of client.many(ITEMS)) do_not_optimize(item);
  };
  const rounds = [];
  for (let round = 0; round < ROUNDS; round++) {
    rounds.push({
      request: await nsPerCall(subjects.request),
      byHand: await nsPerCall(subjects.byHand),
      json: await nsPerCall(subjects.json),
      typed: await nsPerCall(subjects.typed),
      first: await nsToFirst(),
      item: (await nsPerCall(readAll, 1)) / ITEMS,
    });
  }
  for (const subject of ["request", "byHand", "json", "typed", "first", "item"] as const) {
    console.log(subject.padEnd(8), Math.round(median(rounds.map((round) => round[subject]))), "ns");
  }
  const ratio = median(rounds.map(({ typed, request, json }) => typed / (request + json)));
  const toHand = median(rounds.map(({ typed, byHand }) => typed / byHand));
  console.log(`typed is ${ratio.toFixed(2)} × (request + JSON), ${toHand.toFixed(2)} × JSON in user code`);
  const toTrip = median(rounds.map(({ first, typed }) => first / typed));
  console.log(`the first item of a stream arrives after ${toTrip.toFixed(2)} × a typed call`);
}
