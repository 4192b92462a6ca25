/**
 * What a typed call costs beyond the untyped request and JSON: `bun bench/typed.ts`. Rounds of all three in turn, the median
 * round counts. Expected: a typed call takes at most 1.5 times the request plus the JSON.
 */

import { do_not_optimize, measure } from "mitata";
import { contract, rpc, SlotBus, SlotWorker } from "../src/index.ts";

const demo = contract("demo", { hello: rpc<{ name: string; age: number }, { msg: string; tags: string[] }>() });
const input = { name: "Ada", age: 36 };
const output = { msg: "hello Ada", tags: ["a", "b"] };
const requestText = JSON.stringify(input);
const answerText = JSON.stringify(output);
const ROUNDS = 11;

const name = process.argv[2];
if (name) {
  const worker = await SlotWorker.open({ name });
  worker.implement(demo, { hello: () => output });
  worker.serve(() => answerText);
} else {
  await using bus = await SlotBus.create({ name: `typed-${process.pid}` });
  await using _worker = Bun.spawn([process.execPath, import.meta.path, bus.name], {
    stdio: ["ignore", "inherit", "inherit"],
  });
  await bus.ready();
  const client = bus.client(demo);
  const subjects: Record<string, () => unknown> = {
    request: () => bus.request({ path: "/hello", body: requestText }),
    json: () => {
      do_not_optimize(JSON.parse(JSON.stringify(input)));
      do_not_optimize(JSON.parse(JSON.stringify(output)));
    },
    typed: () => client.hello(input),
  };
  const rounds = [];
  for (let round = 0; round < ROUNDS; round++) {
    const times: number[] = [];
    for (const run of Object.values(subjects)) times.push((await measure(run, { min_cpu_time: 100e6 })).p50);
    const [request, json, typed] = times as [number, number, number];
    rounds.push({ request, json, typed, ratio: typed / (request + json) });
  }
  const { request, json, typed, ratio } = rounds.sort((a, b) => a.ratio - b.ratio)[ROUNDS >> 1]!;
  const ns = (value: number): string => `${Math.round(value)} ns`;
  console.log(`typed ${ns(typed)}, request ${ns(request)}, JSON ${ns(json)}: ${ratio.toFixed(2)} × (request + JSON)`);
}
