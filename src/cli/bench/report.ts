/** How figures are written: numbers, sizes, tables, the machine, goals met or missed. */

import { cpus, release, type } from "node:os";

/** How much is measured. */
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

/** Two lines that say where and how it was measured. */
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

export type Lines = readonly (readonly string[])[];

/** Columns padded to their widest cell, the first to the left, the others to the right. */
export function table(lines: Lines, join = (cells: string[]): string => cells.join("  ").trimEnd()): string {
  const widths = lines[0]!.map((_, column) => Math.max(...lines.map((line) => line[column]!.length)));
  const pad = (cell: string, column: number): string =>
    column === 0 ? cell.padEnd(widths[0]!) : cell.padStart(widths[column]!);
  return lines.map((line) => join(line.map(pad))).join("\n");
}

/** The same for Markdown; the first line is its head. */
export function markdownTable([head = [], ...lines]: Lines): string {
  const width = (column: number): number => Math.max(3, ...[head, ...lines].map((line) => line[column]!.length));
  const rule = head.map((_, column) => (column === 0 ? "-".repeat(width(0)) : `${"-".repeat(width(column) - 1)}:`));
  return table([head, rule, ...lines], (cells) => `| ${cells.join(" | ")} |`);
}

/** A figure with its goal: at least, or at most, and what would be better still. */
export interface Bar {
  name: string;
  measured: number;
  at_least?: number;
  at_most?: number;
  aim?: number;
  met: boolean;
}

/** A bar, judged. */
export function bar(name: string, measured: number, goal: Pick<Bar, "at_least" | "at_most" | "aim">): Bar {
  return {
    name,
    measured,
    ...goal,
    met: measured >= (goal.at_least ?? -Infinity) && measured <= (goal.at_most ?? Infinity),
  };
}

/** The table of the bars, its head first. */
export function barLines(bars: readonly Bar[]): string[][] {
  const goal = ({ at_least: least, at_most: most }: Bar): string =>
    least === undefined ? `≤ ${number(most!)}` : `≥ ${number(least)}`;
  return [
    ["goal", "measured", "bar", "aim", ""],
    ...bars.map((it) => [it.name, number(it.measured), goal(it), number(it.aim ?? null), it.met ? "met" : "missed"]),
  ];
}
