/** Fencing on the side of the protected resource: refuses holders whose lease has passed to another holder. */

import { checkInteger } from "../check.ts";
import { type FenceOptions, fenceOptions } from "./options.ts";

/**
 * Remembers the highest fencing token that this process has seen. A holder that was stopped until its lease expired has
 * a lower token than its successor, so the fence refuses it when it continues.
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

  /** Returns `false` if the token is lower than one admitted before. Throws `InvalidConfigError` if it is invalid. */
  admit(token: number): boolean {
    if (checkInteger("token", token, 0, Number.MAX_SAFE_INTEGER) < this.#highWater) return false;
    this.#highWater = token;
    return true;
  }
}
