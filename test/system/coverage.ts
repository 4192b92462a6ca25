/**
 * Lines and branches of csrc that are taken, by gcov: in the native tests, in the lives of life/ with each failing system
 * call and allocation, and in test files of Bun. A killed process loses its counts. With `COVERAGE=1` the branches that are
 * not taken are listed too.
 */

import { chmodSync, mkdirSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { type Checks, expect, needTool, note, Place, root, run } from "./checks.ts";
import { everyFailure } from "./syscalls.ts";
import { UNTAKEN } from "./untaken.ts";

/** Least shares, in percent. A run by itself takes more than 99 % and 89 %. */
const LINES = 98;
const BRANCHES = 87;

/** Tests of Bun that take what neither the native tests nor the lives take: a file, and a pattern of names. */
export const IN_BUN: Record<string, string> = {
  stats: "",
  control: "",
  supervisor: "leaves behind|environment|a start that fails",
  "portable-name": "share a name|for a host|, 10 times: Bun with the library",
};

/** Parts of the names of native tests that repeat the same lines for seconds, or measure milliseconds. */
const LONG = [
  "under random",
  "single instruction",
  "a million",
  "single one of its instructions",
  "whichever of its",
  "is woken by a",
];

const COUNTED = "--coverage -fprofile-update=atomic -fprofile-abs-path -O0 -Wl,--wrap=_exit,--wrap=kill";
const FLAGS = `-std=c11 -D_GNU_SOURCE -g -pthread -fno-strict-aliasing`;

function sourcesOf(...folders: string[]): string[] {
  const files = folders.flatMap((name) => readdirSync(join(root, name)).map((file) => join(root, name, file)));
  return files.filter((file) => file.endsWith(".c") && !file.endsWith("os_macos.c"));
}

/** Builds a program or a library with counts, in a folder of its own. Resolves to its path. */
async function build(place: Place, name: string, options: string[], inputs: string[]): Promise<string> {
  const folder = join(place.folder, name);
  mkdirSync(folder);
  chmodSync(folder, 0o777); // a worker of another user saves its counts too
  const all = [...`${FLAGS} ${COUNTED}`.split(" "), ...options, `-I${root}/csrc`, "-o", join(folder, name)];
  await run([needTool("gcc"), ...all, ...inputs, counts]);
  return join(folder, name);
}
const counts = join(import.meta.dir, "counts.c");

async function testsOfBun(place: Place): Promise<void> {
  const options = ["-shared", "-fPIC", "-fvisibility=hidden"];
  const SLOTBUS_LIB = await build(place, "libslotbus.so", options, sourcesOf("csrc"));
  const SLOTBUS_LAUNCHER = await build(place, "slotbus-launcher", [], sourcesOf("csrc/launcher"));
  for (const [name, pattern] of Object.entries(IN_BUN)) {
    const tests = ["test", "--timeout=20000", `./test/${name}.test.ts`, "-t", pattern];
    await run([process.execPath, ...tests], { SLOTBUS_LIB, SLOTBUS_LAUNCHER });
  }
}

// ---- what was taken -------------------------------------------------------------------------------------------

interface Line {
  count: number;
  branches: number[];
}
/** By file, then by line. */
type Taken = Map<string, Map<number, Line>>;

interface Report {
  files: {
    file: string;
    lines: { line_number: number; count: number; branches: { count: number }[] }[];
  }[];
}

/** Adds what the files of counts in a folder say about csrc. */
async function addCounts(folder: string, taken: Taken): Promise<void> {
  const files = readdirSync(folder).filter((file) => file.endsWith(".gcda"));
  expect(files.length > 0, `${folder} has no counts`);
  const output = await run(["sh", "-c", `cd "${folder}" && exec gcov -b -c --json-format --stdout ${files.join(" ")}`]);
  for (const text of output.split("\n").filter((line) => line.startsWith("{"))) {
    for (const { file, lines } of (JSON.parse(text) as Report).files) {
      if (!file.startsWith(join(root, "csrc/"))) continue;
      const name = file.slice(join(root, "csrc/").length);
      const known = taken.get(name) ?? new Map<number, Line>();
      taken.set(name, known);
      for (const { line_number, count, branches } of lines) {
        const line = known.get(line_number) ?? { count: 0, branches: branches.map(() => 0) };
        line.count += count;
        branches.forEach((branch, n) => (line.branches[n] = (line.branches[n] ?? 0) + branch.count));
        known.set(line_number, line);
      }
    }
  }
}

function percent(part: number, all: number): string {
  return `${((100 * part) / all).toFixed(1)} %`;
}

/** Returns the lines that are neither taken nor in the table, and notes the figures. */
function judge(taken: Taken): string[] {
  const sum = { lines: 0, takenLines: 0, branches: 0, takenBranches: 0 };
  const strange: string[] = [];
  for (const [file, lines] of [...taken].sort()) {
    const texts = readFileSync(join(root, "csrc", file), "utf8").split("\n");
    const listed = UNTAKEN.flatMap(({ lines: all }) => all[file] ?? []);
    const here = { lines: 0, takenLines: 0, branches: 0, takenBranches: 0 };
    for (const [number, { count, branches }] of lines) {
      const text = texts[number - 1]!.trim();
      here.lines++;
      here.branches += branches.length;
      here.takenBranches += branches.filter((n) => n > 0).length;
      if (count > 0) here.takenLines++;
      else if (!listed.includes(text)) strange.push(`${file}:${number}: ${text}`);
      else listed.splice(listed.indexOf(text), 1); // each entry is for one line
      const part = branches.filter((n) => n === 0).length;
      if (process.env["COVERAGE"] && count > 0 && part > 0)
        note(`${part} of ${branches.length} ${file}:${number} ${text}`);
    }
    note(
      `${file.padEnd(20)} ${percent(here.takenLines, here.lines)} of ${here.lines} lines, ${percent(here.takenBranches, here.branches || 1)} of ${here.branches} branches`,
    );
    for (const key of Object.keys(sum) as (keyof typeof sum)[]) sum[key] += here[key];
  }
  const figures = `${percent(sum.takenLines, sum.lines)} of ${sum.lines} lines, ${percent(sum.takenBranches, sum.branches)} of ${sum.branches} branches`;
  note(`all of csrc           ${figures}`);
  const enough = 100 * sum.takenLines >= LINES * sum.lines && 100 * sum.takenBranches >= BRANCHES * sum.branches;
  expect(
    enough,
    `the bar is ${LINES} % of the lines and ${BRANCHES} % of the branches, not ${figures}\n${strange.join("\n")}`,
  );
  return strange;
}

async function coverageOfCsrc(): Promise<void> {
  needTool("gcov");
  using place = new Place();
  chmodSync(place.folder, 0o711);
  const native = await build(place, "native", [], sourcesOf("csrc", "test/native"));
  const clock = performance.now();
  const timed = (what: string) => note(`${what}: ${((performance.now() - clock) / 1000).toFixed(0)} s`);
  await run(["sh", "-c", 'umask 0 && exec "$@"', "sh", native, "", ...LONG]);
  timed("after the native tests");
  const folder = join(place.folder, "life");
  mkdirSync(folder);
  await everyFailure(folder, [...COUNTED.split(" "), counts]);
  timed("after the lives");
  await testsOfBun(place);
  timed("after Bun");
  const taken: Taken = new Map();
  for (const name of readdirSync(place.folder)) await addCounts(join(place.folder, name), taken);
  const strange = judge(taken);
  expect(strange.length === 0, `never taken, and not in untaken.ts:\n${strange.join("\n")}`);
  for (const { lines } of UNTAKEN) {
    for (const [file, texts] of Object.entries(lines)) {
      const there = readFileSync(join(root, "csrc", file), "utf8")
        .split("\n")
        .map((text) => text.trim());
      for (const text of texts)
        expect(there.includes(text), `untaken.ts quotes a line that ${file} does not have: ${text}`);
    }
  }
}

export const checks: Checks = {
  [`the tests take ${LINES} % of the lines and ${BRANCHES} % of the branches of csrc, and every line that is not listed`]:
    coverageOfCsrc,
};
