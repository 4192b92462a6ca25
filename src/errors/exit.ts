/** How a worker process ended. */

import { inMs } from "./base.ts";

/** How a worker process ended. */
export interface ExitReport {
  /** Index of the worker in its pool. */
  readonly worker: number;
  /** 1 for its first process, 2 for the next, … */
  readonly life: number;
  /** 0: the program never ran. */
  readonly pid: number;
  /** `null` when a signal ended it, or nothing did. */
  readonly exitCode: number | null;
  readonly signal: string | null;
  readonly uptimeMs: number;
  /** Processes of the host's cgroup that the kernel ended for lack of memory while it ran; `null`: the kernel does not say. */
  readonly oomKills: number | null;
  /**
   * What ended it: `"itself"`, `"drain"` (while it answered its last requests, when it was asked to stop), `"end of input"`,
   * `"SIGTERM"`, `"SIGKILL"`, or `"nothing"`: it survived SIGKILL for 5 s, as a process in an uninterruptible call does.
   */
  readonly how: "itself" | "drain" | "end of input" | "SIGTERM" | "SIGKILL" | "nothing";
  /** The last 64 KiB of what it wrote to standard error, `""` when that is inherited. */
  readonly stderrTail: string;
}

/** `"exited with code 3 after 120 ms"`, what it did meanwhile, and the end of what it wrote to standard error. */
export function describeExit(report: ExitReport, during = ""): string {
  const { exitCode, signal, uptimeMs, oomKills, how: by, stderrTail } = report;
  const how = signal ? `was ended by ${signal}` : exitCode === null ? "does not end" : `exited with code ${exitCode}`;
  const tail = stderrTail.trimEnd().slice(-512).trimStart();
  const isKill = signal === "SIGKILL" && by === "itself" && oomKills;
  const kernel = isKill
    ? `; meanwhile the kernel ended ${oomKills} process${oomKills === 1 ? "" : "es"} of this cgroup for lack of memory`
    : "";
  return `${how} after ${inMs(uptimeMs)}${during}${kernel}${tail && `; its standard error ends with:\n${tail}\n`}`;
}
