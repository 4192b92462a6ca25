/**
 * Measures small costs one at a time: a bare round trip, the first bytes of a stream, a stream of 10 000 chunks of 64 B, one new
 * header among ten, 4 KiB, 64 KiB, and 1 MiB with 32 in flight. With `--against`, two checkouts take turns in short rounds of one run; each has a client and a worker
 * process of its own.
 *
 *     bun bench/dev/small.ts [--against ../before] [--rounds 15] [--case "first"]
 *
 * `bun bench/dev/small.ts answer|ask CHECKOUT` starts one of the two sides.
 */

import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import type * as Slotbus from "../../src/index.ts";

const CASES = ["bare", "first", "chunks", "vary", "4 KiB", "64 KiB", "1 MiB x 32"] as const;
type Case = (typeof CASES)[number];
/** Every other case is compared with the first one. */
const BARE = CASES[0];
const ROUND_MS = 150;
const WARM_UP_MS = 1_500;
const IN_FLIGHT = 32;
const CHUNKS = 10_000;

async function load(checkout: string): Promise<typeof Slotbus> {
  return (await import(join(checkout, "src/index.ts"))) as typeof Slotbus;
}

function tenHeaders(serial: number): [string, string][] {
  const headers = Array.from({ length: 9 }, (_, i): [string, string] => [`x-header-${i}`, `the value number ${i}`]);
  return [...headers, ["x-trace", serial.toString(16).padStart(16, "0")]];
}

/** Returns the length of all headers, so that reading them is not optimized away. */
function readAll(headers: Iterable<[string, string]>): number {
  let length = 0;
  for (const [name, value] of headers) length += name.length + value.length;
  return length;
}

// ---- the two sides --------------------------------------------------------------------------------------------------

async function answer(checkout: string): Promise<void> {
  const { SlotWorker } = await load(checkout);
  const worker = await SlotWorker.open({ name: "small", reconnect: false });
  const headers = tenHeaders(0);
  let serial = 0;
  async function* repeated(body: Uint8Array, times: number): AsyncGenerator<Uint8Array> {
    for (let i = 0; i < times; i++) yield body;
  }
  worker.serve((request) => {
    if (request.path === "/echo") return request.body;
    if (request.path === "/first") return repeated(request.body, 4);
    if (request.path === "/chunks") return repeated(request.body, CHUNKS);
    if (readAll(request.headers) === 0) throw new Error("the request's headers did not arrive");
    headers[9]![1] = (serial++).toString(16).padStart(16, "0");
    return { headers, body: request.body };
  });
  worker.on("disconnected", () => process.exit(0));
}

async function ask(checkout: string): Promise<void> {
  const { SlotBus } = await load(checkout);
  await using bus = await SlotBus.create({ name: "small" });
  bus.ref();
  await bus.ready();
  const body = (bytes: number): Uint8Array => new Uint8Array(bytes).fill(7);
  const echo = (bytes: number): (() => Promise<number>) => {
    const request = { path: "/echo", body: body(bytes) };
    return async () => {
      const before = Bun.nanoseconds();
      const response = await bus.request(request);
      const ns = Bun.nanoseconds() - before;
      if (response.body.length !== bytes) throw new Error(`a response has ${response.body.length} bytes`);
      return ns;
    };
  };
  const small = body(64);
  const into = new Uint8Array(65_536);
  const headers = tenHeaders(0);
  let serial = 0;
  const large = body(1_048_576);
  const once: Record<Case, () => Promise<number>> = {
    bare: echo(64),
    "4 KiB": echo(4_096),
    "64 KiB": echo(65_536),
    first: async () => {
      const before = Bun.nanoseconds();
      const chunks = (await bus.stream({ path: "/first", body: small })).chunks();
      const step = await chunks.next();
      const ns = Bun.nanoseconds() - before;
      let bytes = step.value?.length ?? 0;
      for await (const chunk of chunks) bytes += chunk.length;
      if (bytes !== 256) throw new Error(`${bytes} bytes of a short stream arrived`);
      return ns;
    },
    chunks: async () => {
      const before = Bun.nanoseconds();
      let bytes = 0;
      for await (const chunk of (await bus.stream({ path: "/chunks", body: small })).chunks({ into }))
        bytes += chunk.length;
      if (bytes !== 64 * CHUNKS) throw new Error(`${bytes} bytes of a long stream arrived`);
      return (Bun.nanoseconds() - before) / CHUNKS;
    },
    vary: async () => {
      const before = Bun.nanoseconds();
      headers[9]![1] = (serial++).toString(16).padStart(16, "0");
      const response = await bus.request({ path: "/vary", headers, body: small });
      if (readAll(response.headers) === 0) throw new Error("the response's headers did not arrive");
      return Bun.nanoseconds() - before;
    },
    "1 MiB x 32": async () => {
      const before = Bun.nanoseconds();
      await Promise.all(Array.from({ length: IN_FLIGHT }, () => bus.request({ path: "/echo", body: large })));
      return (Bun.nanoseconds() - before) / IN_FLIGHT;
    },
  };
  for await (const line of console) {
    const [name, ms] = JSON.parse(line) as [Case, number];
    const samples: number[] = [];
    for (const end = performance.now() + ms; performance.now() < end;) samples.push(await once[name]());
    console.log(median(samples));
  }
}

// ---- the comparison -------------------------------------------------------------------------------------------------

interface Pair extends Disposable {
  measure(name: Case, ms: number): Promise<number>;
}

/** Starts client and worker of a checkout. */
function start(checkout: string): Pair {
  const directory = mkdtempSync(join(tmpdir(), "slotbus-small-"));
  const env = { ...process.env, SLOTBUS_DIR: directory };
  const command = (role: string): string[] => [process.execPath, import.meta.path, role, checkout];
  const asking = Bun.spawn(command("ask"), { env, stdio: ["pipe", "pipe", "inherit"] });
  const answering = Bun.spawn(command("answer"), { env, stdio: ["ignore", "inherit", "inherit"] });
  const lines = linesOf(asking.stdout);
  return {
    async measure(name, ms) {
      asking.stdin.write(`${JSON.stringify([name, ms])}\n`);
      asking.stdin.flush();
      const ns = Number((await lines.next()).value);
      if (!(ns > 0)) throw new Error(`the run of ${checkout} printed no figure`);
      return ns;
    },
    [Symbol.dispose]() {
      asking.kill("SIGKILL");
      answering.kill("SIGKILL");
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

async function* linesOf(output: ReadableStream<Uint8Array<ArrayBuffer>>): AsyncGenerator<string> {
  let rest = "";
  for await (const text of output.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + text).split("\n");
    rest = lines.pop()!;
    yield* lines;
  }
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[values.length >> 1]!;
}

async function compare(checkouts: readonly string[], rounds: number, wanted: string): Promise<void> {
  const pairs = checkouts.map(start);
  try {
    const cases = CASES.filter((name) => name === BARE || name.includes(wanted));
    const figures = pairs.map(() => new Map(cases.map((name) => [name, [] as number[]])));
    for (const pair of pairs) for (const name of cases) await pair.measure(name, WARM_UP_MS);
    for (let round = 0; round < rounds; round++)
      for (const name of cases)
        for (const [i, pair] of pairs.entries()) figures[i]!.get(name)!.push(await pair.measure(name, ROUND_MS));
    const ratio = (over: readonly number[], under: readonly number[]): string =>
      median(over.map((value, i) => value / under[i]!)).toFixed(2);
    console.log(
      ["case", ...checkouts.map((_, i) => (i === 0 ? "now, ns | ÷ bare" : "before, ns | ÷ bare | now ÷ before"))].join(
        " | ",
      ),
    );
    for (const name of cases) {
      const row = [name as string];
      for (const figure of figures) {
        const values = figure.get(name)!;
        row.push(Math.round(median(values)).toLocaleString("en"), ratio(values, figure.get(BARE)!));
        if (figure !== figures[0]) row.push(ratio(figures[0]!.get(name)!, values));
      }
      console.log(row.join(" | "));
    }
    console.log(`load of the machine: ${readFileSync("/proc/loadavg", "latin1").trim()}; Bun ${Bun.version}`);
  } finally {
    for (const pair of pairs) pair[Symbol.dispose]();
  }
}

const [role, checkout] = process.argv.slice(2);
if (role === "answer") await answer(checkout!);
else if (role === "ask") await ask(checkout!);
else {
  const { values } = parseArgs({
    options: {
      against: { type: "string" },
      rounds: { type: "string", default: "15" },
      case: { type: "string", default: "" },
    },
  });
  const own = resolve(import.meta.dir, "../..");
  const other = values.against ? [resolve(values.against)] : [];
  await compare([own, ...other], Number(values.rounds), values.case);
  process.exit();
}
