/** What is written for people: colours on a terminal only, times, counts, a screen that is redrawn in place. */

import { styleText } from "node:util";
import { table } from "./bench/report.ts";

type Style = "bold" | "dim" | "green" | "yellow" | "red" | "inverse";

/** Colours: on a terminal, unless NO_COLOR says no, or the terminal cannot. */
const hasColours = process.stdout.isTTY && !process.env["NO_COLOR"] && process.env["TERM"] !== "dumb";

export function paint(style: Style, text: string): string {
  return hasColours ? styleText(style, text, { validateStream: false }) : text;
}

/** Not `console.log`, which goes on when nobody reads any more (`| head`). */
export function print(text: string): void {
  process.stdout.write(`${text}\n`);
}

/** `3 d 4 h`, `12 m 5 s`, `8 s`, `120 ms`. */
export function duration(ms: number): string {
  if (!Number.isFinite(ms)) return "-";
  if (ms < 1_000) return `${Math.max(0, Math.round(ms))} ms`;
  const seconds = Math.floor(ms / 1_000);
  const units: [number, string][] = [
    [Math.floor(seconds / 86_400), "d"],
    [Math.floor(seconds / 3_600) % 24, "h"],
    [Math.floor(seconds / 60) % 60, "m"],
    [seconds % 60, "s"],
  ];
  const from = units.findIndex(([count]) => count > 0);
  return units
    .slice(from, from + 2)
    .map(([count, unit]) => `${count} ${unit}`)
    .join(" ");
}

/** `0.8 µs`, `12 µs`, `3.1 ms`, `2 s`; `-` for 0: no samples. */
export function microseconds(us: number): string {
  if (us === 0) return "-";
  if (us < 1_000) return `${us < 10 ? us.toFixed(1) : Math.round(us)} µs`;
  return us < 1e6 ? `${(us / 1e3).toPrecision(us < 1e4 ? 2 : 3)} ms` : `${(us / 1e6).toPrecision(3)} s`;
}

/** `12 MiB`. */
export function size(bytes: number): string {
  if (bytes < 1_024) return `${bytes} B`;
  const power = Math.min(4, Math.floor(Math.log2(bytes) / 10));
  const value = bytes / 1_024 ** power;
  return `${value >= 10 ? Math.round(value) : value.toFixed(1)} ${["B", "KiB", "MiB", "GiB", "TiB"][power]}`;
}

/** A count of a rate: `0`, `0.4`, `12,345`. */
export function rate(perSecond: number): string {
  return perSecond > 0 && perSecond < 10 ? perSecond.toFixed(1) : Math.round(perSecond).toLocaleString("en");
}

/** `1 worker`, `2 workers`. */
export function count(number: number, one: string, many = `${one}s`): string {
  return `${number} ${number === 1 ? one : many}`;
}

/** A table; `null` is a cell of which nothing is known. */
export function columns(
  lines: readonly (readonly (string | number | null)[])[],
  join?: (cells: string[]) => string,
): string {
  return table(
    lines.map((cells) => cells.map((cell) => String(cell ?? "-"))),
    join,
  );
}

/** What stands on one line of a screen: control characters of a name or of a command line stay out. */
export function fit(line: string, columns: number): string {
  let out = "";
  let width = 0;
  for (const char of line) {
    const shown = isControl(char.codePointAt(0)!) ? "?" : char;
    width += Bun.stringWidth(shown);
    if (width > columns) return `${Bun.sliceAnsi(out, 0, columns - 1)}…`;
    out += shown;
  }
  return out;
}

function isControl(code: number): boolean {
  return code < 0x20 || (code >= 0x7f && code < 0xa0);
}

/** A line and how it is painted, after it was cut to the width of the screen. */
export interface Line {
  readonly text: string;
  readonly style?: Style;
}

export function draw(lines: readonly Line[], columns: number): string[] {
  return lines.map(({ text, style }) => (style ? paint(style, fit(text, columns)) : fit(text, columns)));
}

/** q, Q, ^C, ^D. */
const QUIT = new Set([0x71, 0x51, 0x03, 0x04]);
const ENTER = "\u001b[?1049h\u001b[?25l\u001b[?7l";
const LEAVE = "\u001b[?7h\u001b[?25h\u001b[?1049l";

/** The terminal while a program draws on it: the other screen, no cursor, keys one by one; all of it restored at the end. */
export class Screen implements Disposable {
  readonly #onKey: (bytes: Buffer) => void;
  readonly #onSignal: () => void;
  readonly #redraw: () => void;
  #open = true;

  /** `quit` at `q`, ^C, ^D and a signal; `redraw` when the size has changed. */
  constructor(quit: () => void, redraw: () => void) {
    this.#redraw = redraw;
    this.#onSignal = quit;
    this.#onKey = (bytes) => {
      if (bytes.some((byte) => QUIT.has(byte))) quit();
    };
    process.stdout.write(ENTER);
    process.stdout.on("resize", this.#redraw);
    process.on("exit", this.#restore);
    for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, this.#onSignal);
    if (!process.stdin.isTTY) return;
    process.stdin.setRawMode(true);
    process.stdin.on("data", this.#onKey);
  }

  get columns(): number {
    return process.stdout.columns || 80;
  }

  get rows(): number {
    return process.stdout.rows || 24;
  }

  /** In one write, each line over what stood there: nothing flickers. */
  show(lines: readonly Line[]): void {
    const shown = draw(lines.slice(0, this.rows - 1), this.columns);
    process.stdout.write(`\u001b[H${shown.map((line) => `${line}\u001b[K`).join("\r\n")}\u001b[J`);
  }

  [Symbol.dispose](): void {
    process.off("exit", this.#restore);
    process.stdout.off("resize", this.#redraw);
    for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.off(signal, this.#onSignal);
    this.#restore();
  }

  readonly #restore = (): void => {
    if (!this.#open) return;
    this.#open = false;
    process.stdout.write(LEAVE);
    if (!process.stdin.isTTY) return;
    process.stdin.off("data", this.#onKey);
    process.stdin.setRawMode(false);
    process.stdin.pause();
  };
}
