/** The standard error of a worker: emits lines, and keeps the last 64 KiB. */

import type { ReadableStreamDefaultReader } from "node:stream/web";
import { type Clock, startTimer } from "../clock.ts";

/** Number of bytes that are kept; also the longest line. */
const LIMIT = 65_536;
const NEWLINE = 10;

/** @internal */
export class StderrTail {
  readonly #clock: Clock;
  readonly #line: (line: string) => void;
  readonly #reader: Pick<ReadableStreamDefaultReader<Uint8Array>, "read" | "cancel">;
  readonly #done: Promise<void>;
  /** The last chunks, oldest first. */
  #kept: Uint8Array[] = [];
  #keptBytes = 0;
  /** Parts of the current line. */
  #open: Uint8Array[] = [];
  #openBytes = 0;

  /** Starts reading when `begin` has resolved. */
  constructor(stream: ReadableStream<Uint8Array>, clock: Clock, begin: Promise<void>, line: (line: string) => void) {
    this.#clock = clock;
    this.#line = line;
    this.#reader = stream.getReader();
    this.#done = begin.then(() => this.#read());
  }

  /** The last 64 KiB. A character that was cut shows as U+FFFD. */
  get text(): string {
    const all = Buffer.concat(this.#kept);
    return all.subarray(Math.max(0, all.length - LIMIT)).toString("utf8");
  }

  /** Reads to the end, but stops after `ms`. */
  async finish(ms: number): Promise<void> {
    const timer = startTimer(this.#clock, ms, () => void this.#reader.cancel().catch(() => {}));
    await this.#done;
    timer.close();
  }

  async #read(): Promise<void> {
    try {
      for (;;) {
        const { value, done } = await this.#reader.read();
        if (done) break;
        this.#keep(value);
        this.#split(value);
      }
    } catch {
      // a broken pipe counts as the end
    }
    if (this.#openBytes > 0) this.#endLine();
  }

  #keep(bytes: Uint8Array): void {
    this.#kept.push(bytes);
    this.#keptBytes += bytes.length;
    while (this.#keptBytes - this.#kept[0]!.length >= LIMIT) this.#keptBytes -= this.#kept.shift()!.length;
  }

  #split(bytes: Uint8Array): void {
    let from = 0;
    for (let at = bytes.indexOf(NEWLINE); at >= 0; at = bytes.indexOf(NEWLINE, from)) {
      this.#append(bytes.subarray(from, at));
      this.#endLine();
      from = at + 1;
    }
    this.#append(bytes.subarray(from));
  }

  /** Adds to the current line. A line that is too long is split. */
  #append(bytes: Uint8Array): void {
    let rest = bytes;
    while (this.#openBytes + rest.length > LIMIT) {
      const room = LIMIT - this.#openBytes;
      this.#push(rest.subarray(0, room));
      this.#endLine();
      rest = rest.subarray(room);
    }
    if (rest.length > 0) this.#push(rest);
  }

  #push(bytes: Uint8Array): void {
    this.#open.push(bytes);
    this.#openBytes += bytes.length;
  }

  #endLine(): void {
    const text = Buffer.concat(this.#open).toString("utf8");
    this.#open = [];
    this.#openBytes = 0;
    this.#line(text.endsWith("\r") ? text.slice(0, -1) : text);
  }
}
