/**
 * All parts at once, for a long time, with too little memory:
 * `bun test/prove/together.ts [ci | quick | long] [--seed N] [--requests N] [--minutes N] [--plant PROCESS,... | all]
 * [--leak BYTES]`.
 *
 * A client of a bus with requests and streams, and its worker; a publisher and subscribers; a hub, its worker and its clients;
 * a stdio bus and its workers. One process more takes memory and frees it, in a control group whose limit all of them meet; or,
 * where there can be no such group, up to a share of the machine's free memory. Each request and each event is in the books.
 * At quiet points each process collects its garbage, and its heap must not grow with its requests.
 *
 * `plant` makes processes leak a few bytes per request. Then the run passes only if exactly those processes are found.
 */

import { closeSync, existsSync, openSync, readFileSync, rmdirSync, truncateSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { until } from "../support.ts";
import { Group } from "../system/cgroup.ts";
import { Lacking } from "../system/checks.ts";
import { Actor, Crew, endOnSignal } from "./actor.ts";
import { sizeAsked } from "./figures.ts";
import { Course } from "./memory.ts";
import { Proof, say } from "./proof.ts";
import { busPart } from "./together/bus.ts";
import { eventsPart } from "./together/events.ts";
import { hubPart } from "./together/hub.ts";
import { type Part, type Process, PROCESSES, type Site } from "./together/part.ts";
import { stdioPart } from "./together/stdio.ts";

/** Fewest requests of each part, and least time of the run. */
const SIZES = {
  ci: { requests: 20_000, minutes: 0 },
  quick: { requests: 40_000, minutes: 1 },
  long: { requests: 100_000, minutes: 10 },
} as const;
const proof = new Proof("together", { ...SIZES[sizeAsked()], plant: "", leak: 20 });
const { seed, folder, problem, problems } = proof;
const requests = proof.number("requests");
const plants = proof.text("plant") === "all" ? [...PROCESSES] : proof.text("plant").split(",").filter(Boolean);
const unknown = plants.find((name) => !PROCESSES.includes(name as Process));
if (unknown) throw new Error(`There is no process "${unknown}". Choose of: ${PROCESSES.join(", ")}.`);
const leakOf = (name: Process): number => (plants.includes(name) ? proof.number("leak") : 0);

/** Points at which memory is noted, after the first. */
const POINTS = 10;
const MEBIBYTE = 2 ** 20;
/** Memory of the control group, and the most that its eater takes. The other processes take up to 620 MiB between collections. */
const LIMIT = 1_536 * MEBIBYTE;
const EATEN = 384 * MEBIBYTE;
/** Share of the free memory that the eater takes where there is no control group; the rest is for other programs. */
const SHARE = 0.5;

/** Moves this process and all that it starts into a control group. Returns how often the group met its limit, or `null`. */
function enterGroup(): (() => number) | null {
  let group: Group;
  try {
    group = new Group("memory", LIMIT);
  } catch (error) {
    if (error instanceof Lacking) return null;
    throw error;
  }
  const enter = (cgroup: string): void => writeFileSync(join(cgroup, "cgroup.procs"), String(process.pid));
  enter(group.folder);
  process.on("exit", () => {
    enter(dirname(group.folder));
    for (let i = 0; i < 100; i++) {
      try {
        return rmdirSync(group.folder);
      } catch {
        Bun.sleepSync(50); // a killed process has not left it yet
      }
    }
  });
  const old = join(group.folder, "memory.failcnt");
  return () => (existsSync(old) ? Number(readFileSync(old, "latin1")) : group.figure("memory.events", "max"));
}

function startEater(isInGroup: boolean): void {
  const hole = join(folder, "hole");
  closeSync(openSync(hole, "wx"));
  truncateSync(hole, LIMIT);
  const [, free] = /^MemAvailable:\s+(\d+)/m.exec(readFileSync("/proc/meminfo", "latin1"))!;
  const bytes = isInGroup ? EATEN : SHARE * Number(free) * 1024;
  void new Actor(crew, "together/eater.ts", [isInGroup ? hole : "", String(bytes)]);
  const where = isInGroup ? `a control group of ${LIMIT / MEBIBYTE} MiB` : `${SHARE * 100} % of the free memory`;
  say(`memory: one process takes and frees up to ${Math.round(bytes / MEBIBYTE)} MiB, in ${where}`);
}

const crew = new Crew("", problem);
const courses = Object.fromEntries(PROCESSES.map((name) => [name, new Course(name)])) as Site["courses"];
const sums = { lost: 0, doubled: 0, wrong: 0 };
const site: Site = { crew, folder, problem, courses, leakOf, sums };
let leaked = 0;

/** Lets all parts work until each has done its share, then adds a point to each course. */
async function point(): Promise<void> {
  const end = performance.now() + (proof.number("minutes") * 60_000) / POINTS;
  const goals = parts.map((part) => part.done + requests / POINTS);
  for (const part of parts) part.resume();
  const isDone = (): boolean => performance.now() >= end && parts.every((part, i) => part.done >= goals[i]!);
  await until(() => isDone() || problems.length > 0, "each part has done its share", 30 * 60_000);
  for (const part of parts) await part.still();
  for (const part of parts) await part.count();
  say(`point after ${parts.map(({ done }) => done).join(" + ")} requests and events`);
}

/** The memory of each process must not grow, except in those with a planted leak, which must be found. */
function judge(): void {
  for (const name of PROCESSES) {
    const growth: string[] = [];
    courses[name].judge((what) => growth.push(what));
    const isPlanted = plants.includes(name);
    if (isPlanted && growth.length === 0) problem(`the leak of the ${name} was not found`);
    for (const what of growth) {
      if (isPlanted) say(`found, as planted: ${what}`);
      else problem(what);
    }
    if (!isPlanted) leaked += growth.length;
  }
}

endOnSignal(crew, folder);
const limitsMet = enterGroup();
const events = eventsPart(site);
const bus = busPart(site, seed);
const parts: Part[] = [bus, events, hubPart(site, seed), stdioPart(site)];
try {
  for (const part of parts) await part.start();
  startEater(limitsMet !== null);
  for (let n = 0; n <= POINTS && problems.length === 0; n++) await point();
  say(
    `limit met ${limitsMet?.() ?? 0} times; events lost for slow subscribers, and counted: ${events.lost}; ${proof.verdict}`,
  );
  if (limitsMet?.() === 0) problem("the processes never met the limit of their memory");
  if (events.lost === 0) problem("no slow subscriber lost an event");
  for (const part of parts) await part.end();
} catch (error) {
  problem(`aborted: ${error instanceof Error ? error.stack : error}`);
}
await crew.endAll();
if (problems.length === 0) judge();
proof.end({
  requests: parts.reduce((all, { done }) => all + done, 0),
  streams: bus.streams,
  lost: sums.lost,
  doubled: sums.doubled,
  misdelivered: sums.wrong,
  leaked,
});
