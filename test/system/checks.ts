/** Shared by the checks: their needs and expectations, and the processes and directories that they watch. */

import { AsyncLocalStorage } from "node:async_hooks";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import type { Subprocess } from "bun";

/** A check by its sentence. Resolves when the sentence holds; throws {@link Lacking} when this machine cannot try it. */
export type Checks = Record<string, () => Promise<void>>;

export const root = resolve(import.meta.dir, "../..");
export const path = `${root}/node_modules/.bin:${process.env["PATH"]}`;
export const stranger = 65534;

/** This machine lacks a tool or a right that the check needs. */
export class Lacking extends Error {}

export function needTool(name: string): string {
  const found = Bun.which(name, { PATH: path });
  if (!found) throw new Lacking(`${name} is not installed`);
  return found;
}

export function needRoot(): void {
  if (process.geteuid?.() !== 0) throw new Lacking("not root");
}

export function expect(holds: boolean, what: string): void {
  if (!holds) throw new Error(what);
}

/** The notes of the check that runs. Two checks can run at once. */
const notes = new AsyncLocalStorage<string[]>();

/** Prints a line of figures below the running check. */
export function note(text: string): void {
  notes.getStore()!.push(text);
}

/** Runs a check, whose notes go to `kept`. */
export function withNotes(kept: string[], check: () => Promise<void>): Promise<void> {
  return notes.run(kept, check);
}

/** Resolves when `condition` holds; fails after `ms` with `what`, a sentence of the condition. */
export async function until(condition: () => boolean, what: string, ms = 20_000): Promise<void> {
  const deadline = performance.now() + ms;
  while (!condition()) {
    expect(performance.now() < deadline, `not within ${ms} ms: ${what}`);
    await Bun.sleep(2);
  }
}

/** Resolves to the output of a command; throws with the output if the command fails. */
export async function run(command: string[], env: Record<string, string> = {}): Promise<string> {
  const child = Bun.spawn(command, {
    cwd: root,
    env: { ...process.env, PATH: path, ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const [out, err, code] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  const notable = (out + err).split("\n").filter((line) => !line.startsWith("ok   "));
  expect(code === 0, `${command[0]} ended with ${code}:\n${notable.slice(-60).join("\n")}`);
  return out + err;
}

/** Sets a soft limit of a running process: `as`, `fsize`, `nofile`. */
export async function limit(pid: number, what: string, value: number | "unlimited"): Promise<void> {
  await run([needTool("prlimit"), "--pid", String(pid), `--${what}=${value}:`]);
}

/** Time without output after which a process counts as hanging, in ms. */
const SILENCE_MS = 60_000;

/** A process of program.ts, whose output is read line by line. */
export class Program implements AsyncDisposable {
  readonly #child: Subprocess<"pipe", "pipe", "inherit">;
  readonly #chunks: AsyncIterator<Uint8Array>;
  readonly #decoder = new TextDecoder();
  #rest = "";

  constructor(command: string[], env: Record<string, string> = {}) {
    const stdio: ["pipe", "pipe", "inherit"] = ["pipe", "pipe", "inherit"];
    this.#child = Bun.spawn(command, { cwd: "/", env: { ...process.env, ...env }, stdio });
    this.#chunks = this.#child.stdout[Symbol.asyncIterator]();
  }

  get pid(): number {
    return this.#child.pid;
  }

  kill(signal: NodeJS.Signals): void {
    this.#child.kill(signal);
  }

  /** Resolves to the exit code, or to the signal that ended the process. */
  async ended(): Promise<number | string> {
    await this.#child.exited;
    return this.#child.signalCode ?? this.#child.exitCode ?? "";
  }

  async line(): Promise<string> {
    for (;;) {
      const end = this.#rest.indexOf("\n");
      if (end >= 0) {
        const line = this.#rest.slice(0, end);
        this.#rest = this.#rest.slice(end + 1);
        return line;
      }
      const { done, value } = await Promise.race([this.#chunks.next(), this.#silence()]);
      if (done) return `ended with ${await this.#child.exited}`;
      this.#rest += this.#decoder.decode(value, { stream: true });
    }
  }

  async expectLine(start: string): Promise<string> {
    const line = await this.line();
    expect(line.startsWith(start), `the process printed "${line}", not "${start}"`);
    return line;
  }

  /** Resolves to the next line that starts with `start`; skips other lines. */
  async lineFrom(start: string): Promise<string> {
    for (;;) {
      const line = await this.line();
      if (line.startsWith(start)) return line;
      expect(!line.startsWith("ended with"), `the process ${line} before it printed "${start}"`);
    }
  }

  /** Sends a command and resolves when the process has carried it out. */
  async order(command: string): Promise<void> {
    await this.tell(command);
    await this.lineFrom(`done ${command}`);
  }

  async tell(command: string): Promise<void> {
    this.#child.stdin.write(`${command}\n`);
    await this.#child.stdin.flush();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.stdin.end();
    const killer = setTimeout(() => this.#child.kill("SIGKILL"), 10_000);
    await this.#child.exited;
    clearTimeout(killer);
  }

  async #silence(): Promise<never> {
    await Bun.sleep(SILENCE_MS);
    throw new Error(`process ${this.pid} printed nothing for ${SILENCE_MS} ms`);
  }
}

export const program = (...words: string[]) => [process.execPath, join(import.meta.dir, "program.ts"), ...words];

/** A private directory for one client. */
export class Place implements Disposable {
  readonly folder = mkdtempSync(join(tmpdir(), "slotbus-system-"));
  readonly directory = join(this.folder, "bus");

  [Symbol.dispose](): void {
    rmSync(this.folder, { recursive: true, force: true });
  }
}
