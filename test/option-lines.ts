/** Options in the form of docs/api.md. */

import type { Rows } from "../src/options.ts";

/** One option in the form of docs/api.md. */
export interface OptionLine {
  /** `"queue.limit"` */
  readonly name: string;
  readonly fallback: string;
  readonly range: string;
}

/** The options of a table in their order, grouped options with their group's name in front. */
export function linesOf(rows: Rows, prefix = ""): OptionLine[] {
  return Object.entries(rows).flatMap(([key, { fallback, range, rows: inner }]) => {
    const name = prefix + key;
    return inner ? linesOf(inner, `${name}.`) : [{ name, fallback, range }];
  });
}
