/** Output for people: colours, times, counts, tables, and a full-screen display. */

import { styleText } from "node:util";
import { EXIT } from "./usage.ts";

/** Colours a text if standard output is a terminal and NO_COLOR is not set. */
export const paint = styleText;

/** Prints a line. Unlike `console.log`, it notices when the reader has gone (`| head`). */
export function print(text: string): void {
  process.stdout.write(`${text}\n`);
}

/** Formats a time: `3 d 4 h`, `12 m 5 s`, `8 s`, `120 ms`; `-` if unknown. */
export function duration(ms: number | null): string {
  if (ms === null || !Number.isFinite(ms)) return "-";
  if (ms < 1_000) return `${Math.max(0, Math.round(ms))} ms`;
  const seconds = Math.floor(ms / 1_000);
  const minutes = Math.floor(seconds / 60);
  const hours = Math.floor(minutes / 60);
  const parts = [`${Math.floor(hours / 24)} d`, `${hours % 24} h`, `${minutes % 60} m`, `${seconds % 60} s`];
  const from = parts.findIndex((part) => !part.startsWith("0 "));
  return parts.slice(from, from + 2).join(" ");
}

/** Formats a latency: `0.8 µs`, `12 µs`, `3.1 ms`, `2 s`; `-` for 0 (no samples). */
export function microseconds(us: number): string {
  if (us === 0) return "-";
  if (us < 1_000) return `${us < 10 ? us.toFixed(1) : Math.round(us)} µs`;
  return us < 1e6 ? `${(us / 1e3).toPrecision(us < 1e4 ? 2 : 3)} ms` : `${(us / 1e6).toPrecision(3)} s`;
}

/** Formats a size: `12 MiB`. */
export function size(bytes: number): string {
  if (bytes < 1_024) return `${bytes} B`;
  const power = Math.min(4, Math.floor(Math.log2(bytes) / 10));
  const value = bytes / 1_024 ** power;
  return `${value >= 10 ? Math.round(value) : value.toFixed(1)} ${["B", "KiB", "MiB", "GiB", "TiB"][power]}`;
}

/** Formats a rate: `0`, `0.4`, `12,345`. */
export function rate(perSecond: number): string {
  return perSecond > 0 && perSecond < 10 ? perSecond.toFixed(1) : Math.round(perSecond).toLocaleString("en");
}

/** Formats a count: `1 worker`, `2 workers`. */
export function count(number: number, one: string, many = `${one}s`): string {
  return `${number} ${number === 1 ? one : many}`;
}

export type Lines = readonly (readonly string[])[];

/** Pads the columns to their widest cell: the first to the left, the others to the right. */
export function table(lines: Lines, join = (cells: string[]): string => cells.join("  ").trimEnd()): string {
  const widths = lines[0]!.map((_, column) => Math.max(...lines.map((line) => line[column]!.length)));
  const pad = (cell: string, column: number): string =>
    column === 0 ? cell.padEnd(widths[0]!) : cell.padStart(widths[column]!);
  return lines.map((line) => join(line.map(pad))).join("\n");
}

/** Formats a table, with `-` for missing cells. */
export function columns(lines: readonly (readonly (string | number | null | undefined)[])[]): string {
  return table(lines.map((cells) => cells.map((cell) => String(cell ?? "-"))));
}

/** Cuts a text to the width of a line and replaces control characters with question marks. */
export function fit(line: string, width: number): string {
  return Bun.sliceAnsi(line.replace(/\p{Cc}/gu, "?"), 0, width, "…");
}

/** A line of a screen, plain or in a colour. */
export type Line = string | readonly [style: Parameters<typeof paint>[0], text: string];

/** Cuts lines to the width of a screen, then paints them. */
export function draw(lines: readonly Line[], width: number): string[] {
  return lines.map((line) => (typeof line === "string" ? fit(line, width) : paint(line[0], fit(line[1], width))));
}

/** Interval at which a fleet is polled, in ms: an observer cannot be woken. */
export const LOOK_MS = 50;

/**
 * Calls `look` repeatedly while it resolves to `true`, until SIGINT or SIGTERM. Both resolve `stopped`, its argument.
 */
export async function untilStopped(look: (stopped: Promise<void>) => Promise<boolean>): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, resolve);
  let isStopped = false;
  void promise.then(() => (isStopped = true));
  while (!isStopped && (await look(promise)));
}

const SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
/** q, Q, ^C, ^D. */
/** A cursor key, or a character. */
const KEY = new RegExp(`${"\u001b"}\\[[A-D]|[^]`, "g");
const QUIT = [..."qQ\u0003\u0004"];
const ENTER = "\u001b[?1049h\u001b[?25l\u001b[?7l";
const LEAVE = "\u001b[?7h\u001b[?25h\u001b[?1049l";

/** The alternate screen of the terminal, until it is disposed or the process ends. */
export interface Screen extends Disposable {
  redraw(): void;
}

/** The content of a screen. */
export interface Content {
  /** The lines for a width. */
  lines(width: number): readonly Line[];
  /** The keys, for the last row. */
  hints(): string;
  /** Acts on a key. Returns whether the content changes. */
  press(key: string): boolean;
}

/** Screens with fewer rows have no row for hints. */
const HINTS_FROM = 8;
const [UP, DOWN] = ["\u001b[A", "\u001b[B"];

/** Opens the alternate screen. The arrow keys scroll; the keys in `QUIT` and signals end the process. */
export function openScreen(content: Content): Screen {
  const { stdin, stdout } = process;
  /** Lines above the first one that is shown. */
  let skipped = 0;
  /**
   * Draws everything in one write, against flicker. Clears each line first: clearing after a full line would erase its
   * last cell.
   */
  const redraw = (): void => {
    const { columns: width = 80, rows = 24 } = stdout;
    const [head = "", ...all] = content.lines(width);
    const hints: Line[] = rows < HINTS_FROM ? [] : [["inverse", content.hints().padEnd(width)]];
    const room = Math.max(0, rows - 2 - hints.length);
    skipped = Math.max(0, Math.min(skipped, all.length - room));
    const shown = draw([head, ...all.slice(skipped, skipped + room), ...hints], width);
    stdout.write(`\u001b[H${shown.map((line) => `\u001b[K${line}\r\n`).join("")}\u001b[J`);
  };
  const quit = (): void => process.exit(EXIT.done);
  const onKeys = (bytes: Buffer): void => {
    if (QUIT.some((key) => bytes.includes(key))) quit();
    let isNew = false;
    for (const [key] of bytes.toString("latin1").matchAll(KEY)) {
      if (key === UP || key === DOWN) skipped += key === UP ? -1 : 1;
      isNew = key === UP || key === DOWN || content.press(key) || isNew;
    }
    if (isNew) redraw();
  };
  const leave = (): void => {
    stdout.write(LEAVE);
    if (stdin.isTTY) stdin.off("data", onKeys).setRawMode(false).pause();
  };
  stdout.write(ENTER);
  stdout.on("resize", redraw);
  process.on("exit", leave);
  for (const signal of SIGNALS) process.on(signal, quit);
  if (stdin.isTTY) stdin.setRawMode(true).on("data", onKeys);
  const dispose = (): void => {
    stdout.off("resize", redraw);
    process.off("exit", leave);
    for (const signal of SIGNALS) process.off(signal, quit);
    leave();
  };
  return { redraw, [Symbol.dispose]: dispose };
}
