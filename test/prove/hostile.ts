/**
 * Hostile workers: `bun test/prove/hostile.ts [ci | quick | long] [--seed N] [--attack NAME] [--minutes N]`.
 *
 * A client and two honest workers under a steady load, and one attacker after another (`hostile/attacks.ts`): C programs that
 * attach like any worker and then write into every shared field, flood the socket, spoil the handshake. The client must live,
 * the honest workers' requests must not notice, and whoever broke the protocol must be evicted or refused by name.
 *
 * Delays are compared within the run, attack by attack: before each, a `calm` process that attacks nobody keeps the same
 * processor as busy. What a process takes from others by computing is the scheduler's affair; what it takes by writing
 * into its own region is ours. All attackers, and the calm one, are pinned to the last processor; client and workers may use
 * all. Compared are medians of windows of a hundred answers each.
 */

import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { until } from "../support.ts";
import { Actor, type Common, Crew } from "./actor.ts";
import { figuresLine, Histogram, sizeAsked } from "./figures.ts";
import { type Attack, ATTACKS, type Kind, KINDS, OUTCOMES, type Outcome } from "./hostile/attacks.ts";
import { Books } from "./hostile/books.ts";
import type { Order as EvilOrder, Report as EvilReport } from "./hostile/evil.ts";
import { EVIL, LEGAL } from "./hostile/evils.ts";
import type { Order, Phase, Report, Tally } from "./hostile/client.ts";
import type { Report as VictimReport } from "./hostile/victim.ts";
import { serveHonestly } from "./hostile/worker.ts";
import { Random } from "./soak/books.ts";

/** `ms`: how long an attack goes on that nobody ends. `runs`: attackers of one attack in a row. */
const SIZES = {
  ci: { mutations: 10_000_000, ms: 60, runs: 3, minutes: 0, calmMs: 40 },
  quick: { mutations: 100_000_000, ms: 150, runs: 5, minutes: 0, calmMs: 120 },
  long: { mutations: 1_000_000_000, ms: 300, runs: 5, minutes: 60, calmMs: 200 },
} as const;
const size = sizeAsked();
const { mutations: wantedMutations, ms: attackMs, runs: usualRuns, calmMs, minutes } = SIZES[size];
const { values } = parseArgs({
  options: {
    seed: { type: "string", default: String(Date.now() % 2 ** 31) },
    attack: { type: "string", default: "" },
    minutes: { type: "string", default: String(minutes) },
  },
  allowPositionals: true,
});
const seed = Number(values.seed);
const wantedMs = Number(values.minutes) * 60_000;

const WORKERS = 2;
/** An honest answer may take so many times as long under attack as beside a calm process. */
const SLOWER = 3;
/** Honest answers of one kind of attack are taken so many at a time: whatever took long, windows compare alike. */
const WINDOW = 100;
/** Below this a p99 says more about the machine than about us, in ms. */
const FLOOR_MS = 2;
/** Descriptors the client may have beyond its rest, at any moment: handshakes, one attacker, four that live on. */
const MORE_FDS = 48;
/** How much longer than the calm phases' longest the client may do without its timer, while it has a processor, in ms. */
const BLOCKED_MS = 200;
/** How much the client's own memory may grow, in MiB. */
const GROWTH_MIB = 48;
/** Of a rest of 300 ms, what the client may compute, in ms, and how often it may wake up. */
const REST_MS = 300;
const REST_CPU_MS = 30;
const REST_WAKEUPS = 10;
/** An attack that must end in an eviction goes on for so long; it is over when that has come. */
const EVICTED_MS = 10_000;

const root = join(import.meta.dir, "../..");
const folder = mkdtempSync(join(tmpdir(), "slotbus-hostile-"));
const busDirectory = join(folder, "bus");
const busName = `hostile-${process.pid}`;
mkdirSync(busDirectory, { mode: 0o700 });
const books = Books.create(folder, 50_000_000 + (wantedMs / 1000) * 20_000);
const random = new Random(seed);
const began = performance.now();
const attacks = ATTACKS.filter(({ name }) => name.startsWith(values.attack));

const problems: string[] = [];
const tally = { attackers: 0, mutations: 0, messages: 0, answers: 0, lives: 0, leaked: 0, fresh: 0, kills: 0 };
let load: Tally = { requests: 0, answers: 0, forged: 0, streams: 0, errors: 0, lost: 0, doubled: 0, misdelivered: 0 };

function problem(text: string): void {
  problems.push(text);
  if (problems.length <= 20) process.stderr.write(`hostile: ${text}\n`);
}

const crew = new Crew(busDirectory, problem);
const binary = join(folder, "attacker");
let client: Actor<Report, Order>;

function compile(): void {
  const parts = ["attacker.c", "memory.c", "talk.c", "flows.c"].map((file) => join(import.meta.dir, "hostile", file));
  const flags = ["-std=c11", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread", `-I${root}/csrc`];
  const { exitCode, stderr } = Bun.spawnSync(["gcc", ...flags, ...parts, "-o", binary], { stderr: "pipe" });
  if (exitCode !== 0) throw new Error(`gcc fails:\n${stderr.toString()}`);
}

/** The last processor that this process may use. */
function lastProcessor(): string {
  const list = /^Cpus_allowed_list:\s+(\S+)$/m.exec(readFileSync("/proc/self/status", "latin1"))![1]!;
  return /(\d+)$/.exec(list)![1]!;
}

// ---- attackers --------------------------------------------------------------------------------------------------------

const impossible = ATTACKS.flatMap(({ name }) => {
  const known = ATTACKS.filter((attack) => attack.name === name).flatMap((attack) => attack.outcomes);
  return OUTCOMES.filter((outcome) => !known.includes(outcome)).map((outcome) => `${name} ${outcome}` as const);
});
const met = new Histogram<string, Outcome>(
  [...new Set(attacks.map(({ name }) => name))],
  OUTCOMES,
  new Set(impossible),
);

/** Reasons the client gave, by attack. */
const reasons = new Map<Attack, string[]>();

const cpu = lastProcessor();

interface Attacker {
  process: Bun.Subprocess;
  line: number;
}

function launch(attack: string, ms: number): Attacker {
  const line = books.line(tally.attackers++);
  const words = [busDirectory, busName, attack, random.next(), ms, join(folder, "reports"), line, cpu];
  const child = Bun.spawn([binary, ...words.map(String)], { stdio: ["ignore", "inherit", "inherit"] });
  return { process: child, line };
}

/** Waits for its end; one that takes too long is killed, and a problem. */
async function finish({ process: child }: Attacker, name: string): Promise<void> {
  const timer = setTimeout(() => {
    problem(`an attacker "${name}" did not end by itself`);
    tally.kills++;
    child.kill("SIGKILL");
  }, 40_000);
  const code = await child.exited;
  clearTimeout(timer);
  if (code !== 0) problem(`attacker "${name}" pid ${child.pid} ended with ${code}`);
}

async function run(attack: Attack): Promise<void> {
  const { name } = attack;
  const attacker = launch(name, attack.ms ?? (attack.outcomes[0] === "evicted" ? EVICTED_MS : attackMs));
  await finish(attacker, name);
  const report = books.report(attacker.line);
  if (!report.over) problem(`attacker "${name}" did not come to its end`);
  if (report.granted > 0) problem(`the kernel let attacker "${name}" do ${report.granted} things with its memfd`);
  for (const figure of ["mutations", "messages", "answers", "lives"] as const) tally[figure] += report[figure];
  const { pid } = attacker.process;
  const expects = attack.outcomes;
  client.tell({ do: "fate", pid, lives: report.lives, expects, also: attack.also ?? [] });
  const fate = await client.hear("fate", 20_000);
  if (attack.endless && fate.wholeStreams > 0)
    problem(`${fate.wholeStreams} streams of attacker "${name}" ended as if they were whole`);
  for (const outcome of fate.outcomes) {
    met.add(name, outcome);
    if (![...expects, ...(attack.also ?? [])].includes(outcome))
      problem(`attacker "${name}" was ${outcome}: ${fate.reasons.join("; ") || "no word"}`);
  }
  reasons.set(attack, [...(reasons.get(attack) ?? []), ...fate.reasons]);
}

// ---- phases -----------------------------------------------------------------------------------------------------------

interface Measured {
  kind: Kind;
  name: string;
  phase: Phase;
}
const phases: Measured[] = [];
const calm: Measured[] = [];

/** What is measured while something is done. */
async function measured(what: () => Promise<void>): Promise<Phase> {
  client.tell({ do: "phase" });
  await client.hear("phase", 20_000);
  await what();
  client.tell({ do: "phase" });
  return client.hear("phase", 20_000);
}

async function beCalm(beside: Kind): Promise<void> {
  const neighbour = launch("calm", calmMs);
  const phase = await measured(() => finish(neighbour, "calm"));
  calm.push({ kind: beside, name: "calm", phase });
}

/** A worker that never did harm joins, answers, leaves. */
async function welcomeFresh(): Promise<void> {
  let answered = 0;
  const worker = await serveHonestly(busName, busDirectory, books, problem, () => void answered++);
  await until(() => answered > 0, "a fresh worker is asked").catch((error) => problem(error.message));
  await worker.close();
  tally.fresh++;
}

const rss: number[] = [];

async function quiet(after: string): Promise<void> {
  await welcomeFresh();
  client.tell({ do: "rest" });
  client.tell({ do: "quiet", workers: WORKERS });
  const report = await client.hear("quiet", 120_000);
  rss.push(report.rss);
  load = report.tally;
  tally.leaked += report.leaks.length;
  for (const leak of report.leaks) problem(`after "${after}": ${leak}`);
}

/** Nothing to do and nobody to fear: the client sleeps. */
async function rest(after: string): Promise<void> {
  await Bun.sleep(50);
  const before = usage(client.pid);
  await Bun.sleep(REST_MS);
  const now = usage(client.pid);
  const cpuMs = now.cpuMs - before.cpuMs;
  const wakeups = now.switches - before.switches;
  if (cpuMs > REST_CPU_MS) problem(`after "${after}" the client computes ${cpuMs} ms in ${REST_MS} ms of rest`);
  if (wakeups > REST_WAKEUPS) problem(`after "${after}" the client wakes up ${wakeups} times in ${REST_MS} ms of rest`);
}

/** Of the main thread: a timer that is left wakes it. */
function usage(pid: number): { cpuMs: number; switches: number } {
  const read = (file: string): string => readFileSync(`/proc/${pid}/task/${pid}/${file}`, "latin1");
  const fields = read("stat")
    .replace(/^.*\) /, "")
    .split(" ");
  const switches = Number(/^voluntary_ctxt_switches:\s+(\d+)/m.exec(read("status"))![1]);
  return { cpuMs: (Number(fields[11]) + Number(fields[12])) * 10, switches };
}

function runsOf({ ci }: Attack): number {
  return size === "ci" || ci === undefined ? (ci ?? usualRuns) : Math.max(ci, 1);
}

async function attackWith(group: readonly Attack[]): Promise<void> {
  const name = group.map((attack) => attack.name).join(", ");
  const { kind } = group[0]!;
  client.tell({ do: "load", streams: kind === "streams" });
  await beCalm(kind);
  const phase = await measured(async () => {
    if (group.length > 1) await Promise.all(group.map(run));
    else for (let n = runsOf(group[0]!); n > 0; n--) await run(group[0]!);
  });
  phases.push({ kind, name, phase });
  await beCalm(kind);
  await quiet(name);
}

/** All attacks once, each several times. */
async function cycle(): Promise<void> {
  const together = attacks.filter((attack) => attack.together);
  for (const kind of KINDS) {
    for (const attack of attacks) {
      if (attack.kind !== kind || attack.together || runsOf(attack) === 0) continue;
      await attackWith([attack]);
      if (problems.length > 50) return;
    }
    if (together[0]?.kind === kind) await attackWith(together);
    await rest(kind);
  }
}

async function prove(): Promise<void> {
  compile();
  client = new Actor(crew, "hostile/client.ts", [busName, folder, String(seed)]);
  await client.loaded();
  const workers = Array.from({ length: WORKERS }, () => {
    return new Actor<Common, string>(crew, "hostile/worker.ts", [busName, folder]);
  });
  client.tell({ do: "open", honest: [process.pid, ...workers.map(({ pid }) => pid)] });
  await client.hear("open", 20_000);
  for (const worker of workers) await worker.loaded();
  client.tell({ do: "load", streams: true });
  await Bun.sleep(300);
  await quiet("nothing");
  do await cycle();
  while (
    problems.length === 0 &&
    values.attack === "" &&
    (tally.mutations < wantedMutations || performance.now() - began < wantedMs)
  );
  if ("evil".startsWith(values.attack)) await beFledFrom();
  for (const actor of [client, ...workers]) actor.condemned = true;
  client.tell({ do: "end" });
  await client.gone(20_000);
  const files = readdirSync(busDirectory).filter((file) => !file.startsWith(`${busName}-evil.`)); // it was killed
  if (files.length > 0) problem(`the bus left ${files.join(", ")}`);
}

// ---- a client that is hostile ------------------------------------------------------------------------------------------

/** What a worker did with a client that broke the rules of streams. */
const fled = new Histogram<string, "left" | "stayed">(
  EVIL,
  ["left", "stayed"],
  new Set(EVIL.map((how) => `${how} ${LEGAL.includes(how) ? "left" : "stayed"}` as const)),
);

/** The victim serves the honest client too, whose load goes on. */
async function beFledFrom(): Promise<void> {
  const evilName = `${busName}-evil`;
  const evil = new Actor<EvilReport, EvilOrder>(crew, "hostile/evil.ts", [evilName]);
  await evil.loaded();
  const victim = new Actor<VictimReport, "end">(crew, "hostile/victim.ts", [busName, folder, evilName]);
  client.tell({ do: "trust", pid: victim.pid });
  await victim.loaded();
  client.tell({ do: "load", streams: true });
  for (const how of EVIL) {
    for (let n = usualRuns; n > 0; n--) {
      evil.tell({ do: how });
      const { left, writes } = await evil.hear("attacked", 20_000);
      tally.mutations += writes;
      const handled = await victim.hear("handled", 20_000);
      if (handled.foreign > 0) problem(`a worker read ${handled.foreign} bytes that are not of its client ("${how}")`);
      if (left) {
        const { code, message } = await victim.hear("left", 20_000);
        if (code !== "REGION_CORRUPT" || !message.includes("impossible counts"))
          problem(`"${how}": it left for "${message}"`);
        if (handled.error !== "REGION_CORRUPT") problem(`"${how}": the handler heard "${handled.error}"`);
      }
      fled.add(how, left ? "left" : "stayed");
      if (left === LEGAL.includes(how)) problem(`a worker ${left ? "left" : "did not leave"} a client for "${how}"`);
    }
  }
  victim.condemned = true;
  victim.tell("end");
  await victim.gone(20_000);
  client.tell({ do: "rest" });
  client.tell({ do: "quiet", workers: WORKERS });
  const { leaks, tally: sums } = await client.hear("quiet", 120_000);
  load = sums;
  for (const leak of leaks) problem(`after a hostile client: ${leak}`);
  evil.condemned = true;
  evil.process.kill("SIGKILL");
  await evil.gone(20_000);
}

// ---- the verdict ------------------------------------------------------------------------------------------------------

function median(numbers: number[]): number {
  const sorted = numbers.toSorted((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? 0;
}

/** The median of the windows' 99th percentiles. */
function p99Of(latencies: readonly number[]): { p99: number; windows: number } {
  const each: number[] = [];
  for (let at = 0; at + WINDOW <= latencies.length; at += WINDOW)
    each.push(latencies.slice(at, at + WINDOW).toSorted((a, b) => a - b)[Math.floor(0.99 * WINDOW) - 1]!);
  return { p99: median(each), windows: each.length };
}

function worst(list: Measured[], of: (phase: Phase) => number): { name: string; value: number } {
  const { name, phase } = list.toSorted((a, b) => of(b.phase) - of(a.phase))[0]!;
  return { name, value: of(phase) };
}

function compareDelays(): void {
  const basis = p99Of(calm.flatMap(({ phase }) => phase.latencies));
  const calmBlocked = worst(calm, (phase) => phase.blocked).value;
  const calmGap = worst(calm, (phase) => phase.gap).value;
  const rest = Math.min(...calm.map(({ phase }) => phase.fds).filter((fds) => fds > 0));
  process.stdout.write(
    `calm       honest p99 ${basis.p99.toFixed(2)} ms (${basis.windows} windows); the client's longest gap ` +
      `${calmGap.toFixed(0)} ms, ${calmBlocked.toFixed(0)} ms of its own doing; ${rest} descriptors\n`,
  );
  for (const [kind, list] of Map.groupBy(phases, (measured) => measured.kind)) {
    const beside = p99Of(calm.filter((it) => it.kind === kind).flatMap(({ phase }) => phase.latencies));
    const { p99, windows } = p99Of(list.flatMap(({ phase }) => phase.latencies));
    const blocked = worst(list, (phase) => phase.blocked);
    const gap = worst(list, (phase) => phase.gap);
    const fds = worst(list, (phase) => phase.fds);
    process.stdout.write(
      `${kind.padEnd(10)} honest p99 ${p99.toFixed(2)} ms (${windows} windows), calm between ${beside.p99.toFixed(2)} ms ` +
        `(${beside.windows}); longest gap ${gap.value.toFixed(0)} ms, ${blocked.value.toFixed(0)} ms of its own doing ` +
        `("${blocked.name}"); most descriptors ${fds.value} ("${fds.name}")\n`,
    );
    const calmP99 = Math.max(beside.p99, basis.p99);
    if (windows >= 10 && p99 > SLOWER * Math.max(calmP99, FLOOR_MS))
      problem(`under ${kind} the honest p99 is ${p99.toFixed(2)} ms, ${calmP99.toFixed(2)} ms beside a calm process`);
    if (blocked.value > calmBlocked + BLOCKED_MS)
      problem(`"${blocked.name}" blocked the client for ${blocked.value.toFixed(0)} ms`);
    if (fds.value > rest + MORE_FDS) problem(`"${fds.name}" gave the client ${fds.value} descriptors, not ${rest}`);
  }
}

function judge(): void {
  if (calm.length > 0) compareDelays();
  process.stdout.write(`${met}\n`);
  if ("evil".startsWith(values.attack)) {
    process.stdout.write(`${fled}\n`);
    for (const cell of fled.empty) problem(`a hostile client: never met: ${cell}`);
  }
  for (const cell of met.empty) {
    const quickOnly = size === "ci" && cell === "never-completes evicted";
    if (!quickOnly) problem(`never met: ${cell}`);
  }
  for (const [{ name, reason }, given] of reasons) {
    if (reason && !given.some((text) => reason.test(text)))
      problem(`"${name}" was never ended for its reason, but for: ${[...new Set(given)].join("; ") || "none"}`);
  }
  const grown = rss.at(-1)! - rss[0]!;
  if (grown > GROWTH_MIB) problem(`the client grew by ${grown.toFixed(1)} MiB`);
  if (values.attack === "" && tally.mutations < wantedMutations) problem(`only ${tally.mutations} mutations`);
  if (load.streams === 0) problem("nothing streamed");
  process.stdout.write(
    `${tally.attackers} attackers and calm ones, ${tally.lives} attached, ${tally.messages} messages, ` +
      `${tally.answers} right answers, ${load.forged} given to requests; honest answers ${load.answers}, ` +
      `errors of attackers' requests ${load.errors}; fresh workers ${tally.fresh}; client ${rss[0]!.toFixed(0)} to ` +
      `${rss.at(-1)!.toFixed(0)} MiB; ${((performance.now() - began) / 1000).toFixed(0)} s\n`,
  );
}

process.stdout.write(`seed ${seed}\n`);
try {
  await prove();
  judge();
} catch (error) {
  problem((error as Error).message);
} finally {
  await crew.endAll();
  rmSync(folder, { recursive: true });
}
process.stdout.write(`${problems.length === 0 ? "kept" : `BROKEN: ${problems.length} times`}\n`);
const { requests, streams, lost, doubled, misdelivered } = load;
const figures = { requests, streams, kills: tally.kills, mutations: tally.mutations, lost, doubled, misdelivered };
process.stdout.write(`${figuresLine({ ...figures, leaked: tally.leaked })}\n`);
process.exit(problems.length === 0 ? 0 : 1);
