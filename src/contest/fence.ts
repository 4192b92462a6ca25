/** The side of the resource: it refuses whoever comes with a tenure that has been followed by another. */

import { checkOptions, shown } from "../check.ts";
import { InvalidConfigError } from "../errors.ts";

function checkToken(what: string, token: unknown): number {
  if (typeof token === "number" && Number.isSafeInteger(token) && token >= 0) return token;
  throw new InvalidConfigError(`${what} is ${shown(token)}; it must be a whole number from 0 to 2^53 - 1.`);
}

/**
 * Keeps the highest fencing token seen, in this process. A holder that was stopped past its lease and goes on unaware
 * brings a lower token than its successor did, and is refused.
 */
export class Fence {
  #highWater: number;

  /** `highWater`: the mark of an earlier fence, as it was persisted. Default 0. */
  constructor(options: { highWater?: number | undefined } = {}) {
    const { highWater = 0 } = checkOptions("a fence", options);
    this.#highWater = checkToken("highWater", highWater);
  }

  /** Highest token admitted so far. */
  get highWater(): number {
    return this.#highWater;
  }

  /** `true` for the highest token seen or a higher one, `false` for a lower one. Throws `InvalidConfigError` for what is no token. */
  admit(token: number): boolean {
    if (checkToken("token", token) < this.#highWater) return false;
    this.#highWater = token;
    return true;
  }
}
