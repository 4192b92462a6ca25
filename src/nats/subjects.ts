/** The subjects of NATS that slotbus uses: `PREFIX.NAME.…`, see docs/nats.md. */

import { shown } from "../check.ts";
import { InvalidConfigError } from "../errors.ts";

/** First tokens of all subjects, unless the option `prefix` says otherwise. */
export const DEFAULT_PREFIX = "slotbus";
/** Largest prefix, in characters. */
const PREFIX_MAX = 128;

const PREFIX = /^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$/;

/** Returns `prefix` if it consists of tokens without wildcards. @throws {InvalidConfigError} */
export function checkPrefix(prefix: unknown): string {
  if (typeof prefix === "string" && prefix.length <= PREFIX_MAX && PREFIX.test(prefix)) return prefix;
  throw new InvalidConfigError(
    `prefix is ${shown(prefix)}; it must be tokens of A-Z a-z 0-9 _ - with dots between them.`,
    {
      hint: 'Leave it out, or choose for example "shop.slotbus".',
    },
  );
}

/**
 * Returns the token of a name: each `.` becomes `~`, which no name has. So a name is always one token, and no wildcard for the bus `a`
 * matches a subject of the bus `a.b`.
 */
export function tokenOf(name: string): string {
  return name.replaceAll(".", "~");
}

/** Returns the name of a token: the inverse of {@link tokenOf}. */
export function nameOf(token: string): string {
  return token.replaceAll("~", ".");
}
