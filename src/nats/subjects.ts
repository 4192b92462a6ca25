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

const ID = /^[A-Za-z0-9_-]{16,64}$/;

/** Returns an identifier that nobody else has or can guess. */
export function makeId(): string {
  return crypto.randomUUID().replaceAll("-", "");
}

/**
 * The subjects of one bus. All below `clients` are read by clients and written by workers, and all below `workers` the other way round.
 * So two permissions tell what a process may be.
 */
export class BusSubjects {
  /** Workers ask here which clients there are. */
  readonly clients: string;
  /** Clients say here that they are there. */
  readonly workers: string;

  constructor(prefix: string, name: string) {
    const base = `${prefix}.${tokenOf(name)}`;
    this.clients = `${base}.c`;
    this.workers = `${base}.w`;
  }

  /** The private subject of a client, or of one of its connections. */
  client(id: string, connection?: string): string {
    return connection === undefined ? `${this.clients}.${id}` : `${this.clients}.${id}.${connection}`;
  }

  /** The private subject of a worker, or of one of its connections. */
  worker(id: string, connection?: string): string {
    return connection === undefined ? `${this.workers}.${id}` : `${this.workers}.${id}.${connection}`;
  }

  /** Whether `subject` is private, `tokens` below `base`: another process may have written it into a message as its reply. */
  isPrivate(base: string, subject: string | undefined, tokens: 1 | 2): subject is string {
    if (!subject?.startsWith(`${base}.`)) return false;
    const ids = subject.slice(base.length + 1).split(".");
    return ids.length === tokens && ids.every((id) => ID.test(id));
  }
}

/** Whether a text that another process sent is an identifier. */
export function isId(text: string): boolean {
  return ID.test(text);
}
