/** Start and end of a proof with child processes: its options, its folder, its problems, and its last lines. */

import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { type Figures, figuresLine, sizeAsked } from "./figures.ts";

/** Number of problems that are printed; further problems are only counted. */
const SAID = 20;

export function say(text: string): void {
  process.stdout.write(`${text}\n`);
}

export class Proof<Option extends string> {
  /** Fixes every choice of the run, but not the timing of the machine. */
  readonly seed: number;
  /** Private to this run, and removed at its end. */
  readonly folder: string;
  /** Directory of its buses or its fleet. */
  readonly runtime: string;
  readonly problems: string[] = [];
  readonly #name: string;
  readonly #values: Record<Option | "seed", string>;
  readonly #began = performance.now();

  /** `options`: options of the command line besides `--seed`, with their defaults. */
  constructor(name: string, options: Record<Option, string | number>) {
    this.#name = name;
    const defaults = { seed: Date.now() % 2 ** 31, ...options };
    const known = Object.entries(defaults).map(([option, value]) => {
      return [option, { type: "string", default: String(value) }] as const;
    });
    const { values } = parseArgs({ options: Object.fromEntries(known), allowPositionals: true });
    this.#values = values as Record<Option | "seed", string>;
    this.seed = this.number("seed");
    this.folder = mkdtempSync(join(tmpdir(), `slotbus-${name}-`));
    this.runtime = join(this.folder, "runtime");
    mkdirSync(this.runtime, { mode: 0o700 });
    const replay = Object.entries(values).map(([option, value]) => (value === "" ? "" : ` --${option} ${value}`));
    say(`seed ${this.seed}: bun test/prove/${name}.ts ${sizeAsked()}${replay.join("")}`);
  }

  text(option: Option): string {
    return this.#values[option];
  }

  number(option: Option | "seed"): number {
    return Number(this.#values[option]);
  }

  /** Reports a broken promise. */
  readonly problem = (text: string): void => {
    this.problems.push(text);
    if (this.problems.length <= SAID) process.stderr.write(`${this.#name}: ${text}\n`);
  };

  /** Time since the start, in ms. */
  get ms(): number {
    return performance.now() - this.#began;
  }

  /** `12.3 s, 0 problems` */
  get verdict(): string {
    return `${(this.ms / 1000).toFixed(1)} s, ${this.problems.length} problems`;
  }

  /** Removes the folder, prints the figures and exits, with code 1 if a promise was broken. */
  end(figures: Figures): never {
    rmSync(this.folder, { recursive: true });
    say(figuresLine(figures));
    process.exit(this.problems.length === 0 ? 0 : 1);
  }
}
