/**
 * Named fault points: `bun test/prove/points.ts [ci | quick | long] [--seed N] [--label TEXT] [--role hub|worker|blocker]
 * [--fault kill|stop|abort|error] [--nth N]`.
 *
 * The C sources name places (SB_POINT, SB_FAULT) on both sides: around each swap, hint, store of `parked`, wake-up, message
 * and system call. Here each is met in a real process of Bun, with a library built for it: the process is killed, stopped
 * for 300 ms, aborted, or the system call fails, at a chosen passage. Then everybody must be able to go on, and books that
 * the bus knows nothing of say what became of each request. `ci` draws two faults per label, `quick` meets every label with
 * every fault, `long` at several passages.
 */

import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { figuresLine, Histogram, sizeAsked } from "./figures.ts";
import { FAULTS, type Fault, LABEL, labelsInSources, type Point, points } from "./points/labels.ts";
import { type Case, tally, World } from "./points/world.ts";
import { Random } from "./soak/books.ts";

const { values } = parseArgs({
  options: {
    seed: { type: "string", default: String(Date.now() % 2 ** 31) },
    label: { type: "string", default: "" },
    role: { type: "string" },
    fault: { type: "string" },
    nth: { type: "string" },
  },
  allowPositionals: true,
});
const size = sizeAsked();
const seed = Number(values.seed);
const random = new Random(seed);
const repository = join(import.meta.dir, "../..");
/** Worlds at once: most of a case is waiting. */
const WORLDS = 3;
/** Passages at which `long` lets a fault happen. */
const LONG_PASSAGES = [1, 2, 3, 5, 8];
const PASSAGES = 3;
/** After so many cases with a problem the rest is not run. */
const ENOUGH = 10;

const say = (text: string): void => void process.stdout.write(`${text}\n`);

/** The library with the points; the one that others use is left alone. */
function buildLibrary(): string {
  const zig = Bun.which("zig", { PATH: `${repository}/node_modules/.bin:${process.env["PATH"]}` });
  if (!zig) throw new Error("Zig is not installed: npm install");
  const build = Bun.spawnSync([zig, "build", "-Dpoints=true"], { cwd: repository, stderr: "pipe" });
  if (build.exitCode !== 0) throw new Error(build.stderr.toString());
  return join(repository, "zig-out/points/libslotbus.so");
}

// ---- the plan -------------------------------------------------------------------------------------------------------

function faultsOf({ fails }: Point): readonly Fault[] {
  return FAULTS.filter((fault) => fault !== "error" || fails);
}

/** `ci` draws two faults for each label: the error, where there can be one, and others. */
function drawn({ fails }: Point): readonly Fault[] {
  const spared = random.pick(["kill", "stop", "abort"] as const);
  const others = FAULTS.filter((fault) => fault !== "error" && fault !== spared);
  return fails ? ["error", random.pick(others)] : others;
}

function plan(): Case[] {
  const matching = points().filter(({ label, role }) => label.includes(values.label) && role === (values.role ?? role));
  const replay = values.fault !== undefined;
  const cases = matching.flatMap((point) => {
    const faults = size === "ci" && !replay && !values.label ? drawn(point) : faultsOf(point);
    const wanted = faults.filter((fault) => !replay || fault === values.fault);
    const passages = size === "long" ? LONG_PASSAGES : [1 + random.below(point.act === "reopen" ? 1 : PASSAGES)];
    const nths = values.nth ? [Number(values.nth)] : passages;
    return wanted.flatMap((fault) => nths.map((nth) => ({ point, fault, nth })));
  });
  return cases
    .map((item) => ({ item, key: random.next() }))
    .sort((x, y) => x.key - y.key)
    .map(({ item }) => item);
}

const rowOf = ({ label, role }: Point): string => (label.startsWith("both.") ? `${label} (${role})` : label);

// ---- the run --------------------------------------------------------------------------------------------------------

const cases = plan();
const planned = new Set(cases.map(({ point, fault }) => `${rowOf(point)} ${fault}`));
const rows = points().map(rowOf);
const unplanned = rows.flatMap((row) => FAULTS.map((fault) => `${row} ${fault}` as const));
const histogram = new Histogram<string, Fault>(rows, FAULTS, new Set(unplanned.filter((cell) => !planned.has(cell))));
const root = mkdtempSync(join(tmpdir(), "slotbus-points-"));
let worlds = 0;
let failed = 0;
let problems = 0;

function report(what: string, texts: string[]): void {
  problems += texts.length;
  for (const text of texts.slice(0, 10)) say(`PROBLEM ${what}: ${text}`);
}

function newWorld(library: string): World {
  const directory = join(root, String(++worlds));
  mkdirSync(directory);
  return new World(directory, seed, library);
}

async function work(library: string): Promise<void> {
  let world = newWorld(library);
  for (let next = cases.shift(); next && failed < ENOUGH; next = cases.shift()) {
    const { point, fault, nth } = next;
    const found = await world.meet(next);
    if (found.length === 0) {
      histogram.add(rowOf(point), fault);
      continue;
    }
    failed++;
    const at = `after ${((performance.now() - began) / 1000).toFixed(1)} s`;
    report(`${rowOf(point)}, ${fault} at passage ${nth}, ${at}`, found);
    const how = `--label ${point.label} --role ${point.role} --fault ${fault} --nth ${nth} --seed ${seed}`;
    say(`        again: bun test/prove/points.ts ${how}`);
    await world.destroy();
    world = newWorld(library);
  }
  report("the end", await world.end());
}

/** Every label of the sources is named as it should be, and planned for. */
function checkLabels(): void {
  const labels = labelsInSources().map(({ label }) => label);
  const known = new Set(points().map(({ label }) => label));
  const wrong = labels.filter((label) => !LABEL.test(label) || !known.has(label));
  if (wrong.length > 0 || known.size !== labels.length) report("labels", [`not in order: ${wrong.join()}`]);
  if (values.label || values.fault || values.role) return;
  const met = new Set(cases.map(({ point }) => point.label));
  const missing = labels.filter((label) => !met.has(label));
  if (missing.length > 0) report("labels", [`not planned: ${missing.join()}`]);
}

const began = performance.now();
say(`seed ${seed}: bun test/prove/points.ts ${size} --seed ${seed}; ${cases.length} cases of ${rows.length} labels`);
checkLabels();
for (const signal of ["SIGINT", "SIGTERM"] as const) {
  process.on(signal, () => {
    rmSync(root, { recursive: true, force: true });
    process.exit(1); // its children end with it
  });
}
const library = buildLibrary();
await Promise.all(Array.from({ length: Math.min(WORLDS, cases.length) }, () => work(library)));
rmSync(root, { recursive: true });
const { empty } = histogram;
if (empty.length > 0) report("the histogram", [`never met: ${empty.join(", ")}`]);
say(String(histogram));
say(
  `${labelsInSources().length} labels, ${planned.size} cells, ${tally.errors} errors made, ${tally.refused} starts refused, ` +
    `${tally.vanished} requests gone with their hub, ${((performance.now() - began) / 1000).toFixed(1)} s, ${problems} problems`,
);
const { requests, kills, stalls, lost, doubled, misdelivered, leaked } = tally;
say(figuresLine({ requests, kills, stalls, lost, doubled, misdelivered, leaked }));
process.exit(problems === 0 && planned.size > 0 ? 0 : 1);
