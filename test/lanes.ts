/**
 * `npm test`: all tests, in random order. Two files at a time, then one by one the files that `serial` in `ci.json` lists,
 * because they measure milliseconds. Each lane prints its seed.
 *
 *     npm test [-- --junit FOLDER]               --junit: a report of each lane
 *     npm test -- --counts FOLDER                counts lines, for coverage/run.ts
 *     npm test -- [options of bun test] FILE     these files only, one by one
 */

import { availableParallelism } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { findLauncher, findLibrary } from "../src/native/find.ts";
import type { Expected } from "./ci/stages.ts";

/** Time limit of a test that has none of its own, in ms: it ends a test that hangs, also on a busy machine. */
const LIMIT_MS = 20_000;

/** The time limit with `--counts`, which makes the tests slower. */
const COUNTED_MS = 60_000;

const args = process.argv.slice(2);
const { values } = parseArgs({
  args,
  options: { junit: { type: "string" }, counts: { type: "string" } },
  strict: false,
});
const { serial } = (await Bun.file(join(import.meta.dir, "ci.json")).json()) as Expected;

/** Runs `bun test`; resolves to its exit code. */
async function lane(name: string, words: string[]): Promise<number> {
  const report = values.junit
    ? ["--reporter=junit", `--reporter-outfile=${join(String(values.junit), `${name}.xml`)}`]
    : [];
  const counts = values.counts
    ? ["--coverage-reporter=lcov", `--coverage-dir=${join(String(values.counts), name)}`]
    : [];
  const limit = `--timeout=${values.counts ? COUNTED_MS : LIMIT_MS}`;
  const command = [process.execPath, "test", "--randomize", limit, ...report, ...counts, ...words];
  return await Bun.spawn(command, { stdio: ["ignore", "inherit", "inherit"] }).exited;
}

// They build it if it is old: here, not within the time limit of a test, and not twice at once.
findLibrary();
findLauncher();
if (args.length > 0 && values.junit === undefined && values.counts === undefined)
  process.exit(await lane("chosen", args));
const packed = "--path-ignore-patterns=zig-out/**"; // `npm run package` leaves tests of examples there
const processes = `--parallel=${Math.min(2, availableParallelism())}`;
const codes = [
  await lane("parallel", [processes, packed, ...serial.files.map((file) => `--path-ignore-patterns=${file}`)]),
  await lane("serial", serial.files),
];
if (codes.some((code) => code !== 0)) process.stdout.write("FAILED: the names are above, each after `(fail)`\n");
process.exit(Math.max(...codes));
