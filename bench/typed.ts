/**
 * What a typed call costs beside the untyped request, the same request with JSON by hand, and JSON alone: `bun bench/typed.ts`.
 * Short rounds of all four in turn; medians over the rounds, of times and of each round's ratios.
 */

import { do_not_optimize } from "mitata";
import { contract, rpc, SlotBus, SlotWorker } from "../src/index.ts";

const demo = contract("demo", { hello: rpc<{ name: string; age: number }, { msg: string; tags: string[] }>() });
const input = { name: "Ada", age: 36 };
const output = { msg: "hello Ada", tags: ["a", "b"] };
const requestText = JSON.stringify(input);
const answerText = JSON.stringify(output);
const ROUNDS = 101;
const CALLS = 2_000;

function median(values: number[]): number {
  return values.sort((a, b) => a - b)[values.length >> 1]!;
}

async function nsPerCall(call: () => unknown): Promise<number> {
  const started = performance.now();
  for (let i = 0; i < CALLS; i++) do_not_optimize(await call());
  return ((performance.now() - started) * 1e6) / CALLS;
}

const name = process.argv[2];
if (name) {
  const worker = await SlotWorker.open({ name });
  worker.implement(demo, { hello: () => output });
  worker.serve((request) => {
    if (request.path === "/text") return answerText;
    do_not_optimize(request.json());
    return { json: output };
  });
} else {
  await using bus = await SlotBus.create({ name: `typed-${process.pid}` });
  await using _worker = Bun.spawn([process.execPath, import.meta.path, bus.name], {
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
  const rounds = [];
  for (let round = 0; round < ROUNDS; round++) {
    rounds.push({
      request: await nsPerCall(subjects.request),
      byHand: await nsPerCall(subjects.byHand),
      json: await nsPerCall(subjects.json),
      typed: await nsPerCall(subjects.typed),
    });
  }
  for (const subject of ["request", "byHand", "json", "typed"] as const) {
    console.log(subject.padEnd(8), Math.round(median(rounds.map((round) => round[subject]))), "ns");
  }
  const ratio = median(rounds.map(({ typed, request, json }) => typed / (request + json)));
  const toHand = median(rounds.map(({ typed, byHand }) => typed / byHand));
  console.log(`typed is ${ratio.toFixed(2)} × (request + json), ${toHand.toFixed(2)} × by hand`);
}
