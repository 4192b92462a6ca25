/**
 * What the proofs have in common: the size of a run, the histogram of state × fault, and the last line, which `run.ts` reads
 * to add up their figures.
 *
 *     bun test/prove/NAME.ts [ci | quick | long] [its own options]
 */

/** `ci`: all proofs take seven minutes together. `quick`: fifteen. `long`: hours, never run by CI. */
export type Size = "ci" | "quick" | "long";

/** Figures of a run (`rules`: removed rules that a test noticed). From `lost` on: number of broken promises. */
export const FIGURES = [
  "requests",
  "streams",
  "kills",
  "stalls",
  "mutations",
  "states",
  "rules",
  "lost",
  "doubled",
  "misdelivered",
  "leaked",
] as const;
export type Figure = (typeof FIGURES)[number];
export type Figures = Partial<Record<Figure, number>>;

/** Size given on the command line; default `ci`. */
export function sizeAsked(): Size {
  const word = process.argv[2];
  return word === "quick" || word === "long" ? word : "ci";
}

/** `requests 12, kills 3, …`: the figures that the run has. */
export function figuresLine(figures: Figures): string {
  return FIGURES.filter((name) => figures[name] !== undefined)
    .map((name) => `${name} ${figures[name]}`)
    .join(", ");
}

/** Reads {@link figuresLine}; `null` when the line has another format. */
export function readFigures(line: string): Figures | null {
  const figures: Figures = {};
  for (const part of line.split(", ")) {
    const [, word, number] = /^(\w+) (\d+)$/.exec(part) ?? [];
    if (!FIGURES.includes(word as Figure)) return null;
    figures[word as Figure] = Number(number);
  }
  return figures;
}

/** Counts faults by state: one row per state, one column per fault. */
export class Histogram<State extends string = string, Fault extends string = string> {
  readonly #states: readonly State[];
  readonly #faults: readonly Fault[];
  readonly #counts = new Map<string, number>();

  /** `impossible`: cells `"state fault"` that cannot occur. Give the reason where you list one. */
  constructor(
    states: readonly State[],
    faults: readonly Fault[],
    readonly impossible: ReadonlySet<`${State} ${Fault}`> = new Set(),
  ) {
    this.#states = states;
    this.#faults = faults;
  }

  add(state: State, fault: Fault, count = 1): void {
    this.#counts.set(`${state} ${fault}`, this.get(state, fault) + count);
  }

  get(state: State, fault: Fault): number {
    return this.#counts.get(`${state} ${fault}`) ?? 0;
  }

  /** Cells that can occur and did not. */
  get empty(): string[] {
    const missing: string[] = [];
    for (const state of this.#states) {
      for (const fault of this.#faults) {
        if (!this.impossible.has(`${state} ${fault}`) && this.get(state, fault) === 0)
          missing.push(`${state} ${fault}`);
      }
    }
    return missing;
  }

  toString(): string {
    const rows = [["", ...this.#faults]];
    for (const state of this.#states) {
      const cell = (fault: Fault): string =>
        this.impossible.has(`${state} ${fault}`) ? "-" : String(this.get(state, fault));
      rows.push([state, ...this.#faults.map(cell)]);
    }
    const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)) + 2);
    return rows
      .map((row) => row.map((text, i) => (i > 0 ? text.padStart(widths[i]!) : text.padEnd(widths[i]!))).join(""))
      .join("\n");
  }
}
