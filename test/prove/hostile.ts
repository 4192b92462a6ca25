/**
 * Hostile workers: `bun test/prove/hostile.ts [ci | quick | long] [--seed N] [--attack NAME] [--minutes N]`.
 *
 * A client and two honest workers run under a steady load, and one attacker after another attacks the client
 * (`hostile/attacks.ts`). Attackers are C programs that attach like any worker and then write into every shared field, flood
 * the socket, or spoil the handshake. The client must survive, the honest workers' requests must not be affected, and an
 * attacker that breaks the protocol must be evicted or refused with the right reason.
 *
 * Delays are compared within the run, attack by attack: before and after each attack, a `calm` process that attacks nobody
 * keeps the same processor as busy. Processor time is the scheduler's task; only the effect of writes into the region is
 * judged here. All attackers and the calm process are pinned to the last processor; client and workers may use all. The proof
 * compares windows of a hundred responses each: other work on the machine slows some of them, an attack slows all.
 */

import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { until } from "../support.ts";
import { Actor, type Common, Crew, endOnSignal } from "./actor.ts";
import { Histogram, sizeAsked } from "./figures.ts";
import { type Attack, ATTACKS, type Kind, KINDS, OUTCOMES, type Outcome } from "./hostile/attacks.ts";
import { AttackBooks } from "./hostile/attack-books.ts";
import type { Order as EvilOrder, Report as EvilReport } from "./hostile/evil.ts";
import { EVIL, LEGAL } from "./hostile/evils.ts";
import type { Order, Phase, Report, Tally } from "./hostile/client.ts";
import type { Report as VictimReport } from "./hostile/victim.ts";
import { serveHonestly } from "./hostile/worker.ts";
import { Proof } from "./proof.ts";
import { Random } from "./soak/request-books.ts";

/** `ms`: duration of an attack that the client does not end. `runs`: consecutive attackers of one attack. */
const SIZES = {
  ci: { mutations: 10_000_000, ms: 60, runs: 3, minutes: 0, calmMs: 40 },
  quick: { mutations: 100_000_000, ms: 150, runs: 5, minutes: 0, calmMs: 120 },
  long: { mutations: 1_000_000_000, ms: 300, runs: 5, minutes: 60, calmMs: 200 },
} as const;
const size = sizeAsked();
const { mutations: wantedMutations, ms: attackMs, runs: usualRuns, calmMs, minutes } = SIZES[size];
const proof = new Proof("hostile", { attack: "", minutes });
const { seed, folder, runtime: busDirectory, problems, problem } = proof;
const only = proof.text("attack");
const wantedMs = proof.number("minutes") * 60_000;

const WORKERS = 2;
/** Under attack, a quarter of the windows at least has a p99 of at most this many times the p99 beside a calm process. */
const SLOWER = 3;
/** Honest responses per window. Windows of equal size are comparable, even if attacks differ in length. */
const WINDOW = 100;
/** A p99 below this says more about the machine than about the library, in ms. */
const FLOOR_MS = 2;
/** Descriptors that the client may have beyond its count at rest: handshakes, an attacker, four evicted workers. */
const MORE_FDS = 224;
/** How much longer than in the calm phases the client's timer may be delayed while the client has a processor, in ms. */
const BLOCKED_MS = 200;
/** How much the client's own memory may grow, in MiB. */
const GROWTH_MIB = 48;
/** Length of a rest in ms, and the processor time in ms and the wake-ups that the client may use in it. */
const REST_MS = 300;
const REST_CPU_MS = 30;
const REST_WAKEUPS = 10;
/** Longest duration of an attack that must end in an eviction; the eviction ends it. */
const EVICTED_MS = 10_000;
/** Attackers of an attack on shared memory that may find nothing to attack, before that is a problem. */
const MAY_MISS = 2;

const root = join(import.meta.dir, "../..");
const attacks = ATTACKS.filter(({ name }) => name.startsWith(only));
if (attacks.length === 0 && !"evil".startsWith(only)) {
  const names = new Set([...ATTACKS.map(({ name }) => name), "evil"]);
  problem(`There is no attack "${only}". Choose one of: ${[...names].join(", ")}.`);
  proof.end({});
}
const busName = `hostile-${process.pid}`;
const books = AttackBooks.create(folder, 50_000_000 + (wantedMs / 1000) * 20_000);
const random = new Random(seed);

const tally = {
  attackers: 0,
  mutations: 0,
  messages: 0,
  answers: 0,
  lives: 0,
  leaked: 0,
  fresh: 0,
  kills: 0,
};
/** Attacks of the attackers that found nothing to attack. */
const missed: string[] = [];
let load: Tally = { requests: 0, answers: 0, forged: 0, streams: 0, errors: 0, lost: 0, doubled: 0, misdelivered: 0 };

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

/** The client's reasons, by attack. */
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

/** Waits for the end of an attacker. One that takes too long is killed and reported. */
async function finish({ process: child }: Attacker, name: string): Promise<void> {
  const timer = setTimeout(() => {
    problem(`attacker "${name}" did not end by itself`);
    tally.kills++;
    child.kill("SIGKILL");
  }, 40_000);
  const code = await child.exited;
  clearTimeout(timer);
  if (code !== 0) problem(`attacker "${name}" pid ${child.pid} ended with ${code}`);
}

/** Runs an attacker, and another one in place of each that found nothing to attack. */
async function run(attack: Attack): Promise<void> {
  for (let tries = 1; !(await hits(attack)); tries++) {
    missed.push(attack.name);
    if (tries > MAY_MISS) return problem(`${tries} attackers "${attack.name}" found nothing to attack`);
  }
}

/** Runs an attacker. Resolves to `false` if it should have been evicted, and found no memory to change in its time. */
async function hits(attack: Attack): Promise<boolean> {
  const { name } = attack;
  const attacker = launch(name, attack.ms ?? (attack.outcomes[0] === "evicted" ? EVICTED_MS : attackMs));
  await finish(attacker, name);
  const report = books.report(attacker.line);
  if (!report.over) problem(`attacker "${name}" did not finish its attack`);
  if (report.granted > 0)
    problem(`the kernel allowed ${report.granted} forbidden calls on the memfd of attacker "${name}"`);
  for (const figure of ["mutations", "messages", "answers", "lives"] as const) tally[figure] += report[figure];
  const { pid } = attacker.process;
  const expects = attack.outcomes;
  client.tell({ do: "fate", pid, lives: report.lives, expects, also: attack.also ?? [] });
  const fate = await client.hear("fate", 20_000);
  if (attack.endless && fate.wholeStreams > 0)
    problem(`${fate.wholeStreams} streams of attacker "${name}" ended as if they were complete`);
  const found = report.mutations > 0 || !writes(attack.kind);
  if (!found && !expects.includes("survived") && fate.outcomes.join() === "survived") return false;
  for (const outcome of fate.outcomes) {
    met.add(name, outcome);
    if (![...expects, ...(attack.also ?? [])].includes(outcome))
      problem(`attacker "${name}" was ${outcome}: ${fate.reasons.join("; ") || "no reason"}`);
  }
  reasons.set(attack, [...(reasons.get(attack) ?? []), ...fate.reasons]);
  return true;
}

/** Whether attacks of a kind change shared memory; others send messages. Rings of streams are memory too. */
function writes(kind: Kind): boolean {
  return kind !== "socket" && kind !== "handshakes";
}

// ---- phases -----------------------------------------------------------------------------------------------------------

interface Measured {
  kind: Kind;
  name: string;
  phase: Phase;
}
const phases: Measured[] = [];
const calm: Measured[] = [];

/** Measures the client while `what` runs. */
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

/** Checks that a new honest worker can attach, respond and leave. */
async function welcomeFresh(): Promise<void> {
  let answered = 0;
  const worker = await serveHonestly(busName, busDirectory, books, problem, () => void answered++);
  await until(() => answered > 0, "a fresh worker has responded").catch((error) => problem(error.message));
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

/** Checks that the client sleeps while there is no request and no attacker. */
async function rest(after: string): Promise<void> {
  await Bun.sleep(50);
  const before = usage(client.pid);
  await Bun.sleep(REST_MS);
  const now = usage(client.pid);
  const cpuMs = now.cpuMs - before.cpuMs;
  const wakeups = now.switches - before.switches;
  if (cpuMs > REST_CPU_MS)
    problem(`after "${after}" the client used ${cpuMs} ms of processor time in ${REST_MS} ms of rest`);
  if (wakeups > REST_WAKEUPS) problem(`after "${after}" the client woke up ${wakeups} times in ${REST_MS} ms of rest`);
}

/** Usage of the main thread, which a timer that is left would wake. */
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

/** Runs all attacks, each several times in a row. */
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
  while (problems.length === 0 && only === "" && (tally.mutations < wantedMutations || proof.ms < wantedMs));
  if ("evil".startsWith(only)) await attackWorker();
  for (const actor of [client, ...workers]) actor.condemned = true;
  client.tell({ do: "end" });
  await client.gone();
  const files = readdirSync(busDirectory).filter((file) => !file.startsWith(`${busName}-evil.`)); // it was killed
  if (files.length > 0) problem(`the bus left ${files.join(", ")}`);
}

// ---- a client that is hostile ------------------------------------------------------------------------------------------

/** Whether the worker left a client that broke the rules of streams. */
const fled = new Histogram<string, "left" | "stayed">(
  EVIL,
  ["left", "stayed"],
  new Set(EVIL.map((how) => `${how} ${LEGAL.includes(how) ? "left" : "stayed"}` as const)),
);

/** Attacks a worker that also serves the honest client, whose load continues. */
async function attackWorker(): Promise<void> {
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
      if (handled.foreign > 0)
        problem(`a worker read ${handled.foreign} bytes that its client did not send ("${how}")`);
      if (left) {
        const { code, message } = await victim.hear("left", 20_000);
        if (code !== "REGION_CORRUPT" || !message.includes("invalid counts"))
          problem(`"${how}": the worker left with the reason "${message}"`);
        if (handled.error !== "REGION_CORRUPT") problem(`"${how}": the handler got the error "${handled.error}"`);
      }
      fled.add(how, left ? "left" : "stayed");
      if (left === LEGAL.includes(how)) problem(`a worker ${left ? "left" : "did not leave"} a client after "${how}"`);
    }
  }
  victim.condemned = true;
  victim.tell("end");
  await victim.gone();
  client.tell({ do: "rest" });
  client.tell({ do: "quiet", workers: WORKERS });
  const { leaks, tally: sums } = await client.hear("quiet", 120_000);
  load = sums;
  for (const leak of leaks) problem(`after a hostile client: ${leak}`);
  evil.condemned = true;
  evil.process.kill("SIGKILL");
  await evil.gone();
}

// ---- the verdict ------------------------------------------------------------------------------------------------------

function median(numbers: number[]): number {
  const sorted = numbers.toSorted((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? 0;
}

/** The median and the lower quartile of the windows' 99th percentiles. */
function p99Of(latencies: readonly number[]): { p99: number; quartile: number; windows: number } {
  const each: number[] = [];
  for (let at = 0; at + WINDOW <= latencies.length; at += WINDOW)
    each.push(latencies.slice(at, at + WINDOW).toSorted((a, b) => a - b)[Math.floor(0.99 * WINDOW) - 1]!);
  const quartile = each.toSorted((a, b) => a - b)[each.length >> 2] ?? 0;
  return { p99: median(each), quartile, windows: each.length };
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
      `${calmGap.toFixed(0)} ms, ${calmBlocked.toFixed(0)} ms with a processor; ${rest} descriptors\n`,
  );
  for (const [kind, list] of Map.groupBy(phases, (measured) => measured.kind)) {
    const beside = p99Of(calm.filter((it) => it.kind === kind).flatMap(({ phase }) => phase.latencies));
    const { p99, quartile, windows } = p99Of(list.flatMap(({ phase }) => phase.latencies));
    const blocked = worst(list, (phase) => phase.blocked);
    const gap = worst(list, (phase) => phase.gap);
    const fds = worst(list, (phase) => phase.fds);
    process.stdout.write(
      `${kind.padEnd(10)} honest p99 ${p99.toFixed(2)} ms (${windows} windows), calm between ${beside.p99.toFixed(2)} ms ` +
        `(${beside.windows}); longest gap ${gap.value.toFixed(0)} ms, ${blocked.value.toFixed(0)} ms with a processor ` +
        `("${blocked.name}"); most descriptors ${fds.value} ("${fds.name}")\n`,
    );
    const calmP99 = Math.max(beside.p99, basis.p99);
    if (windows >= 10 && quartile > SLOWER * Math.max(calmP99, FLOOR_MS))
      problem(
        `under ${kind} 3 in 4 honest p99 exceed ${quartile.toFixed(2)} ms; beside a calm process: ${calmP99.toFixed(2)} ms`,
      );
    if (blocked.value > calmBlocked + BLOCKED_MS)
      problem(`"${blocked.name}" blocked the client for ${blocked.value.toFixed(0)} ms`);
    if (fds.value > rest + MORE_FDS) problem(`"${fds.name}" gave the client ${fds.value} descriptors, not ${rest}`);
  }
}

function judge(): void {
  if (calm.length > 0) compareDelays();
  process.stdout.write(`${met}\n`);
  if ("evil".startsWith(only)) {
    process.stdout.write(`${fled}\n`);
    for (const cell of fled.empty) problem(`a hostile client: never occurred: ${cell}`);
  }
  for (const cell of met.empty) {
    const quickOnly = size === "ci" && cell === "never-completes evicted";
    if (!quickOnly) problem(`never occurred: ${cell}`);
  }
  for (const [{ name, reason }, given] of reasons) {
    if (reason && !given.some((text) => reason.test(text)))
      problem(`attack "${name}" never got its reason, only: ${[...new Set(given)].join("; ") || "none"}`);
  }
  const grown = rss.at(-1)! - rss[0]!;
  if (grown > GROWTH_MIB) problem(`the client grew by ${grown.toFixed(1)} MiB`);
  if (only === "" && tally.mutations < wantedMutations) problem(`only ${tally.mutations} mutations`);
  if (load.streams === 0) problem("nothing streamed");
  process.stdout.write(
    `${tally.attackers} attackers and calm ones, ${tally.lives} attached, ${tally.messages} messages, ` +
      `${tally.answers} right answers, ${load.forged} given to requests; honest answers ${load.answers}, ` +
      `errors of attackers' requests ${load.errors}; fresh workers ${tally.fresh}; ${missed.length} found nothing to attack` +
      `${missed.map((name) => ` ${name}`).join()}; client ${rss[0]!.toFixed(0)} to ` +
      `${rss.at(-1)!.toFixed(0)} MiB; ${proof.verdict}\n`,
  );
}

endOnSignal(crew, folder);
try {
  await prove();
  judge();
} catch (error) {
  problem((error as Error).message);
}
await crew.endAll();
process.stdout.write(`${problems.length === 0 ? "kept" : `BROKEN: ${problems.length} times`}\n`);
const { requests, streams, lost, doubled, misdelivered } = load;
const figures = { requests, streams, kills: tally.kills, mutations: tally.mutations, lost, doubled, misdelivered };
proof.end({ ...figures, leaked: tally.leaked });
