/** Runs worlds in a child process and ends a world that takes too long: code that loops without end must not stop the run. */

import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Chosen } from "./choices.ts";

/** Real time after which a world counts as endless, in ms. A world takes about 10 ms. */
const WORLD_MS = 20_000;
/** A world that got less than this share of a processor gets the time again, up to this number of times in all. */
const SHARE = 0.1;
const LIMITS = 6;
/**
 * Worlds of one process. A world in which a client dies is never freed: the registry of open streams keeps what the dead client
 * was reading, and that leads to everything else of its world. A thousand worlds take half a gigabyte.
 */
const CHILD_WORLDS = 1_000;

/** What a child does next: worlds of seeds, or one world whose choices are recorded. */
export type Job = { stacks: number } & (
  { from: number; count: number } | { seed: number } | { choices: readonly Chosen[] }
);

/** Results of the worlds of several seeds. */
export interface Batch {
  worlds: number;
  calls: number;
  faults: number;
  failed: { seed: number; failure: string } | null;
  /** Counts of both tables of `cells.ts`. */
  cells: readonly (readonly number[])[];
}

/** Result of one world. */
export interface Outcome {
  failure: string | null;
  /** The choices that were made and are not 0. */
  choices: readonly Chosen[];
}

/** What a child says. */
export type Line = { begins: number } | { chosen: Chosen } | { batch: Batch } | { world: Outcome };

/** Time that a child has been on a processor, in ms. */
function cpuMs({ pid }: { pid: number }): number {
  try {
    return Number(readFileSync(`/proc/${pid}/schedstat`, "latin1").split(" ")[0]) / 1e6;
  } catch {
    return 0; // it has ended
  }
}

/** One child process, which is replaced when it hangs or dies. */
export class Runner {
  /** Length of stacks in failures. */
  stacks = 0;
  #child: Bun.Subprocess<"ignore", "pipe", "inherit"> | null = null;
  #lines: AsyncGenerator<Line, void, void> | null = null;
  /** Worlds that the child was asked for. */
  #worlds = 0;

  /** Runs the worlds of `count` seeds; stops at the first failure. */
  async seeds(from: number, count: number): Promise<Batch> {
    let seed = from;
    let begun = 0;
    if (this.#worlds >= CHILD_WORLDS) await this.close();
    this.#worlds += count;
    const end = await this.#do({ from, count, stacks: this.stacks }, WORLD_MS, (line) => {
      if (!("begins" in line) || line.begins < 0) return;
      seed = line.begins;
      begun++;
    });
    if (typeof end !== "string" && "batch" in end) return end.batch;
    return { worlds: begun, calls: 0, faults: 0, failed: { seed, failure: String(end) }, cells: [] };
  }

  /** Runs the world of a seed or of a list of choices, for `limitMs` of real time, or longer on a busy machine. */
  async world(from: { seed: number } | { choices: readonly Chosen[] }, limitMs = WORLD_MS): Promise<Outcome> {
    const chosen = "choices" in from ? [...from.choices] : [];
    const end = await this.#do({ ...from, stacks: this.stacks }, limitMs, (line) => {
      if ("chosen" in line) chosen.push(line.chosen);
    });
    if (typeof end !== "string" && "world" in end) return end.world;
    return { failure: String(end), choices: chosen };
  }

  /** Ends the child. */
  async close(): Promise<void> {
    this.#child?.kill("SIGKILL");
    await this.#child?.exited;
    this.#child = this.#lines = null;
    this.#worlds = 0;
  }

  /** Does a job. Returns its last line, or why there is none. The limit counts from the line before. */
  async #do(job: Job, limitMs: number, saw: (line: Line) => void): Promise<Line | string> {
    await this.#start();
    const child = this.#child!;
    let isEndless = false;
    let limits = 0;
    let usedMs = cpuMs(child);
    const onLate = (): void => {
      isEndless = ++limits === LIMITS || cpuMs(child) - usedMs > SHARE * limitMs;
      if (isEndless) child.kill("SIGKILL");
      else timer = setTimeout(onLate, limitMs);
    };
    let timer = setTimeout(onLate, limitMs);
    child.send(job);
    for (;;) {
      const { value: line } = await this.#lines!.next();
      clearTimeout(timer);
      if (!line) break;
      if ("batch" in line || "world" in line) return line;
      saw(line);
      limits = 0;
      usedMs = cpuMs(child);
      timer = setTimeout(onLate, limitMs);
    }
    await this.close();
    if (isEndless) return "the world never ends: it loops in one step";
    return `the process of the world died: ${child.signalCode ?? `exit code ${child.exitCode}`}`;
  }

  async #start(): Promise<void> {
    if (this.#child) return;
    const command = [process.execPath, join(import.meta.dir, "child.ts")];
    this.#child = Bun.spawn(command, { stdin: "ignore", stdout: "pipe", stderr: "inherit", ipc: () => {} });
    this.#lines = linesOf(this.#child.stdout);
    await this.#lines.next();
  }
}

async function* linesOf(stream: ReadableStream<Uint8Array>): AsyncGenerator<Line, void, void> {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const bytes of stream) {
    const lines = (rest + decoder.decode(bytes, { stream: true })).split("\n");
    rest = lines.pop()!;
    for (const line of lines) yield JSON.parse(line) as Line;
  }
}
