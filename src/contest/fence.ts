/** The side of the resource: it refuses whoever comes with a tenure that has been followed by another. */

import { checkInteger, checkOptions } from "../check.ts";

/**
 * Keeps the highest fencing token seen, in this process. A holder that was stopped past its lease and goes on unaware
 * brings a lower token than its successor did, and is refused.
 */
export class Fence {
  #highWater: number;

  /** `highWater`: the mark of an earlier fence, as it was persisted. Default 0. */
  constructor(options: { highWater?: number | undefined } = {}) {
    const { highWater = 0 } = checkOptions("a fence", options);
    this.#highWater = checkInteger("highWater", highWater, 0, Number.MAX_SAFE_INTEGER);
  }

  /** Highest token admitted so far. */
  get highWater(): number {
    return this.#highWater;
  }

  /** `true` for the highest token seen or a higher one, `false` for a lower one. Throws `InvalidConfigError` for what is no token. */
  admit(token: number): boolean {
    if (checkInteger("token", token, 0, Number.MAX_SAFE_INTEGER) < this.#highWater) return false;
    this.#highWater = token;
    return true;
  }
}
