/** Formats results: numbers, sizes, tables, the machine, goals met or missed. */

import { cpus, release, type } from "node:os";
import { type Lines, table } from "../src/cli/terminal.ts";

export { type Lines, table };

/** Extent of a run. */
export type Mode = "full" | "quick" | "short";

export type Machine = Record<string, string | number>;

export function describeMachine({ mode, rounds }: { mode: Mode; rounds: number }): Machine {
  const processors = cpus();
  return {
    cpu: processors[0]?.model.trim() ?? "unknown",
    cores: processors.length,
    kernel: `${type()} ${release()}`,
    bun: Bun.version,
    mode,
    rounds,
  };
}

/** Two lines: the machine, and how the run measured. */
export function machineLines({ cpu, cores, kernel, bun, mode, rounds }: Machine): string {
  return `${cpu}, ${cores} cores, ${kernel}\nBun ${bun}, ${mode} run, medians of ${rounds} alternating rounds`;
}

export function sizeName(bytes: number): string {
  if (bytes >= 1024 ** 2 && bytes % 1024 ** 2 === 0) return `${bytes / 1024 ** 2} MiB`;
  return bytes >= 1024 && bytes % 1024 === 0 ? `${bytes / 1024} KiB` : `${bytes} B`;
}

export function number(value: number | null): string {
  if (value === null) return "-";
  if (value >= 100) return Math.round(value).toLocaleString("en");
  return value >= 1 || value <= 0 ? value.toPrecision(3) : value.toFixed(2);
}

/** The table in Markdown; the first line is its head. */
export function markdownTable([head = [], ...lines]: Lines): string {
  const width = (column: number): number => Math.max(3, ...[head, ...lines].map((line) => line[column]!.length));
  const rule = head.map((_, column) => (column === 0 ? "-".repeat(width(0)) : `${"-".repeat(width(column) - 1)}:`));
  return table([head, rule, ...lines], (cells) => `| ${cells.join(" | ")} |`);
}

/** A figure with its goal: a lower or upper bound, and a better value to aim at. */
export interface Bar {
  name: string;
  measured: number;
  at_least?: number;
  at_most?: number;
  aim?: number;
  met: boolean;
}

/** Makes a bar and decides whether it is met. */
export function bar(name: string, measured: number, goal: Pick<Bar, "at_least" | "at_most" | "aim">): Bar {
  return {
    name,
    measured,
    ...goal,
    met: measured >= (goal.at_least ?? -Infinity) && measured <= (goal.at_most ?? Infinity),
  };
}

/** Rows of the table of bars; the first row is the head. */
export function barLines(bars: readonly Bar[]): string[][] {
  const goal = ({ at_least: least, at_most: most }: Bar): string =>
    least === undefined ? `≤ ${number(most!)}` : `≥ ${number(least)}`;
  return [
    ["goal", "measured", "bar", "aim", ""],
    ...bars.map((it) => [it.name, number(it.measured), goal(it), number(it.aim ?? null), it.met ? "met" : "missed"]),
  ];
}
