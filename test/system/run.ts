/**
 * Runs the checks that need Debian's tools or root. A check passes, fails, or lacks a tool or right. The run succeeds only if
 * every check passes. `test/system/install.sh` installs the tools. A group of checks is a file; if `../prove/proved.json` has it
 * with the files of today, it is not run, except for a random sample.
 *
 *     bun test/system/run.ts --all                           every check
 *     bun test/system/run.ts "part of a check's sentence"    these checks, changed or not
 *     bun test/system/run.ts --record                        stores which groups passed
 */

import { basename } from "node:path";
import { parseArgs } from "node:util";
import { linesOf, tell } from "../outcomes.ts";
import { remote } from "../portable-suites.ts";
import { filesOf, Inputs, LIBRARY, type Proved, ProvedRecord, sample } from "../prove/proved.ts";
import { checks as browser } from "./browser.ts";
import { checks as bullmq } from "./bullmq.ts";
import { type Checks, Lacking, withNotes } from "./checks.ts";
import { checks as clocks } from "./clocks.ts";
import { checks as containers } from "./containers.ts";
import { checks as coverage, IN_BUN } from "./coverage.ts";
import { checks as crossBuild } from "./crossbuild.ts";
import { checks as descriptors } from "./descriptors.ts";
import { checks as front } from "./front.ts";
import { checks as fuzz } from "./fuzz.ts";
import { checks as installed } from "./installed.ts";
import { checks as large } from "./large.ts";
import { checks as memory } from "./memory.ts";
import { checks as natsClaims } from "./nats-claims.ts";
import { checks as natsEvents } from "./nats-events.ts";
import { checks as nats } from "./nats.ts";
import { checks as nginx } from "./nginx.ts";
import { checks as packaged } from "./package.ts";
import { checks as pages } from "./pages.ts";
import { checks as pictures } from "./pictures.ts";
import { checks as processes } from "./processes.ts";
import { checks as processors } from "./processors.ts";
import { checks as reference } from "./reference.ts";
import { checks as rivals } from "./rivals.ts";
import { HARD, checks as sanitizers } from "./sanitizers.ts";
import { checks as silence } from "./silence.ts";
import { checks as sockets } from "./sockets.ts";
import { checks as stdio } from "./stdio.ts";
import { checks as syscalls } from "./syscalls.ts";
import { checks as systemd } from "./systemd.ts";
import { checks as tls } from "./tls.ts";
import { checks as users } from "./users.ts";
import { checks as versions } from "./versions.ts";

/** Each group by the name of its file, without `.ts`. */
const groups: { [name: string]: Checks } = {
  sanitizers,
  coverage,
  fuzz,
  crossbuild: crossBuild,
  package: packaged,
  reference,
  installed,
  silence,
  syscalls,
  large,
  memory,
  tls,
  users,
  descriptors,
  processes,
  processors,
  containers,
  versions,
  clocks,
  browser,
  sockets,
  pages,
  pictures,
  bullmq,
  rivals,
  nginx,
  nats,
  front,
  "nats-claims": natsClaims,
  "nats-events": natsEvents,
  stdio,
  systemd,
};

/** Files on which a group depends besides its own, the library and the native tests. */
const packed = ["README.md", "CHANGELOG.md", "LICENSE", "SECURITY.md", "bench", "docs", "examples", "pack.ts"];
const more: { [name: string]: string[] } = {
  package: packed,
  installed: packed,
  reference: packed,
  pages: [...packed, "CONTRIBUTING.md"],
  bullmq: ["docs/recipes.md"],
  rivals: ["bench"],
  systemd: ["docs"],
  coverage: Object.keys(IN_BUN).map((name) => `test/${name}.test.ts`),
  nats: [
    "docs/many-machines.md",
    "docs/nats.md",
    ...Object.keys(remote).map((name) => `test/${name}.test.ts`),
    "test/portable-suites.ts",
  ],
  sanitizers: HARD.map((name) => `test/${name}.test.ts`),
};

/**
 * Groups that run beside each other: they measure neither times nor memory, and do not keep both processors busy. A lane runs
 * its groups one after the other, because they build or install in the same folders. All other groups run alone.
 */
const lanes = [
  ["package", "reference", "installed", "pages", "pictures", "versions"],
  ["large", "tls", "users", "containers", "browser", "nginx", "front", "stdio", "systemd", "bullmq"],
];

/** Hash of what a group depends on now. */
function hashOf(group: string): string {
  const inputs = new Inputs();
  const isOwn = (file: string): boolean => file.split("/").length > 3 || !groups[basename(file, ".ts")];
  const shared = filesOf(["test/system", "test/fixtures"]).filter((file) => isOwn(file) && !file.endsWith("/run.ts"));
  const own = inputs.closure([`test/system/${group}.ts`, ...shared, ...filesOf(more[group] ?? [])]);
  return inputs.hash([...own, ...filesOf([...LIBRARY, "test/native"])]);
}

const options = { all: { type: "boolean", default: false }, record: { type: "boolean", default: false } } as const;
const { values, positionals } = parseArgs({ options, allowPositionals: true });
const [part = ""] = positionals;
const record = new ProvedRecord();

/** What was proved for the files of today, by group. */
const proved = new Map<string, Proved>();
for (const group of values.all || part ? [] : Object.keys(groups)) {
  const found = record.find(`checks ${group}`, hashOf(group));
  if (found) proved.set(group, found);
}
const again = sample([...proved.keys()], (group) => proved.get(group)!.seconds);

const counts = { passed: 0, failed: 0, lacking: 0 };

async function runCheck(sentence: string, check: () => Promise<void>): Promise<boolean> {
  const start = performance.now();
  let verdict: keyof typeof counts = "passed";
  let why = "";
  const notes: string[] = [];
  try {
    await withNotes(notes, check);
  } catch (error) {
    verdict = error instanceof Lacking ? "lacking" : "failed";
    why = `\n${(error as Error).message}`;
  }
  counts[verdict]++;
  tell({ name: sentence, verdict: verdict === "passed" ? verdict : "failed", lines: linesOf(why) });
  const seconds = ((performance.now() - start) / 1000).toFixed(1);
  const text = [...notes, why].filter((line) => line !== "").join("\n");
  process.stdout.write(
    `${verdict.padEnd(7)} ${sentence} (${seconds} s)${text && `\n${text.trim()}`.replaceAll("\n", "\n     ")}\n`,
  );
  return verdict === "passed";
}

async function runGroup(group: string): Promise<void> {
  const checks = groups[group]!;
  const before = proved.get(group);
  if (before && !again.includes(group)) {
    process.stdout.write(`recorded ${group}: proved on ${before.date}: ${before.figures}\n`);
    const lines = [`${before.date}: ${before.figures}`];
    tell({ name: group, verdict: "recorded", lines, count: Object.keys(checks).length });
    return;
  }
  const hash = values.record && !part ? hashOf(group) : "";
  const start = performance.now();
  let passed = 0;
  const chosen = Object.entries(checks).filter(([sentence]) => sentence.includes(part));
  for (const [sentence, check] of chosen) if (await runCheck(sentence, check)) passed++;
  if (hash === "") return;
  const isWhole = passed === chosen.length && hash === hashOf(group);
  const seconds = (performance.now() - start) / 1000;
  record.store([[`checks ${group}`, isWhole ? { hash, seconds, figures: `${passed} passed` } : null]]);
}
const ordered = new Set(lanes.flat());
for (const group of Object.keys(groups)) if (!ordered.has(group)) await runGroup(group);
await Promise.all(
  lanes.map(async (lane) => {
    for (const group of lane) await runGroup(group);
  }),
);
const lacking = counts.lacking > 0 ? `, ${counts.lacking} lacking` : "";
process.stdout.write(`${counts.passed} passed, ${counts.failed} failed${lacking}\n`);
process.exit(counts.failed + counts.lacking > 0 || counts.passed === 0 ? 1 : 0);
