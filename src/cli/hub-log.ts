/** The log of `slotbus hub`: lines on standard error, which never hold up the hub and never take more than a fixed memory. */

import { write } from "node:fs";
import type { Hub, HubRequestInfo } from "../hub/index.ts";
import { count } from "./terminal.ts";

/** From nothing to everything. */
export const LEVELS = ["off", "warn", "info", "requests"] as const;
export type Level = (typeof LEVELS)[number];

/** Characters that wait for whoever reads the log; lines beyond are dropped, and counted. */
const WAITING_MAX = 1 << 20;
/** Until it is tried again to write to a descriptor that takes nothing now, in ms. */
const RETRY_MS = 20;
/** Errors of a write after which nobody will ever read more. */
const GONE: ReadonlySet<unknown> = new Set(["EPIPE", "EBADF", "ECONNRESET", "EIO"]);

/** Writes lines to a descriptor, one write at a time, in another thread: a write that blocks blocks nothing else. */
export class LineWriter {
  readonly #fd: number;
  readonly #lossLine: (lost: number) => string;
  #waiting = "";
  #lost = 0;
  #isWriting = false;
  #isGone = false;
  readonly #idle: (() => void)[] = [];

  /** `lossLine`: what is written in the place of lines that were lost. */
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

  /** Resolves to `true` when all is written, to `false` after `ms`. */
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
    setImmediate(() => this.#next()); // lines of one turn go together
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

  /** A disk that is full may have room again; a reader that has gone does not come back. */
  #failed(code: string | undefined, bytes: Buffer): void {
    this.#isGone = GONE.has(code);
    if (this.#isGone) this.#waiting = "";
    else this.#lost += bytes.toString().split("\n").length - 1;
    this.#next();
  }
}

/** A line of the log, before it is text. */
interface Entry {
  readonly level: "warn" | "info";
  readonly event: string;
  readonly [name: string]: string | number | null;
}

/** Writes what happens in a hub to standard error: JSON lines, or text for people. */
export class HubLog {
  readonly #writer: LineWriter;
  readonly #isJson: boolean;

  constructor(hub: Hub, level: Level, isJson: boolean, fd = 2) {
    this.#isJson = isJson;
    this.#writer = new LineWriter(fd, (lost) => {
      return this.#format(
        { level: "warn", event: "lost", lines: lost },
        `${count(lost, "line")} of the log could not be written: the reader is slow or the disk is full`,
      );
    });
    const shown = LEVELS.indexOf(level);
    const tell = (entry: Entry, text: string): void => this.#writer.line(this.#format(entry, text));
    if (shown >= LEVELS.indexOf("warn")) {
      hub.on("died", ({ name, pid }, reason) =>
        tell({ level: "warn", event: "died", worker: name, pid, reason }, `worker ${name} (pid ${pid}) ${reason}`),
      );
      hub.on("refused", ({ name, pid }, reason) =>
        tell(
          { level: "warn", event: "refused", worker: name, pid, reason },
          `worker ${name} (pid ${pid ?? "-"}) refused: ${reason}`,
        ),
      );
    }
    if (shown >= LEVELS.indexOf("info"))
      for (const event of ["joined", "left"] as const)
        hub.on(event, ({ name, pid }) =>
          tell({ level: "info", event, worker: name, pid }, `worker ${name} (pid ${pid}) ${event}`),
        );
    if (shown >= LEVELS.indexOf("requests"))
      hub.on("request", (request) => tell({ level: "info", event: "request", ...rounded(request) }, textOf(request)));
  }

  /** Waits for its reader, for `ms` at most. `false`: a write is under way that would keep this process alive. */
  close(ms: number): Promise<boolean> {
    return this.#writer.drain(ms);
  }

  #format(entry: Entry, text: string): string {
    const now = new Date();
    if (this.#isJson) return JSON.stringify({ time: now.toISOString(), ...entry });
    return `${now.toTimeString().slice(0, 8)} ${text.replace(/\p{Cc}/gu, "?")}`;
  }
}

function rounded(request: HubRequestInfo): HubRequestInfo & Record<string, string | number | null> {
  return { ...request, ms: Math.round(request.ms * 1_000) / 1_000 };
}

/** `GET /users/7 200 1.3 ms 27 B users 127.0.0.1 ID`; what is not known is `-`. */
function textOf({ id, method, path, status, ms, bytes, worker, address }: HubRequestInfo): string {
  const size = bytes === null ? "-" : `${bytes} B`;
  return `${method} ${path || "-"} ${status} ${ms.toFixed(1)} ms ${size} ${worker ?? "-"} ${address ?? "-"} ${id}`;
}
