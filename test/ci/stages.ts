/** Runs one stage of CI, and finds out what passed and what failed in it. */

import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { forward, linesOf, type Outcome, OUTCOMES, readOutcomes } from "../outcomes.ts";
import { readJunit, type TestCase } from "./junit.ts";

/** A test, check or proof that failed. */
export interface Failure {
  name: string;
  lines: string[];
}

export interface StageResult {
  stage: string;
  seconds: number;
  passed: number;
  failures: Failure[];
  /** Seeds of the order of its tests. */
  seeds: string[];
  /** What was proved before with the same inputs and not run now, with its date and figures. */
  recorded: Outcome[];
}

/** What git keeps about the tests (`../ci.json`). */
export interface Expected {
  /** Fewest tests of `npm test`, and fewest checks of the system tests. More is fine. */
  tests: number;
  checks: number;
  /** Tests that may be skipped, each with its reason. */
  skips: { test: string; reason: string }[];
  /** Files that `../lanes.ts` runs one by one. */
  serial: { reason: string; files: string[] };
  /** Percent of the lines of `src/` that the tests take at least: of all, and of each file that `below` does not list. */
  lines: { least: number; file: number; below: { reason: string; files: string[] }[] };
}

/** `outcomes`: the stage tells them itself. `junit`: it is `../lanes.ts`. Otherwise it is one test. */
export interface Stage {
  name: string;
  command: string[];
  reads?: "outcomes" | "junit";
  /** Its fewest tests, and the tests that may be skipped. */
  least?: number;
  skips?: Expected["skips"];
}

/** Failed tests; errors that Bun reports outside of tests; skips that no list has. */
export function judgeTests(cases: TestCase[], output: string, stage: Stage): Failure[] {
  const failures = cases
    .filter(({ verdict }) => verdict === "failed")
    .map(({ name, text }): Failure => ({ name, lines: linesOf(text) }));
  // A file that cannot be loaded is not in the report.
  const outside = /# Unhandled error between tests\n-+\n([^]*?)\n-{9}/g;
  for (const [, text] of Bun.stripANSI(output).matchAll(outside))
    failures.push({ name: "an error outside of tests", lines: linesOf(text!) });
  const may = new Set(stage.skips?.map(({ test }) => test));
  for (const { name, verdict } of cases)
    if (verdict === "skipped" && !may.has(name))
      failures.push({ name, lines: ["It is skipped, and `skips` in test/ci.json does not have it."] });
  return failures;
}

export async function runStage(stage: Stage): Promise<StageResult> {
  const folder = mkdtempSync(join(tmpdir(), "slotbus-ci-"));
  const file = join(folder, "outcomes");
  const started = performance.now();
  try {
    const more = stage.reads === "junit" ? ["--junit", folder] : [];
    const env = stage.reads === "outcomes" ? { [OUTCOMES]: file } : {};
    const { code, output } = await forward([...stage.command, ...more], env as Record<string, string>);
    const told = readdirSync(folder).map((name) => readFileSync(join(folder, name), "utf8"));
    const text = told.join("");
    const result: StageResult = { stage: stage.name, seconds: 0, passed: 0, failures: [], seeds: [], recorded: [] };
    result.seeds = [...output.matchAll(/^ --seed=(\d+)$/gm)].map((match) => match[1]!);
    let count = Infinity;
    if (stage.reads === "junit") {
      const cases = readJunit(text);
      result.failures = judgeTests(cases, output, stage);
      result.passed = cases.filter(({ verdict }) => verdict === "passed").length;
      count = cases.length;
    } else if (stage.reads === "outcomes") {
      const outcomes = readOutcomes(text);
      const sum = (verdict: Outcome["verdict"]): number =>
        outcomes.reduce((all, one) => all + (one.verdict === verdict ? (one.count ?? 1) : 0), 0);
      result.recorded = outcomes.filter(({ verdict }) => verdict === "recorded");
      result.failures = outcomes
        .filter(({ verdict }) => verdict === "failed")
        .map(({ name, lines = [] }) => ({ name, lines }));
      result.passed = sum("passed");
      count = result.passed + sum("failed") + sum("recorded");
    } else if (code === 0) {
      result.passed = 1;
    }
    const least = stage.least ?? 0;
    if (count < least)
      result.failures.push({
        name: "number of tests",
        lines: [`${count} tests; test/ci.json expects at least ${least}.`],
      });
    if (code !== 0 && result.failures.length === 0)
      result.failures.push({ name: `exit code ${code}`, lines: linesOf(output).slice(-LINES) });
    return { ...result, seconds: (performance.now() - started) / 1000 };
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** Most lines of a failure, and of all failures. Names do not count. */
const LINES = 12;
const ALL_LINES = 60;

/** The end of the run: times, what is recorded, each failure by name, and "N passed, N failed" as the last line. */
export function report(results: StageResult[]): string {
  const minutes = (seconds: number): string =>
    `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;
  const all = results.reduce((sum, { seconds }) => sum + seconds, 0);
  const lines = [
    `times: ${results.map(({ stage, seconds }) => `${stage} ${minutes(seconds)}`).join(", ")}; all ${minutes(all)}`,
  ];
  const recorded = results.flatMap(({ stage, recorded: ones }) => {
    const count = ones.reduce((sum, one) => sum + (one.count ?? 1), 0);
    return count > 0 ? [`${stage} ${count}`] : [];
  });
  if (recorded.length > 0) lines.push(`recorded, not run and not counted: ${recorded.join(", ")}`);
  let left = ALL_LINES;
  for (const { stage, failures, seeds } of results) {
    if (failures.length > 0 && seeds.length > 0) lines.push(`seeds of ${stage}: ${seeds.join(", ")}`);
    for (const failure of failures) {
      lines.push(`FAILED ${stage}: ${failure.name}`);
      const shown = failure.lines.slice(0, Math.min(LINES, left));
      left -= shown.length;
      lines.push(...shown.map((line) => `    ${line}`));
    }
  }
  const passed = results.reduce((sum, one) => sum + one.passed, 0);
  const failed = results.reduce((sum, { failures }) => sum + failures.length, 0);
  return `${lines.join("\n")}\n${passed} passed, ${failed} failed\n`;
}
