/** Shared by the programs of the stdio proof: their sizes, broken promises, and the last line. */

import { type Figure, type Figures, figuresLine, sizeAsked } from "../figures.ts";

/** Numbers of this run: `test` fits into `npm test`, the others are sizes of a proof. */
export function sized<T>(test: T, ci: T, quick: T, long: T): T {
  return process.argv[2] === "test" ? test : { ci, quick, long }[sizeAsked()];
}

/** What was done, and how often a promise was broken. */
export const figures = { requests: 0, kills: 0, lost: 0, doubled: 0, misdelivered: 0, leaked: 0 } satisfies Figures;

export function say(text: string): void {
  process.stdout.write(`${text}\n`);
}

/** A promise was broken. */
export function problem(kind: Figure & keyof typeof figures, text: string): void {
  figures[kind]++;
  say(`BROKEN (${kind}): ${text}`);
}

/** Ends with the figures; the exit code is 1 when a promise was broken. */
export function finish(): never {
  const { lost, doubled, misdelivered, leaked } = figures;
  say(figuresLine(figures));
  process.exit(lost + doubled + misdelivered + leaked === 0 ? 0 : 1);
}
