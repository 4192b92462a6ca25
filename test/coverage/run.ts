/**
 * Lines of `src/` that the tests take, in `bun test` and in the processes that the tests start and that exit (`processes.ts`).
 * Fails below the share of lines that `ci.json` gives, and for a file below its share that `ci.json` does not list with a reason.
 * The last line has the figures. Failed tests do not count here: they are slower with counts, and `npm test` judges them.
 *
 *     bun test/coverage/run.ts                     runs all tests, 5 to 15 minutes
 *     bun test/coverage/run.ts --folder FOLDER     keeps the counts there; judges them again if there are any
 */

import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import type { Expected } from "../ci/stages.ts";

const root = join(import.meta.dir, "../..");

/** Lines of one file. */
interface Lines {
  /** Number of lines with code. */
  all: number;
  /** Lines with code that no process took. */
  left: Set<number>;
}

function percent({ all, left }: Lines): number {
  return all === 0 ? 100 : (100 * (all - left.size)) / all;
}

/** Returns the lines that `2,5-7` stands for. */
function rangesOf(text: string): Set<number> {
  const lines = new Set<number>();
  for (const range of text.split(",").filter((one) => one.trim() !== "")) {
    const [first, last = first] = range.split("-").map(Number);
    for (let line = first!; line <= last!; line++) lines.add(line);
  }
  return lines;
}

/** Returns `2,5-7` for these lines. */
function textOf(lines: Set<number>): string {
  const ranges: [first: number, last: number][] = [];
  for (const line of [...lines].sort((a, b) => a - b)) {
    const range = ranges.at(-1);
    if (range?.[1] === line - 1) range[1] = line;
    else ranges.push([line, line]);
  }
  return ranges.map(([first, last]) => (first === last ? first : `${first}-${last}`)).join(",");
}

/** Reports of single processes, by file: LCOV of `bun test`, and lines of `processes.ts`. */
function* reportsIn(folder: string): Generator<[file: string, Lines]> {
  const files = readdirSync(folder, { recursive: true, encoding: "utf8" });
  for (const path of files.filter((one) => one.endsWith("lcov.info"))) {
    for (const record of readFileSync(join(folder, path), "utf8").split("end_of_record")) {
      const file = /^SF:(.*)$/m.exec(record)?.[1];
      const lines = [...record.matchAll(/^DA:(\d+),(\d+)/gm)];
      const left = lines.filter(([, , count]) => count === "0").map(([, line]) => Number(line));
      if (file?.startsWith("src/")) yield [file, { all: lines.length, left: new Set(left) }];
    }
  }
  for (const path of files.filter((one) => one.endsWith(".txt"))) {
    for (const line of readFileSync(join(folder, path), "utf8").split("\n")) {
      const [file = "", , share = "", ranges = ""] = line.split("|").map((word) => word.trim());
      const left = rangesOf(ranges);
      const all = left.size === 0 ? 0 : Math.round(left.size / (1 - Number(share) / 100));
      if (file) yield [file.slice(root.length + 1), { all, left }];
    }
  }
}

/** Returns the lines of each file of `src/` that has code. A file that no process loaded has as many lines as its text. */
function collect(folder: string): Map<string, Lines> {
  const seen = new Map<string, Lines>();
  for (const [file, { all, left }] of reportsIn(folder)) {
    const known = seen.get(file);
    if (known) known.left = known.left.intersection(left);
    if (known) known.all = Math.max(known.all, all);
    else seen.set(file, { all, left });
  }
  for (const path of new Bun.Glob("src/**/*.ts").scanSync(root)) {
    const text = readFileSync(join(root, path), "utf8");
    if (seen.has(path) || new Bun.Transpiler({ loader: "ts" }).transformSync(text).trim() === "") continue;
    const all = text.split("\n").length;
    seen.set(path, { all, left: rangesOf(`1-${all}`) });
  }
  return seen;
}

/** Prints the files below their share; returns what is wrong. */
function judge(lines: Map<string, Lines>, { least, file: share, below }: Expected["lines"]): string[] {
  const wrong: string[] = [];
  const listed = new Map(below.flatMap(({ reason, files }) => files.map((file) => [file, reason])));
  for (const file of listed.keys()) if (!lines.has(file)) wrong.push(`ci.json lists ${file}, which has no lines`);
  let [all, left] = [0, 0];
  for (const [file, counted] of [...lines].sort()) {
    all += counted.all;
    left += counted.left.size;
    if (percent(counted) >= share) continue;
    const what = `${file}: ${percent(counted).toFixed(1)} % of ${counted.all} lines`;
    const reason = listed.get(file);
    process.stdout.write(`${what}${reason ? `; ${reason}` : ""}; not ${textOf(counted.left)}\n`);
    if (!reason) wrong.push(`${what}, and ci.json has no reason`);
  }
  const total = (100 * (all - left)) / all;
  if (!(total >= least)) wrong.push(`fewer lines than ${least} %`);
  for (const what of wrong) process.stdout.write(`FAILED ${what}\n`);
  process.stdout.write(`${total.toFixed(1)} % of ${all} lines of src/ in ${lines.size} files\n`);
  return wrong;
}

const { values } = parseArgs({ options: { folder: { type: "string" } } });
const folder = values.folder ?? mkdtempSync(join(tmpdir(), "slotbus-coverage-"));
if (!existsSync(join(folder, "processes"))) {
  mkdirSync(join(folder, "processes"), { recursive: true });
  const lanes = [process.execPath, join(root, "test/lanes.ts"), "--counts", folder];
  const env = {
    ...process.env,
    SLOTBUS_COVERAGE: join(folder, "processes"),
    BUN_OPTIONS: `--preload=${join(import.meta.dir, "processes.ts")}`,
    BUN_JSC_useControlFlowProfiler: "1", // counts lines
  };
  await Bun.spawn(lanes, { cwd: root, env, stdio: ["ignore", "inherit", "inherit"] }).exited;
}
const { lines } = (await Bun.file(join(root, "test/ci.json")).json()) as Expected;
const wrong = judge(collect(folder), lines);
if (values.folder === undefined) rmSync(folder, { recursive: true });
process.exit(wrong.length === 0 ? 0 : 1);
