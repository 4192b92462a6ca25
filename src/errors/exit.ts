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

/** Returns `"exited with code 3 after 120 ms"`, then `during`, then the end of its standard error. */
export function describeExit(report: ExitReport, during = ""): string {
  const { exitCode, signal, uptimeMs, oomKills, how: by, stderrTail } = report;
  const how = signal ? `was killed by ${signal}` : exitCode === null ? "did not end" : `exited with code ${exitCode}`;
  const tail = stderrTail.trimEnd().slice(-512).trimStart();
  const isKill = signal === "SIGKILL" && by === "itself" && oomKills;
  const kernel = isKill
    ? `; meanwhile the out-of-memory killer killed ${oomKills} process${oomKills === 1 ? "" : "es"} of this cgroup`
    : "";
  return `${how} after ${inMs(uptimeMs)}${during}${kernel}${tail && `; its standard error ends with:\n${tail}\n`}`;
}
