/** How a proof by named fault points is run: a plan of label × fault × passage, worlds that meet it, the histogram. */

import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { type Figures, figuresLine, Histogram, type Size, sizeAsked } from "../figures.ts";
import { Random } from "../soak/books.ts";
import { type Fault, LABEL, type Label } from "./labels.ts";

/** One fault at the `nth` passage of a label. */
export interface Case<Point> {
  point: Point;
  fault: Fault;
  nth: number;
}

/** Processes that meet one fault after another. */
export interface World<Point> {
  /** Lets one fault happen. Returns what was wrong; then the world is to be destroyed. */
  meet(item: Case<Point>): Promise<string[]>;
  /** Ends all in good order, and expects nothing left. */
  end(): Promise<string[]>;
  destroy(): Promise<void>;
}

export interface PointProof<Point> {
  /** The program, for the command that replays a case. */
  program: string;
  /** All labels of its part of the sources; the points are to have each. */
  labels: readonly Label[];
  points: readonly Point[];
  /** The columns of the histogram. */
  faults: readonly Fault[];
  /** Worlds at once: most of a case is waiting. */
  worlds: number;
  /** What tells two points of one label apart: an option of this name. */
  detail: { option: string; of: (point: Point) => string };
  rowOf: (point: Point) => string;
  /** The faults that a point is to meet: all that it can have, or a draw of them. */
  faultsOf: (point: Point, draws: boolean, random: Random) => readonly Fault[];
  /** The passages at which a fault may happen. */
  passages: (point: Point, size: Size) => readonly number[];
  world: (directory: string, seed: number, library: string) => World<Point>;
  /** What all came to, in words. */
  summary: () => string;
  figures: () => Figures;
}

/** After so many cases with a problem the rest is not run. */
const ENOUGH = 10;
const repository = join(import.meta.dir, "../../..");

const say = (text: string): void => void process.stdout.write(`${text}\n`);

/** The library with the points; the one that others use is left alone. */
function buildLibrary(): string {
  const zig = Bun.which("zig", { PATH: `${repository}/node_modules/.bin:${process.env["PATH"]}` });
  if (!zig) throw new Error("Zig is not installed: npm install");
  const build = Bun.spawnSync([zig, "build", "-Dpoints=true"], { cwd: repository, stderr: "pipe" });
  if (build.exitCode !== 0) throw new Error(build.stderr.toString());
  return join(repository, "zig-out/points/libslotbus.so");
}

class Run<Point extends { readonly label: string }> {
  readonly #proof: PointProof<Point>;
  readonly #size = sizeAsked();
  readonly #seed: number;
  readonly #random: Random;
  readonly #asked: Partial<Record<string, string>>;
  readonly #cases: Case<Point>[];
  readonly #planned: ReadonlySet<string>;
  readonly #histogram: Histogram<string, Fault>;
  readonly #root = mkdtempSync(join(tmpdir(), "slotbus-points-"));
  readonly #began = performance.now();
  #library = "";
  #worlds = 0;
  #failed = 0;
  #problems = 0;

  constructor(proof: PointProof<Point>) {
    this.#proof = proof;
    const text = { type: "string" } as const;
    const options = { seed: text, label: text, fault: text, nth: text, [proof.detail.option]: text };
    this.#asked = parseArgs({ options, allowPositionals: true }).values as Partial<Record<string, string>>;
    this.#seed = Number(this.#asked["seed"] ?? Date.now() % 2 ** 31);
    this.#random = new Random(this.#seed);
    this.#cases = this.#plan();
    this.#planned = new Set(this.#cases.map(({ point, fault }) => `${proof.rowOf(point)} ${fault}`));
    const cells = (row: string): `${string} ${Fault}`[] => proof.faults.map((fault) => `${row} ${fault}` as const);
    const isPlanned = (cell: string): boolean => this.#planned.has(cell);
    const rows = proof.points.map(proof.rowOf).filter((row) => cells(row).some(isPlanned));
    const unplanned = rows.flatMap(cells).filter((cell) => !isPlanned(cell));
    this.#histogram = new Histogram<string, Fault>(rows, proof.faults, new Set(unplanned));
  }

  #plan(): Case<Point>[] {
    const { detail, faultsOf, passages } = this.#proof;
    const { label = "", fault: replayed, nth } = this.#asked;
    const wanted = this.#asked[detail.option];
    const matching = this.#proof.points.filter(
      (point) => point.label.includes(label) && (wanted === undefined || detail.of(point) === wanted),
    );
    const draws = this.#size === "ci" && replayed === undefined && label === "";
    const cases = matching.flatMap((point) => {
      const faults = faultsOf(point, draws, this.#random);
      const possible = passages(point, this.#size);
      const drawn = this.#size === "long" ? possible : [this.#random.pick(possible)];
      const nths = nth ? [Number(nth)] : drawn;
      const some = faults.filter((fault) => replayed === undefined || fault === replayed);
      return some.flatMap((fault) => nths.map((passage) => ({ point, fault, nth: passage })));
    });
    return cases
      .map((item) => ({ item, key: this.#random.next() }))
      .sort((x, y) => x.key - y.key)
      .map(({ item }) => item);
  }

  async run(): Promise<boolean> {
    const { program, worlds, summary, figures, labels } = this.#proof;
    const count = `${this.#cases.length} cases of ${labels.length} labels`;
    say(`seed ${this.#seed}: bun test/prove/${program} ${this.#size} --seed ${this.#seed}; ${count}`);
    this.#checkLabels();
    for (const signal of ["SIGINT", "SIGTERM"] as const) {
      process.on(signal, () => {
        rmSync(this.#root, { recursive: true, force: true });
        process.exit(1); // its children end with it
      });
    }
    this.#library = buildLibrary();
    await Promise.all(Array.from({ length: Math.min(worlds, this.#cases.length) }, () => this.#work()));
    rmSync(this.#root, { recursive: true });
    const { empty } = this.#histogram;
    if (empty.length > 0) this.#report("the histogram", [`never met: ${empty.join(", ")}`]);
    say(String(this.#histogram));
    const time = `${((performance.now() - this.#began) / 1000).toFixed(1)} s`;
    const what = `${labels.length} labels, ${this.#planned.size} cells`;
    say(`${what}, ${summary()}, ${time}, ${this.#problems} problems`);
    say(figuresLine(figures()));
    return this.#problems === 0 && this.#planned.size > 0;
  }

  async #work(): Promise<void> {
    const { rowOf, program, detail } = this.#proof;
    let world = this.#newWorld();
    for (let next = this.#cases.shift(); next && this.#failed < ENOUGH; next = this.#cases.shift()) {
      const { point, fault, nth } = next;
      const found = await world.meet(next);
      if (found.length === 0) {
        this.#histogram.add(rowOf(point), fault);
        continue;
      }
      this.#failed++;
      const at = `after ${((performance.now() - this.#began) / 1000).toFixed(1)} s`;
      this.#report(`${rowOf(point)}, ${fault} at passage ${nth}, ${at}`, found);
      const how = `--label ${point.label} --${detail.option} ${detail.of(point)} --fault ${fault} --nth ${nth}`;
      say(`        again: bun test/prove/${program} ${how} --seed ${this.#seed}`);
      await world.destroy();
      world = this.#newWorld();
    }
    this.#report("the end", await world.end());
  }

  #newWorld(): World<Point> {
    const directory = join(this.#root, String(++this.#worlds));
    mkdirSync(directory);
    return this.#proof.world(directory, this.#seed, this.#library);
  }

  #report(what: string, texts: string[]): void {
    this.#problems += texts.length;
    for (const text of texts.slice(0, 10)) say(`PROBLEM ${what}: ${text}`);
  }

  /** Every label of the sources is named as it should be, and planned for. */
  #checkLabels(): void {
    const labels = this.#proof.labels.map(({ label }) => label);
    const known = new Set(this.#proof.points.map(({ label }) => label));
    const wrong = labels.filter((label) => !LABEL.test(label) || !known.has(label));
    if (wrong.length > 0 || known.size !== labels.length) this.#report("labels", [`not in order: ${wrong.join()}`]);
    const { seed: _, ...selection } = this.#asked;
    if (Object.keys(selection).length > 0) return;
    const met = new Set(this.#cases.map(({ point }) => point.label));
    const missing = labels.filter((label) => !met.has(label));
    if (missing.length > 0) this.#report("labels", [`not planned: ${missing.join()}`]);
  }
}

/** Runs it; `true`: no promise was broken. The last line it prints is the figures. */
export function runPoints<Point extends { readonly label: string }>(proof: PointProof<Point>): Promise<boolean> {
  return new Run(proof).run();
}
