/** The log of a command: one line per event on standard error. It never blocks the command and uses a bounded amount of memory. */

import { write } from "node:fs";
import { count } from "./terminal.ts";

export type Level = "info" | "warn" | "error";

type Facts = Readonly<Record<string, unknown>>;

/** Characters that are buffered for a slow reader; further lines are dropped and counted. */
const WAITING_MAX = 1 << 20;
/** Delay before a write is retried on a full descriptor, in ms. */
const RETRY_MS = 20;
/** Longest wait for pending lines at the end of a command, in ms. */
const CLOSE_MS = 1_000;
/** Errors of a write after which the reader has gone for good. */
const GONE: ReadonlySet<unknown> = new Set(["EPIPE", "EBADF", "ECONNRESET", "EIO"]);

/**
 * Writes lines to a descriptor, one write at a time, in another thread, so that a blocked write does not block the command.
 */
export class LineWriter {
  readonly #fd: number;
  readonly #lossLine: (lost: number) => string;
  #waiting = "";
  #lost = 0;
  #isWriting = false;
  #isGone = false;
  readonly #idle: (() => void)[] = [];

  /** `lossLine`: returns the line that is written in place of lost lines. */
  constructor(fd: number, lossLine: (lost: number) => string) {
    this.#fd = fd;
    this.#lossLine = lossLine;
  }

  line(text: string): void {
    if (this.#isGone) return;
    if (this.#waiting.length + text.length >= WAITING_MAX) {
      this.#lost++;
      return;
    }
    this.#noteLoss();
    this.#waiting += `${text}\n`;
    this.#start();
  }

  /** Resolves to `true` when everything is written, or to `false` after `ms`. */
  async drain(ms: number): Promise<boolean> {
    this.#noteLoss();
    this.#start();
    if (!this.#isWriting) return true;
    const { promise, resolve } = Promise.withResolvers<boolean>();
    this.#idle.push(() => resolve(true));
    const timer = setTimeout(() => resolve(false), ms);
    return promise.finally(() => clearTimeout(timer));
  }

  #noteLoss(): void {
    if (this.#lost > 0) this.#waiting += `${this.#lossLine(this.#lost)}\n`;
    this.#lost = 0;
  }

  #start(): void {
    if (this.#isWriting || this.#waiting === "") return;
    this.#isWriting = true;
    setImmediate(() => this.#next()); // writes all lines of one turn together
  }

  #next(): void {
    const bytes = Buffer.from(this.#waiting);
    this.#waiting = "";
    if (bytes.length > 0) return this.#write(bytes);
    this.#isWriting = false;
    for (const tell of this.#idle.splice(0)) tell();
  }

  #write(bytes: Buffer): void {
    write(this.#fd, bytes, 0, bytes.length, null, (error, written) => {
      if (error?.code === "EAGAIN") setTimeout(() => this.#write(bytes), RETRY_MS);
      else if (error) this.#failed(error.code, bytes);
      else if (written < bytes.length) this.#write(bytes.subarray(written));
      else this.#next();
    });
  }

  /** Stops for good if the reader has gone; after other errors, such as a full disk, later lines are written again. */
  #failed(code: string | undefined, bytes: Buffer): void {
    this.#isGone = GONE.has(code);
    if (this.#isGone) this.#waiting = "";
    else this.#lost += bytes.toString().split("\n").length - 1;
    this.#next();
  }
}

/** Writes events as JSON lines, or as text for people. */
export class Log {
  readonly #writer: LineWriter;
  readonly #isJson: boolean;

  constructor(isJson: boolean, fd = 2) {
    this.#isJson = isJson;
    this.#writer = new LineWriter(fd, (lost) => {
      const text = `${count(lost, "line")} of the log could not be written: the reader is slow or the disk is full`;
      return this.#format("warn", "lost", { lines: lost }, text);
    });
  }

  /** Writes an event with its facts. Without `text`, people read `12:30:05 joined pool=a worker=0 pid=17`. */
  write(level: Level, event: string, facts: Facts, text?: string): void {
    this.#writer.line(this.#format(level, event, facts, text));
  }

  /** Waits at most 1 s for pending writes. `false`: a write is still blocked and would keep this process alive. */
  close(): Promise<boolean> {
    return this.#writer.drain(CLOSE_MS);
  }

  #format(level: Level, event: string, facts: Facts, text = textOf(level, event, facts)): string {
    const now = new Date();
    if (this.#isJson) return JSON.stringify({ time: now.toISOString(), level, event, ...facts });
    // Names and lines of workers may contain control characters.
    return `${now.toTimeString().slice(0, 8)} ${text.replace(/\p{Cc}/gu, "?")}`;
  }
}

function textOf(level: Level, event: string, facts: Facts): string {
  const pairs = Object.entries(facts).map(
    ([name, value]) => `${name}=${typeof value === "string" ? value : JSON.stringify(value)}`,
  );
  return [...(level === "info" ? [] : [level]), event, ...pairs].join(" ");
}
