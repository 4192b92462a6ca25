/**
 * Tests the C library by sheer number: kills, wake-ups, cycles of start and stop, races on a name, a clock that jumps.
 *
 *     bun test/prove/endure.ts [ci | quick | long] [--part NAME] [--seed N] [--csrc DIRECTORY]
 *
 * Each part is a separate program in `endure/`, compiled with the sources in `csrc/` (or in the directory given with
 * `--csrc`). It prints the cases that occurred and the promises that were broken. A seed fixes every choice of the program,
 * not the machine's timing.
 */

import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { findLibrary } from "../../src/native/find.ts";
import { type Figure, type Figures, figuresLine, FIGURES, Histogram, type Size, sizeAsked } from "./figures.ts";
import { mutate } from "./mutants/rule.ts";

const root = join(import.meta.dir, "../..");
const { values } = parseArgs({
  options: {
    part: { type: "string", default: "" },
    seed: { type: "string", default: String(Date.now() % 2 ** 31) },
    csrc: { type: "string", default: join(root, "csrc") },
  },
  allowPositionals: true,
});
const size = sizeAsked();
const { part: chosen, seed } = values;

// ---- the parts --------------------------------------------------------------------------------------------------------

/** One program: its source, its arguments after directory and seed, and the histogram of its cells. */
interface Program {
  source: string;
  args: (string | number)[];
  met: Histogram;
  /** Functions of the library that the program wraps. */
  wraps?: string[];
  /** SB_SLICE_MS, if different from the library's default. */
  sliceMs?: number;
}

interface Part {
  programs(): Program[];
  /** Parts in one lane run one after another. */
  lane: 0 | 1;
}

function sized<T>(ci: T, quick: T, long: T): T {
  return { ci, quick, long }[size satisfies Size];
}

function kills(): Program[] {
  const states = ["FREE", "WRITING", "READY", "CLAIMED", "DONE", "ABANDONED", "joining", "offered", "connecting"];
  // A worker that is killed before the client has accepted it has no connection that could end.
  const met = new Histogram(states, ["hang-up", "process-end"], new Set(["connecting hang-up"]));
  return [{ source: "kills.c", args: sized([3_000, 200_000], [20_000, 1_000_000], [200_000, 10_000_000]), met }];
}

function wakeups(): Program[] {
  const games = { sockets: 1, futexes: 1, "two-workers": 2, alternating: 2, cold: 1 };
  const columns = ["client-slept", "client-saw-work", "worker-slept", "worker-saw-work"];
  const met = new Histogram(Object.keys(games), columns);
  const [trips, delayed] = sized([200_000, 50_000], [1_200_000, 300_000], [30_000_000, 10_000_000]);
  const share = (all: number, workers: number): number => Math.ceil(all / Object.keys(games).length / workers);
  return Object.entries(games).map(([game, workers]) => ({
    source: "wakeups.c",
    args: [game, share(trips!, workers), share(delayed!, workers)],
    met,
    wraps: ["os_futex_wait", "os_futex_wake", "os_socket_send", "poll"],
    sliceMs: game === "cold" ? 0 : 3_600_000,
  }));
}

function cycles(): Program[] {
  const met = new Histogram(["worker", "client"], ["goodbye", "close", "crash"]);
  const states = ["bun-bus", "bun-worker", "bun-request"];
  const impossible = ["bun-bus answered", "bun-worker answered", "bun-request close"] as const;
  const bun = new Histogram<string, string>(states, ["close", "answered"], new Set(impossible));
  return [
    { source: "cycles.c", args: sized([1_000, 1_000, 100], [10_000, 10_000, 1_000], [100_000, 100_000, 10_000]), met },
    {
      source: "cycles.ts",
      args: sized([200, 200, 200_000], [1_000, 1_000, 1_000_000], [5_000, 5_000, 10_000_000]),
      met: bun,
    },
  ];
}

function names(): Program[] {
  const places = ["idle", "locking", "binding", "serving", "unlocking", "connecting", "attached"];
  const outcomes = ["client-after-client", "client-after-dead-client", "refused-client", "attached-worker"];
  const impossible = [...places.map((place) => `${place} seen`), ...outcomes.map((outcome) => `${outcome} kill`)];
  const met = new Histogram<string, string>(
    [...places, ...outcomes],
    ["kill", "seen"],
    new Set(impossible as `${string} ${string}`[]),
  );
  return [{ source: "names.c", args: [sized(2_000, 20_000, 200_000)], met }];
}

function clock(): Program[] {
  const verbs = ["publish", "take", "answer", "poll", "tick", "withdraw", "release", "wait", "bell", "ask"];
  const jumps = ["none", "stands-still", "back-1ns", "back-ms", "back-1h", "back-1y", "on-ms", "on-1y", "to-deadline"];
  const met = new Histogram(verbs, jumps);
  const wraps = ["os_now_ns", "os_futex_wait"];
  return [{ source: "clock.c", args: [sized(300_000, 5_000_000, 50_000_000)], met, wraps }];
}

const parts: Record<string, Part> = {
  wakeups: { programs: wakeups, lane: 0 },
  clock: { programs: clock, lane: 0 },
  kills: { programs: kills, lane: 1 },
  names: { programs: names, lane: 1 },
  cycles: { programs: cycles, lane: 1 },
};

// ---- building and running -----------------------------------------------------------------------------------------------

const folder = mkdtempSync(join(tmpdir(), "slotbus-endure-"));
const children = new Set<Bun.Subprocess>();
const totals: Figures = { requests: 0, kills: 0, lost: 0, doubled: 0, misdelivered: 0, leaked: 0 };
let problems = 0;

function problem(part: string, text: string): void {
  problems++;
  process.stdout.write(`  ${part}: ${text}\n`);
}

/** Compiles the C sources, with another slice if given. */
function sourcesFor({ sliceMs }: Program): string {
  const csrc = resolve(values.csrc);
  if (sliceMs === undefined) return csrc;
  const copy = join(folder, `csrc-${sliceMs}`);
  cpSync(csrc, copy, { recursive: true });
  const header = join(copy, "slotbus.h");
  const rule = {
    rule: "the slice",
    file: "slotbus.h",
    edits: [["X(SB_SLICE_MS, 20,", `X(SB_SLICE_MS, ${sliceMs},`] as [string, string]],
    test: "",
  };
  writeFileSync(header, mutate(readFileSync(header, "utf8"), rule));
  return copy;
}

const built = new Map<string, string>();

function build(program: Program): string {
  const key = `${program.source}-${program.sliceMs ?? ""}`;
  const known = built.get(key);
  if (known) return known;
  const csrc = sourcesFor(program);
  const library = readdirSync(csrc).filter((file) => file.endsWith(".c") && file !== "os_macos.c");
  const parts = ["endure.c", program.source].map((file) => join(import.meta.dir, "endure", file));
  const output = join(folder, key);
  const flags = [
    "-std=c11",
    "-D_GNU_SOURCE",
    "-O2",
    "-w",
    "-pthread",
    `-I${csrc}`,
    `-I${join(import.meta.dir, "endure")}`,
  ];
  const wraps = (program.wraps ?? []).map((name) => `-Wl,--wrap=${name}`);
  const sources = library.map((file) => join(csrc, file));
  const gcc = Bun.spawnSync(["gcc", ...flags, ...sources, ...parts, ...wraps, "-o", output], { stderr: "pipe" });
  if (gcc.exitCode !== 0) throw new Error(`gcc fails on ${program.source}:\n${gcc.stderr.toString()}`);
  built.set(key, output);
  return output;
}

/** Handles a line that a program printed. */
function read(part: string, program: Program, line: string, figures: Figures): void {
  const [word, first = "", second = "", count = "0"] = line.split(" ");
  if (word === "cell") program.met.add(first, second, Number(count));
  else if (word === "figure" && FIGURES.includes(first as Figure)) figures[first as Figure] = Number(second);
  else if (word === "say") process.stdout.write(`  ${part}: ${line.slice(4)}\n`);
  else if (line !== "") problem(part, line.replace(/^problem /, ""));
}

async function run(part: string, program: Program): Promise<void> {
  const directory = mkdtempSync(join(folder, `${part}-`));
  const script = program.source.endsWith(".ts");
  const command = script ? [process.execPath, join(import.meta.dir, "endure", program.source)] : [build(program)];
  const child = Bun.spawn([...command, directory, seed, ...program.args.map(String)], {
    env: { ...process.env, SLOTBUS_LIB: findLibrary() },
    stdio: ["ignore", "pipe", "inherit"],
    timeout: sized(120_000, 1_200_000, 36_000_000),
    killSignal: "SIGKILL",
  });
  children.add(child);
  const before = problems;
  const output = await child.stdout.text();
  await child.exited;
  children.delete(child);
  const figures: Figures = {};
  for (const line of output.split("\n")) read(part, program, line, figures);
  for (const figure of FIGURES) if (figures[figure]) totals[figure] = (totals[figure] ?? 0) + figures[figure];
  if (child.signalCode) problem(part, `${program.source} was killed by ${child.signalCode}: it hung or crashed`);
  else if (child.exitCode !== 0 && problems === before) problem(part, `${program.source} ended with ${child.exitCode}`);
  const left = readdirSync(directory);
  if (left.length === 0 || problems > before) return;
  totals.leaked!++;
  problem(part, `${program.source} left ${left.join()}`);
}

async function runPart(name: string, part: Part): Promise<void> {
  const started = performance.now();
  const programs = part.programs();
  const before = problems;
  for (const program of programs) await run(name, program);
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  const tables = new Set(programs.map(({ met }) => met));
  for (const met of tables) {
    process.stdout.write(`${met}\n`);
    if (met.empty.length > 0 && problems === before) problem(name, `never occurred: ${met.empty.join(", ")}`);
  }
  const verdict = problems === before ? "ok" : "FAILED";
  process.stdout.write(
    `${name} ${verdict} in ${seconds} s: bun test/prove/endure.ts ${size} --part ${name} --seed ${seed}\n\n`,
  );
}

const wanted = Object.entries(parts).filter(([name]) => chosen === "" || name === chosen);
if (wanted.length === 0) throw new Error(`no part is called "${chosen}": ${Object.keys(parts).join(", ")}`);
for (const signal of ["SIGINT", "SIGTERM"] as const) {
  process.on(signal, () => {
    for (const child of children) child.kill("SIGKILL");
    rmSync(folder, { recursive: true, force: true });
    process.exit(1);
  });
}
try {
  const runLane = async (lane: 0 | 1): Promise<void> => {
    for (const [name, part] of wanted) if (part.lane === lane) await runPart(name, part);
  };
  await Promise.all([runLane(0), runLane(1)]);
} finally {
  rmSync(folder, { recursive: true });
}
console.log(figuresLine(totals));
process.exit(problems === 0 ? 0 : 1);
