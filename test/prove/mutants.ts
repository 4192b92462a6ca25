/**
 * Removes one rule of the protocol at a time in a copy of the sources, and expects the test named with the rule to fail on an
 * assertion, not on a time limit. A mutant that passes its test survives: no test covers its rule.
 *
 *     bun test/prove/mutants.ts [--rule "part of its name, or of its file's"] [--trust] [--record]
 *
 * `--trust` leaves out the rules that `--record` stored with the files and tools of today, except for a random sample.
 */

import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { findLauncher, findLibrary } from "../../src/native/find.ts";
import { figuresLine } from "./figures.ts";
import type { LibraryRule } from "./mutants/library.ts";
import { mutate, type Rule } from "./mutants/rule.ts";
import { hashRule, nameOf, rulesToRun } from "./mutants/recorded.ts";
import { rulesInC, rulesInTypeScript } from "./mutants/tables.ts";
import { Inputs, ProvedRecord } from "./proved.ts";

const { values } = parseArgs({
  options: {
    rule: { type: "string", default: "" },
    trust: { type: "boolean", default: false },
    record: { type: "boolean", default: false },
  },
  allowPositionals: true,
});
const root = join(import.meta.dir, "../..");
const folder = mkdtempSync(join(tmpdir(), "slotbus-mutants-"));

let runs = 0;

interface Result {
  /** `null`: a signal ended it. */
  code: number | null;
  /** The signal was ours: it took too long. */
  late: boolean;
  output: string;
}

/** In a group of its own: a test that fails may leave processes, even stopped ones, which hold on to its output. */
async function run(command: string[], cwd: string, seconds = 60): Promise<Result> {
  const file = join(folder, `output-${runs++}`);
  const out = Bun.file(file);
  const env = { ...process.env, SLOTBUS_LIB: findLibrary(), SLOTBUS_LAUNCHER: findLauncher() ?? "" };
  const child = Bun.spawn(["setsid", ...command], { cwd, env, stdin: "ignore", stdout: out, stderr: out });
  const end = (): void => {
    try {
      process.kill(-child.pid, "SIGKILL");
    } catch {} // nobody is left
  };
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    end();
  }, seconds * 1000);
  await child.exited;
  clearTimeout(timer);
  end();
  return { code: child.signalCode ? null : child.exitCode, late, output: readFileSync(file, "utf8") };
}

// ---- the C library -----------------------------------------------------------------------------------------------

const flags = ["-std=c11", "-D_GNU_SOURCE", "-O1", "-w", "-pthread", `-I${root}/csrc`];
const objects = new Map<string, string>();

async function compile(source: string, object: string): Promise<string> {
  const { code, output } = await run(["gcc", ...flags, "-c", source, "-o", object], folder);
  if (code !== 0) throw new Error(`gcc fails on ${source}:\n${output}`);
  return object;
}

async function compileAll(): Promise<void> {
  const files = ["csrc", "test/native"].flatMap((name) => readdirSync(join(root, name)).map((file) => [name, file]));
  const sources = files.filter(([, file]) => file!.endsWith(".c") && file !== "os_macos.c");
  const compiled = sources.map(async ([name, file]) => {
    objects.set(file!, await compile(join(root, name!, file!), join(folder, `${file}.o`)));
  });
  await Promise.all(compiled);
}

/** Resolves to why the mutant survived; `""` when the test named failed on an assertion. */
async function judgeNative(mutant: Rule, serial: number): Promise<string> {
  const source = join(folder, `${serial}-${mutant.file}`);
  writeFileSync(source, mutate(readFileSync(join(root, "csrc", mutant.file), "utf8"), mutant));
  const mutated = await compile(source, `${source}.o`);
  const inputs = [...objects].map(([file, object]) => (file === mutant.file ? mutated : object));
  const program = join(folder, `test-${serial}`);
  const linked = await run(["gcc", "-pthread", "-o", program, ...inputs], folder);
  if (linked.code !== 0) throw new Error(linked.output);
  let { code, late, output } = await run([program, mutant.test], folder);
  for (let n = 1; code === 0 && n < (mutant.runs ?? 1); n++)
    ({ code, late, output } = await run([program, mutant.test], folder));
  if (/ hung$/m.test(output) || late) return "its test hung: it failed on a time limit, not on an assertion";
  if (code === 0) return "no test failed";
  // A check that fails leaves its test, whose threads go on without its variables: one may crash before the name is out.
  const crashed = code === null && /^ +\S+_test\.c:\d+: /m.test(output);
  return crashed || output.includes(`FAIL ${mutant.test}`) ? "" : `something else failed:\n${output}`;
}

// ---- the TypeScript library ----------------------------------------------------------------------------------------

/** A copy of the checkout for one mutant. */
function copyCheckout(serial: number): string {
  const copy = join(folder, `copy-${serial}`);
  mkdirSync(copy);
  for (const name of ["src", "test", "package.json", "tsconfig.json"]) {
    cpSync(join(root, name), join(copy, name), { recursive: true });
  }
  symlinkSync(join(root, "node_modules"), join(copy, "node_modules"));
  return copy;
}

/** A regular expression for the name of a test; `%s`, `%j` and `%d` of `test.each` match any value. */
function patternOf(name: string): string {
  const anything: Record<string, string> = { "%s": ".*", "%j": ".*", "%d": "\\d+" };
  return name.replaceAll(/%[sjd]|[^\w ,:]/g, (found) => anything[found] ?? ".");
}

async function judgeLibrary(mutant: LibraryRule, serial: number): Promise<string> {
  const copy = copyCheckout(serial);
  const file = join(copy, "src", mutant.file);
  writeFileSync(file, mutate(readFileSync(file, "utf8"), mutant));
  const pattern = patternOf(mutant.test);
  const { code, output } = await run(["bun", "test", `test/${mutant.suite}.test.ts`, "-t", pattern], copy);
  if (code === 0) return "no test failed";
  const failed = output.split("\n").filter((line) => line.startsWith("(fail)") && new RegExp(pattern).test(line));
  if (failed.length === 0) return `something else failed:\n${output}`;
  const limit = /this test timed out|ms still not: /.test(output);
  return limit ? `the test failed on a time limit, not on an assertion:\n${output}` : "";
}

// ---- the run -------------------------------------------------------------------------------------------------------

const record = new ProvedRecord();
const every: Rule[] = [...rulesInC, ...rulesInTypeScript];
const toRun = values.trust ? rulesToRun(every, record) : new Set(every);
const left = every.length - toRun.size;
/** Rules that were missed, with the seconds that it took. */
const missed = new Map<Rule, number>();
const failed: Rule[] = [];

/** A rule that does not fit its file, or whose mutant does not compile, stops only itself. */
async function judge(rule: Rule, verdict: Promise<string>): Promise<void> {
  const started = performance.now();
  const why = await verdict.catch((error: Error) => error.message);
  const seconds = (performance.now() - started) / 1000;
  if (why === "") missed.set(rule, seconds);
  else failed.push(rule);
  const text = `${rule.rule} (${seconds.toFixed(1)} s)${why && `\n         ${why}`}`;
  console.log(`${why === "" ? "missed  " : "SURVIVED"} ${text}`);
}

/** Stores what passed, unless an input changed meanwhile. */
function keepRecord(before: Map<Rule, string>): void {
  const inputs = new Inputs();
  const passed = [...missed].filter(([rule]) => hashRule(inputs, rule) === before.get(rule));
  record.store([
    ...failed.map((rule) => [nameOf(rule), null] as [string, null]),
    ...passed.map(([rule, seconds]): [string, { hash: string; seconds: number; figures: string }] => {
      return [nameOf(rule), { hash: before.get(rule)!, seconds, figures: "missed" }];
    }),
  ]);
  record.keep("rule ", every.map(nameOf));
}

const inputs = new Inputs();
const hashes = new Map(values.record ? every.map((rule) => [rule, hashRule(inputs, rule)]) : []);
try {
  const isChosen = (one: Rule): boolean => `${one.file}: ${one.rule}`.includes(values.rule) && toRun.has(one);
  if (rulesInC.some(isChosen)) await compileAll();
  const jobs = [
    ...rulesInC.filter(isChosen).map((rule, i) => () => judge(rule, judgeNative(rule, i))),
    ...rulesInTypeScript.filter(isChosen).map((rule, i) => () => judge(rule, judgeLibrary(rule, i))),
  ];
  const work = async (): Promise<void> => {
    for (let job = jobs.shift(); job; job = jobs.shift()) await job();
  };
  await Promise.all(Array.from({ length: availableParallelism() }, work));
} finally {
  rmSync(folder, { recursive: true });
}
if (values.record) keepRecord(hashes);
for (const { rule } of failed) console.log(`SURVIVED ${rule}`);
if (left > 0) console.log(`recorded: ${left} rules, not run`);
console.log(`${missed.size} passed, ${failed.length} failed`);
console.log(figuresLine({ rules: missed.size }));
process.exit(failed.length > 0 || missed.size === 0 ? 1 : 0);
