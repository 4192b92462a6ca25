/** Options as docs/api.md lists them. */

import type { Rows } from "../src/options.ts";

/** One option as docs/api.md lists it. */
export interface OptionLine {
  /** `"queue.limit"` */
  readonly name: string;
  readonly fallback: string;
  readonly range: string;
}

/** The options of a table in their order, those of groups under the name of the group. */
export function linesOf(rows: Rows, prefix = ""): OptionLine[] {
  return Object.entries(rows).flatMap(([key, { fallback, range, rows: inner }]) => {
    const name = prefix + key;
    return inner ? linesOf(inner, `${name}.`) : [{ name, fallback, range }];
  });
}
