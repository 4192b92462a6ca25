/** The side of the resource: it refuses whoever comes with a tenure that has been followed by another. */

import { checkInteger } from "../check.ts";
import { type FenceOptions, fenceOptions } from "./options.ts";

/**
 * Keeps the highest fencing token seen, in this process. A holder that was stopped past its lease and goes on unaware
 * brings a lower token than its successor did, and is refused.
 */
export class Fence {
  #highWater: number;

  constructor(options: FenceOptions = {}) {
    this.#highWater = fenceOptions.resolve(options).highWater;
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
