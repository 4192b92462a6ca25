/** What every suite of the bench has in common: its flags, its workspace, its progress, a round that cannot hang. */

import { parseArgs } from "node:util";
import { CommandError, UsageError } from "../usage.ts";
import { type Introduction, Workspace } from "./systems.ts";

export type Mode = "full" | "quick" | "short";

/** Says on the terminal what is measured now. */
export type Say = (text: string) => void;

/** Flags that every suite has. */
export const COMMON_FLAGS = {
  against: { type: "string" },
  quick: { type: "boolean" },
  short: { type: "boolean" },
  json: { type: "boolean" },
  help: { type: "boolean" },
} as const;

/** What `parse` returns, or a {@link UsageError} with the message of what it throws. */
export function orUsageError<T>(parse: () => T): T {
  try {
    return parse();
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
}

export function modeOf({ quick, short }: { quick?: boolean; short?: boolean }): Mode {
  if (quick && short) throw new UsageError("--quick and --short exclude each other.");
  return short ? "short" : quick ? "quick" : "full";
}

/** The systems of `--against`; the first of `systems` is slotbus, which always takes part. */
export function parseAgainst<T extends string>(text: string, systems: readonly T[]): T[] {
  if (text === "all") return [...systems];
  if (text === "none") return systems.slice(0, 1);
  const names = text.split(",").map((name) => name.trim());
  const wrong = names.find((name) => !systems.slice(1).includes(name as T));
  if (wrong !== undefined)
    throw new UsageError(`--against ${wrong}: give all, none, or ${systems.slice(1).join(", ")}.`);
  return systems.filter((name, index) => index === 0 || names.includes(name));
}

/** A round that takes so long has hung. */
const ROUND_LIMIT_MS = 30_000;

/** A round of `name`, unless it fails, a process ends in it, or it hangs. */
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

/** A contestant answers from another process; one that is a thread, from another thread of ours. */
export function verifyAnswerer(name: string, answerer: Introduction, isThread: boolean): void {
  if (isThread && answerer.isMainThread) throw new CommandError(`${name} answers from our own thread`);
  if ((answerer.pid === process.pid) !== isThread)
    throw new CommandError(`${name} answers from process ${answerer.pid}, and we are ${process.pid}`);
}

/** Does `work` in a workspace of its own; a signal disposes it too. Then stops what `work` has put into `started`. */
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

/** Measures and prints: JSON and nothing else, or the report, with progress on a terminal. */
export async function present<R>(
  isJson: boolean | undefined,
  measure: (say: Say) => Promise<R>,
  report: (result: R) => string,
): Promise<number> {
  const progress = !isJson && process.stderr.isTTY;
  try {
    const result = await measure((text) => void (progress && process.stderr.write(`\r\u001b[K${text} …`)));
    if (progress) process.stderr.write("\r\u001b[K");
    console.log(isJson ? JSON.stringify(result, null, 2) : report(result));
    return 0;
  } catch (error) {
    if (progress) process.stderr.write("\n");
    throw error;
  }
}

/** What a run measures: how long, in what mode, which systems. */
export type SuitePlan<Preset, System extends string> = Preset & { mode: Mode; systems: System[] };

/** A suite that has no flags of its own. The first of its systems is slotbus. */
export interface Suite<Preset, System extends string, Result> {
  help: string;
  presets: Readonly<Record<Mode, Preset>>;
  systems: readonly System[];
  measure(plan: SuitePlan<Preset, System>, say: Say): Promise<Result>;
  report(result: Result): string;
}

/** Runs a suite by its flags; resolves to the exit code. Throws {@link UsageError} and {@link CommandError}. */
export async function runSuite<Preset, System extends string, Result>(
  args: string[],
  suite: Suite<Preset, System, Result>,
): Promise<number> {
  const flags = orUsageError(() => parseArgs({ args, options: COMMON_FLAGS }).values);
  if (flags.help) {
    console.log(suite.help);
    return 0;
  }
  const mode = modeOf(flags);
  const systems = parseAgainst(flags.against ?? "all", suite.systems);
  const plan = { ...suite.presets[mode], mode, systems };
  return present(flags.json, (say) => suite.measure(plan, say), suite.report);
}
