/** Reports of ended worker processes, as data and as text. */

import { inMs } from "./base.ts";

/** How a worker process ended. */
export interface ExitReport {
  /** Index of the worker in its pool. */
  readonly worker: number;
  /** 1 for its first process, 2 for the next, … */
  readonly life: number;
  /** Process id; 0: the program never ran. */
  readonly pid: number;
  /** `null` when a signal killed it, or when it did not end. */
  readonly exitCode: number | null;
  readonly signal: string | null;
  readonly uptimeMs: number;
  /** Processes of the host's cgroup that the out-of-memory killer killed while this process ran; `null`: unknown. */
  readonly oomKills: number | null;
  /**
   * The step after which it ended: `"itself"` (nobody stopped it), `"drain"` (it was stopping and finished its
   * requests), `"end of input"`, `"SIGTERM"`, `"SIGKILL"`; or `"nothing"`: it did not end within 5 s of SIGKILL,
   * because it is in an uninterruptible system call.
   */
  readonly how: "itself" | "drain" | "end of input" | "SIGTERM" | "SIGKILL" | "nothing";
  /** The last 64 KiB of its standard error; `""` when standard error is inherited. */
  readonly stderrTail: string;
}

/** Length of the standard error in a message, in characters. */
const TAIL = 512;
/** Begin of a stack trace of Bun or Node that may be longer than {@link TAIL}. */
const ERROR_LINE = /^(?:error|\w*Error): /gm;

/** Returns `"exited with code 3 after 120 ms"`, then `during`. */
export function describeExit(report: ExitReport, during = ""): string {
  const { exitCode, signal, uptimeMs, oomKills, how: by } = report;
  const how = signal ? `was killed by ${signal}` : exitCode === null ? "did not end" : `exited with code ${exitCode}`;
  const isKill = signal === "SIGKILL" && by === "itself" && oomKills;
  const kernel = isKill
    ? `; meanwhile the out-of-memory killer killed ${oomKills} process${oomKills === 1 ? "" : "es"} of this cgroup`
    : "";
  return `${how} after ${inMs(uptimeMs)}${during}${kernel}`;
}

/** Returns the end of the standard error of a process, to append to a message. An error that a long stack follows is its begin. */
export function endOfOutput({ stderrTail }: ExitReport): string {
  const text = stderrTail.trimEnd();
  const error = [...text.matchAll(ERROR_LINE)].at(-1)?.index ?? text.length;
  const start = Math.min(error, Math.max(0, text.length - TAIL));
  const end = text.slice(start, start + TAIL).trim();
  return end && `\nIts standard error ended with:\n${end}`;
}
