/** The `slotbus` command as its user runs it. */

import { expect, test } from "bun:test";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Row } from "../bench/bus.ts";
import { setUp } from "../bench/busy/situations.ts";
import type { BusyRow } from "../bench/busy/rows.ts";
import type { ContestRow } from "../bench/contest/suite.ts";
import type { PublishRow } from "../bench/events/publish.ts";
import type { FlowRow } from "../bench/events/suite.ts";
import { type Late, wasClaimed } from "../bench/many/late.ts";
import type { BlockedRow, ManyRow } from "../bench/many/suite.ts";
import type { PoolRow } from "../bench/pool/suite.ts";
import type { Bar } from "../bench/report.ts";
import { type Order, type Params, run } from "../bench/stdio/loop.ts";
import type { StdioRow, TripRow } from "../bench/stdio/suite.ts";
import type { OwnRow } from "../bench/streams/own.ts";
import type { StreamRow } from "../bench/streams/suite.ts";
import { compile } from "../bench/suite.ts";
import { Workspace as BenchWorkspace } from "../bench/systems.ts";
import { until } from "./support.ts";

const root = join(import.meta.dir, "..");

function slotbus(...args: string[]): { code: number; out: string; err: string } {
  const { exitCode, stdout, stderr } = Bun.spawnSync([process.execPath, join(root, "src/cli/slotbus.ts"), ...args], {
    stdin: "ignore",
  });
  return { code: exitCode, out: stdout.toString(), err: stderr.toString() };
}

test("without a command, and with --help, it lists the commands; --version is the package's", () => {
  const help = slotbus();
  expect([help.code, help.out]).toEqual([0, slotbus("--help").out]);
  expect(help.out).toContain("bench");
  const { version } = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as { version: string };
  expect(slotbus("--version").out).toBe(`${version}\n`);
  expect(slotbus("bench", "--help").out).toContain("--payload");
});

test("invalid usage is one line on stderr and exit code 2", () => {
  for (const args of [
    ["bensh"],
    ["ls", "--jsn"],
    ["ls", "over"],
    ["claims", "release", "leader"],
    ["hub", "--port", "x"],
    ["stats", "no/name"],
    ["stats", "--json", "--prometheus"],
    ["top", "--interval", "0"],
    ["events", "tale"],
    ["bench", "--fast"],
    ["bench", "--quick", "--short"],
    ["bench", "--payload", "3"],
    ["bench", "--payload", "17m"],
    ["bench", "--payload", "64,x"],
    ["bench", "--in-flight", "0"],
    ["bench", "--in-flight", "257"],
    ["bench", "--against", "carrier-pigeon"],
    ["bench", "--against", "slotbus"],
    ["bench", "left", "over"],
    ["bench", "bus", "over"],
    ["bench", "streams", "over"],
    ["bench", "streams", "--payload", "64"],
    ["bench", "streams", "--quick", "--short"],
    ["bench", "streams", "--against", "bun-ipc"],
    ["bench", "events", "over"],
    ["bench", "events", "--markdown"],
    ["bench", "events", "--against", "fetch-unix"],
    ["bench", "events", "--loops", "1.5"],
    ["bench", "contest", "over"],
    ["bench", "contest", "--quick", "--short"],
    ["bench", "contest", "--against", "nats"],
    ["bench", "stdio", "over"],
    ["bench", "stdio", "--against", "unix-socket"],
    ["bench", "busy", "--situations", "quiet,party"],
    ["bench", "busy", "--against", "fetch-tcp"],
    ["bench", "busy", "--slots", "257"],
    ["bench", "pool", "over"],
    ["bench", "pool", "--against", "workerpool"],
    ["bench", "many", "over"],
    ["bench", "many", "--against", "fetch-unix"],
    ["bench", "constructor"],
  ]) {
    const { code, out, err } = slotbus(...args);
    expect([args, code, out]).toEqual([args, 2, ""]);
    expect(err).toMatch(/^slotbus: [^\n]+\n$/);
    const sentences = err.split(/(?<=[.?]) /);
    expect(sentences).toEqual([...new Set(sentences)]); // an error has its hint in its message
  }
  expect(slotbus("stats", "no/name").err).toBe(
    'slotbus: "no/name" is not a valid bus name. ' +
      "Use 1 to 64 of A-Z a-z 0-9 . _ - and start with a letter or digit.\n",
  );
});

test("bench --json prints the requested rows and nothing else", () => {
  const flags = ["--short", "--json", "--payload", "64,4k", "--in-flight", "1,3", "--against", "unix-socket"];
  const { code, out, err } = slotbus("bench", ...flags);
  expect([code, err]).toEqual([0, ""]);
  const { machine, rows } = JSON.parse(out) as { machine: Record<string, unknown>; rows: Row[] };
  expect(machine).toMatchObject({ bun: Bun.version, mode: "short", cores: expect.any(Number) });
  expect(rows.map((row) => [row.system, row.case, row.payload_bytes, row.in_flight])).toEqual([
    ["slotbus", "rtt", 64, 1],
    ["unix-socket", "rtt", 64, 1],
    ["slotbus", "throughput", 64, 3],
    ["unix-socket", "throughput", 64, 3],
    ["slotbus", "rtt", 4096, 1],
    ["unix-socket", "rtt", 4096, 1],
    ["slotbus", "throughput", 4096, 3],
    ["unix-socket", "throughput", 4096, 3],
  ]);
  for (const row of rows) {
    expect(row.p50_us).toBeGreaterThan(0);
    expect(row.p90_us).toBeGreaterThanOrEqual(row.p50_us);
    expect(row.p99_us).toBeGreaterThanOrEqual(row.p90_us);
    expect(row.requests_per_second).toBeGreaterThan(0);
  }
  // On a busy machine the rounds of 100 ms may have fewer than the 10 000 requests that this percentile needs.
  expect(rows[0]!.p999_us ?? Infinity).toBeGreaterThanOrEqual(rows[0]!.p99_us);
}, 120_000);

test("bench draws a table for people", () => {
  const { code, out } = slotbus("bench", "--short", "--in-flight", "1", "--against", "none");
  expect(code).toBe(0);
  expect(out).toMatch(/^slotbus +[\d.]+ +[\d.]+ +[\d.]+/m);
  expect(out).toContain("Round trip, 64 B");
}, 60_000);

test("bench --svg and --png draw what was measured: one bar for each contestant of each case", () => {
  const folder = mkdtempSync(join(tmpdir(), "slotbus-chart-"));
  const [svg, png] = [join(folder, "bench.svg"), join(folder, "bench.png")];
  const flags = ["--short", "--in-flight", "1,4", "--against", "unix-socket", "--svg", svg, "--png", png];
  const { code, err } = slotbus("bench", ...flags);
  expect([code, err]).toEqual([0, ""]);
  const drawn = readFileSync(svg, "utf8");
  expect(drawn).toStartWith("<svg xmlns=");
  expect(drawn.match(/<rect [^>]*rx="2"/g)?.length).toBe(4);
  for (const text of ["Round trip, 64 B, median", "4 in flight, 64 B", "slotbus", "unix-socket", "req/s", Bun.version])
    expect(drawn).toContain(text);
  expect(readFileSync(png).subarray(1, 4).toString()).toBe("PNG");
  const nowhere = slotbus("bench", "--short", "--in-flight", "1", "--against", "none", "--svg", folder);
  expect([nowhere.code, nowhere.err.includes("Cannot write the chart:")]).toEqual([1, true]);
  rmSync(folder, { recursive: true });
}, 60_000);

test("hub --json prints where it listens, and ends cleanly", async () => {
  const directory = mkdtempSync(join(tmpdir(), "slotbus-hub-"));
  const args = ["hub", "--json", "--port", "0", "--directory", directory];
  const child = Bun.spawn([process.execPath, join(root, "src/cli/slotbus.ts"), ...args], {
    stdio: ["ignore", "pipe", "pipe"],
  });
  const reader = child.stdout.getReader();
  const { value } = await reader.read();
  const said = JSON.parse(new TextDecoder().decode(value)) as {
    name: string;
    pid: number;
    url: string;
    status: string;
  };
  expect(said).toMatchObject({ name: "hub", pid: child.pid });
  const close = { headers: { connection: "close" } };
  expect((await fetch(`${said.status}health`, close)).status).toBe(200);
  child.kill("SIGTERM");
  expect(await child.exited).toBe(0);
  expect(readdirSync(directory)).toEqual([]);
  rmSync(directory, { recursive: true });
}, 20_000);

/** Runs a suite; returns its JSON. Expects success, no other output, no file left, and bars that match its figures. */
function suite<Row>(
  variables: Record<string, string>,
  ...args: string[]
): { rows: Row[]; bars: Bar[]; notes: string[] } {
  const temporary = mkdtempSync(join(tmpdir(), "slotbus-cli-"));
  const { exitCode, stdout, stderr } = Bun.spawnSync(
    [process.execPath, join(root, "src/cli/slotbus.ts"), "bench", ...args, "--short", "--json"],
    { stdin: "ignore", env: { ...process.env, ...variables, TMPDIR: temporary } },
  );
  const left = readdirSync(temporary);
  rmSync(temporary, { recursive: true });
  expect([exitCode, stderr.toString()]).toEqual([0, ""]);
  expect(left).toEqual([]);
  const { machine, rows, bars, notes } = JSON.parse(stdout.toString()) as {
    machine: Record<string, unknown>;
    rows: Row[];
    bars: Bar[];
    notes: string[];
  };
  expect(machine).toMatchObject({ bun: Bun.version, mode: "short", rounds: 3 });
  for (const { measured, at_least: least, at_most: most, met } of bars)
    expect(met).toBe(least === undefined ? measured <= most! : measured >= least);
  return { rows, bars, notes };
}

test("bench streams --json prints a row for each case, checks its bars, and leaves no file", () => {
  const { rows, bars } = suite<StreamRow | OwnRow>({}, "streams", "--against", "pipe,fetch-unix,worker");
  const systems = ["slotbus", "fetch-unix", "pipe", "worker"];
  expect(rows.map((row): unknown[] => [row.system, row.case, row.payload_bytes])).toEqual([
    ...systems.map((system) => [system, "bulk", 65536]),
    ["slotbus", "bulk-copy", 65536],
    ...systems.map((system) => [system, "small", 64]),
    ...systems.map((system) => [system, "small-loop", 64]),
    ["slotbus", "first", 64],
    ["slotbus", "typed", 23],
    ["slotbus", "fair", 65536],
    ["slotbus", "stall", 65536],
  ]);
  for (const row of rows) {
    for (const [key, value] of Object.entries(row)) {
      const least = key === "ratio" ? 0 : Number.MIN_VALUE; // a ratio is rounded
      if (typeof value === "number") expect(`${row.case} ${key} ${value >= least}`).toBe(`${row.case} ${key} true`);
    }
    if (!("slower" in row)) continue;
    // Both are rounded.
    const ratio = row.bytes / row.payload_bytes / row.chunks_per_second / (row.bytes / 1e9 / row.gb_per_second);
    expect(Math.abs(ratio - 1)).toBeLessThan(0.05);
    if (row.system === "slotbus" && row.case !== "bulk-copy") expect(row.slower).toBe(1);
  }
  const stall = rows.find((row) => row.case === "stall")!;
  expect(stall.ahead_bytes).toBeLessThanOrEqual(stall.ring_bytes);
  expect(bars.length).toBe(8);
}, 120_000);

test("bench streams --markdown writes the section of RESULTS.md; without rivals it checks slotbus alone", () => {
  const { code, out } = slotbus("bench", "streams", "--short", "--against", "none", "--markdown");
  expect(code).toBe(0);
  expect(out).toStartWith("## Streams\n");
  expect(out).toMatch(/^\| slotbus, copies +\| +[\d.]+ \| +[\d,]+ \| +[\d.]+x \|$/m);
  expect(out).toMatch(
    /^\| stopped reader: bytes its writer is ahead ÷ ring +\| +[\d.]+ \| +≤ 1\.00 \| +- \| +(met|missed) \|$/m,
  );
  expect(out).not.toContain("best alternative");
}, 60_000);

test("bench events --json: every subscriber gets every event, with slotbus and with Bun's own channels", () => {
  const { rows, bars, notes } = suite<PublishRow | FlowRow>({}, "events", "--against", "broadcast-channel,bun-ipc");
  const systems = ["slotbus", "broadcast-channel", "bun-ipc"];
  expect(rows.map((row): unknown[] => [row.system, row.case, row.payload_bytes, row.subscribers])).toEqual([
    ["slotbus", "publish", 64, 1],
    ["slotbus", "publish", 64, 8],
    ...systems.map((system) => [system, "poll", 64, 4]),
    ...systems.map((system) => [system, "for-await", 64, 4]),
  ]);
  for (const row of rows) {
    if (row.case === "publish") {
      expect(row.cpu_ns).toBeGreaterThan(0);
      expect(row.wall_ns).toBeGreaterThan(0);
      continue;
    }
    expect(row.published_per_second).toBeGreaterThan(0);
    expect(row.delivered_per_second).toBeGreaterThan(0);
    if (row.system !== "slotbus") expect(row.lost).toBe(0);
  }
  expect([bars.length, notes]).toEqual([2, []]);
}, 60_000);

test("bench contest --json: of the contending processes only one holds the lease at a time, and a killed holder is succeeded", () => {
  const { rows, bars, notes } = suite<ContestRow>({ PATH: "/nonexistent" }, "contest", "--against", "redis");
  expect(rows.map((row): unknown[] => [row.system, row.case, row.payload_bytes, row.slower])).toEqual([
    ["slotbus", "uncontended", 0, 1],
    ["slotbus", "contended", 0, 1],
    ["slotbus", "takeover", 0, 1],
  ]);
  const contended = rows.find((row) => row.case === "contended")!;
  expect([contended.processes, contended.violations]).toEqual([8, 0]);
  expect(contended.claims_per_second).toBeGreaterThan(0);
  const { p50_ms: p50, max_ms: slowest, ttl_ms: ttl } = rows.find((row) => row.case === "takeover")!;
  expect(p50).toBeGreaterThan(0);
  expect(slowest).toBeLessThan(ttl); // so the death was noticed, not the expiry
  expect(bars.length).toBe(4);
  expect(notes).toEqual(["redis is skipped: redis-server is not installed (Debian package redis-server)."]);
}, 60_000);

test("bench stdio --json: each host's worker is another process, and a note says when Node is missing", () => {
  const { rows, bars, notes } = suite<StdioRow>({ PATH: "/nonexistent" }, "stdio");
  const systems = ["slotbus", "pipes", "bun-ipc"];
  const trips = rows as TripRow[];
  expect(trips.map((row): unknown[] => [row.system, row.case, row.payload_bytes, row.in_flight])).toEqual([
    ...systems.map((system) => [system, "rtt", 64, 1]),
    ...systems.map((system) => [system, "throughput", 64, 32]),
  ]);
  for (const row of trips) {
    expect(row.p50_us).toBeGreaterThan(0);
    expect(row.p99_us).toBeGreaterThanOrEqual(row.p50_us);
    expect(row.requests_per_second).toBeGreaterThan(0);
    if (row.system === "slotbus") expect(row.slower).toBe(1);
  }
  expect([bars.length, notes]).toEqual([2, ["node-ipc is skipped: Node is not installed."]]);
}, 60_000);

test("bench pool --json: a crash loses one task in processes, and the whole program in threads; a note says when Node is missing", () => {
  const { rows, bars, notes } = suite<PoolRow>({ PATH: "/nonexistent" }, "pool");
  const systems = ["slotbus", "bun-worker", "bun-spawn"];
  const cases = ["one", "empty", "1 ms", "10 ms", "1 MiB", "crash"];
  expect(rows.map(({ system, case: kind }): string => `${kind} ${system}`)).toEqual(
    cases.flatMap((kind) => systems.map((system) => `${kind} ${system}`)),
  );
  for (const row of rows.filter(({ case: kind }) => kind !== "crash")) {
    expect(row.tasks_per_second).toBeGreaterThan(0);
    if (row.case === "10 ms") expect(row.tasks_per_second).toBeLessThan(201); // two workers
  }
  expect(rows.filter(({ crash }) => crash !== null).map(({ crash }) => crash!.split(",")[0])).toEqual([
    "0 of 12 other tasks lost",
    "ends the program (SIGSEGV)",
    "0 of 12 other tasks lost",
  ]);
  expect(bars.length).toBe(2);
  expect(notes).toEqual(["piscina and tinypool are skipped: Node or npm is not installed."]);
}, 60_000);

test("bench busy --json: requests beside busy loops and on one processor", () => {
  const { rows, bars, notes } = suite<BusyRow>({}, "busy", "--situations", "quiet,loop-2,one-processor");
  const cases = ["quiet", "loop-2", "one-processor"].flatMap((situation) =>
    ["one", "many", "offered"].flatMap((kind) => [`${situation} ${kind} slotbus`, `${situation} ${kind} unix-socket`]),
  );
  expect(rows.map((row) => `${row.situation} ${row.case} ${row.system}`)).toEqual(cases);
  for (const row of rows) {
    for (const value of [row.p50_us, row.requests_per_second, row.cpu_us!, row.ratio]) expect(value).toBeGreaterThan(0);
    expect(row.worst_us).toBeGreaterThanOrEqual(row.p99_us);
    expect(row.ratios.length).toBe(3);
  }
  expect([bars.length, notes]).toEqual([10, []]);
}, 120_000);

test("bench busy: its loops run until it is over, and one processor is one", async () => {
  using workspace = new BenchWorkspace();
  const load = compile(join(root, "bench/busy/load.c"), workspace)!;
  const isLoop = (pid: string): boolean => {
    try {
      return readFileSync(`/proc/${pid}/cmdline`, "latin1") === `${load}\0loop\0`;
    } catch {
      return false; // it has ended, or is another file
    }
  };
  const loops = (): number => readdirSync("/proc").filter(isLoop).length;
  {
    await using _two = setUp("loop-2", load, workspace);
    await until(() => loops() === 2, "two loops run");
  }
  expect(loops()).toBe(0);
  await using one = setUp("one-processor", load, workspace);
  const command = one.inside([process.execPath, "-p", "os.availableParallelism()"]);
  expect(Bun.spawnSync(command).stdout.toString().trim()).toBe("1");
}, 20_000);

test("bench many --json: four clients share four workers in every system that can, and a worker blocks in its rounds only", () => {
  const { rows, bars, notes } = suite<ManyRow | BlockedRow>({ PATH: "/nonexistent" }, "many");
  const compared = rows.filter((row): row is ManyRow => row.case !== "blocked");
  const [best] = compared
    .filter((row) => row.case === "many" && row.system !== "slotbus")
    .toSorted((a, b) => a.ratio - b.ratio);
  expect(compared.map((row) => `${row.case} ${row.system} ${row.clients} x ${row.workers}`)).toEqual([
    "pair-many shared 1 x 1",
    "pair-many owned 1 x 1",
    "pair-one shared 1 x 1",
    "pair-one owned 1 x 1",
    "many slotbus 4 x 4",
    "many unix-socket 4 x 4",
    "many bun-ipc 1 x 4",
    "offered slotbus 4 x 4",
    `offered ${best!.system} ${best!.clients} x 4`,
  ]);
  for (const row of compared) {
    for (const value of [row.p50_us, row.requests_per_second, row.cpu_us!, row.ratio]) expect(value).toBeGreaterThan(0);
    expect(row.worst_us).toBeGreaterThanOrEqual(row.p99_us);
  }
  const [blocking, free] = rows.filter((row): row is BlockedRow => row.case === "blocked");
  expect(blocking!.blocks).toBeGreaterThanOrEqual(3);
  // At least the request that blocked the worker; all four clients were served.
  expect(blocking!.claimed).toBeGreaterThanOrEqual(blocking!.blocks);
  expect([blocking!.requests, free!.requests]).toEqual([30_000, 30_000]);
  expect([free!.blocks, free!.claimed]).toEqual([0, 0]);
  expect([blocking!.beyond_1_ms.length, free!.beyond_1_ms.length]).toEqual([3, 3]);
  expect(bars.length).toBe(6);
  expect(notes).toEqual(["nats is skipped: nats-server is not installed (Debian package nats-server)."]);
}, 120_000);

test("bench many excuses a late request only if the blocked worker had claimed it before the block or in it", () => {
  const late = (worker: number, claimedAt: number, answeredAt: number): Late => ({
    ms: 100,
    worker,
    claimedAt,
    answeredAt,
  });
  const blocks = [500, 1_000];
  expect(wasClaimed(late(0, 1_000, 1_100), blocks)).toBe(true); // the request that blocked it
  expect(wasClaimed(late(0, 999, 1_101), blocks)).toBe(true); // its response was not delivered before the block
  expect(wasClaimed(late(0, 1_100, 1_101), blocks)).toBe(false); // it waited unclaimed until the block was over
  expect(wasClaimed(late(0, 990, 999), blocks)).toBe(false);
  expect(wasClaimed(late(1, 999, 1_101), blocks)).toBe(false); // another worker was slow
});

test("a wrong answer ends a round of bench stdio with an error, in every host", async () => {
  const order: Order = { bytes: 64, inFlight: 2, leadInMs: 0, ms: 10, minimum: 1 };
  const asked: Params[] = [];
  const honest = await run(async (params) => {
    asked.push(params);
    return [...params];
  }, order);
  expect(honest.latencies.length).toBe(asked.length);
  for (const params of asked) expect(JSON.stringify(params).length).toBe(64);
  expect(new Set(asked.map(([serial]) => serial)).size).toBe(asked.length);
  const wrong: ((params: Params) => unknown)[] = [
    ([serial, text]) => [serial - 1, text],
    ([serial, text]) => [serial, `${text.slice(1)}?`],
    (params) => [...params, 0],
    () => null,
  ];
  for (const answer of wrong) {
    const refused = run(async (params) => answer(params), order).then(() => "no error", String);
    expect(await refused).toMatch(/^Error: the response to request \d{10} of 64 bytes differs from the request$/);
  }
});
