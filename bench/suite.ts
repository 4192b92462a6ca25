/** Shared by all suites: flags, workspace, progress, and rounds that cannot hang. */

import { basename, join, resolve } from "node:path";
import { type Command, InvalidArgumentError } from "commander";
import { print } from "../src/cli/terminal.ts";
import { CommandError, UsageError, withJson } from "../src/cli/usage.ts";
import { type Panel, svgChart, writeCharts } from "./chart.ts";
import type { Machine, Mode } from "./report.ts";
import { type Introduction, Workspace } from "./systems.ts";

/** Shows on the terminal what is being measured. */
export type Say = (text: string) => void;

/** Flags that every suite has. */
export interface CommonFlags {
  against?: string;
  quick?: boolean;
  short?: boolean;
  json?: boolean;
  svg?: string;
  png?: string;
}

/** Adds these flags to a command. `rivals`: valid names for `--against`. */
export function withCommonFlags(command: Command, rivals: readonly string[], quick: string, short: string): Command {
  return withJson(command)
    .option("--against <list>", `what to compare with: all (default), none, or a list of ${rivals.join(", ")}`)
    .option("--quick", quick)
    .option("--short", short)
    .option("--svg <file>", "write a chart")
    .option("--png <file>", "write a chart; needs the package @resvg/resvg-js");
}

export function modeOf({ quick, short }: CommonFlags): Mode {
  if (quick && short) throw new UsageError("--quick and --short cannot be combined. Give one of them.");
  return short ? "short" : quick ? "quick" : "full";
}

/** Parses `--against`. The first of `systems` is slotbus, which always takes part. */
export function parseAgainst<T extends string>(text: string, systems: readonly T[]): T[] {
  if (text === "all") return [...systems];
  if (text === "none") return systems.slice(0, 1);
  const names = text.split(",").map((name) => name.trim());
  const wrong = names.find((name) => !systems.slice(1).includes(name as T));
  if (wrong !== undefined)
    throw new UsageError(
      `--against has "${wrong}"; it must be all, none, or a list of ${systems.slice(1).join(", ")}.`,
    );
  return systems.filter((name, index) => index === 0 || names.includes(name));
}

/** Returns a parser for a flag's value: an integer from `low` to `high`. */
export function integerFrom(low: number, high: number): (text: string) => number {
  return (text) => {
    const value = /^\d+$/.test(text) ? Number(text) : NaN;
    if (value >= low && value <= high) return value;
    throw new InvalidArgumentError(`It must be an integer from ${low} to ${high}.`);
  };
}

/** After this time a round counts as hung. */
const ROUND_LIMIT_MS = 30_000;

/** Resolves to the round. Rejects if the round fails or hangs, or if a process of the workspace ends. */
export async function guarded<T>(name: string, running: Promise<T>, workspace: Workspace): Promise<T> {
  const limit = Promise.withResolvers<never>();
  const hung = new CommandError(`a round did not end within ${ROUND_LIMIT_MS / 1000} s`);
  const timer = setTimeout(() => limit.reject(hung), ROUND_LIMIT_MS);
  try {
    return await Promise.race([running, workspace.failed, limit.promise]);
  } catch (error) {
    throw error instanceof CommandError ? new CommandError(`${name}: ${error.message}`) : error;
  } finally {
    clearTimeout(timer);
  }
}

/** Throws unless the contestant responds from another process, or from another thread if `isThread`. */
export function verifyAnswerer(name: string, answerer: Introduction, isThread: boolean): void {
  if (isThread && answerer.isMainThread) throw new CommandError(`${name} responds from the main thread of the bench`);
  if ((answerer.pid === process.pid) !== isThread)
    throw new CommandError(`${name} responds from process ${answerer.pid}; the bench is process ${process.pid}`);
}

/** Runs `work` in a new workspace, which a signal disposes too. Then stops everything that `work` added to `started`. */
export async function inWorkspace<T>(
  work: (workspace: Workspace, started: { stop(): Promise<void> }[]) => Promise<T>,
): Promise<T> {
  using workspace = new Workspace();
  const stopOnSignal = (_: string, signal: number): void => process.exit(128 + signal); // disposes the workspace
  process.once("SIGINT", stopOnSignal).once("SIGTERM", stopOnSignal);
  const started: { stop(): Promise<void> }[] = [];
  try {
    return await work(workspace, started);
  } finally {
    process.off("SIGINT", stopOnSignal).off("SIGTERM", stopOnSignal);
    await Promise.all(started.map((it) => it.stop()));
  }
}

/** Compiles a C program of the bench. Returns its path; `null` without a compiler, or when it does not compile. */
export function compile(source: string, workspace: Workspace): string | null {
  const root = resolve(import.meta.dir, "..");
  const zig = Bun.which("zig", { PATH: `${root}/node_modules/.bin:${process.env["PATH"] ?? ""}` });
  const compiler = Bun.which("cc") ? ["cc"] : zig ? [zig, "cc"] : null;
  if (!compiler) return null;
  const program = join(workspace.path, basename(source, ".c"));
  const build = Bun.spawnSync([...compiler, "-O2", "-o", program, source], { stdio: ["ignore", "ignore", "pipe"] });
  return build.exitCode === 0 ? program : null;
}

/** How a suite shows its result. */
export interface Presentation<R extends { machine: Machine }> {
  report(result: R): string;
  /** Title of the chart. */
  title: string;
  panels(result: R): Panel[];
}

/** Measures, then prints only JSON, or the report. Shows progress on a terminal. Then writes the charts. */
export async function present<R extends { machine: Machine }>(
  flags: CommonFlags,
  measure: (say: Say) => Promise<R>,
  { report, title, panels }: Presentation<R>,
): Promise<void> {
  const progress = !flags.json && process.stderr.isTTY;
  try {
    const result = await measure((text) => void (progress && process.stderr.write(`\r\u001b[K${text} …`)));
    if (progress) process.stderr.write("\r\u001b[K");
    print(flags.json ? JSON.stringify(result, null, 2) : report(result));
    if (flags.svg === undefined && flags.png === undefined) return;
    await writeCharts(svgChart(title, result.machine, panels(result)), flags);
  } catch (error) {
    if (progress) process.stderr.write("\n");
    throw error;
  }
}
