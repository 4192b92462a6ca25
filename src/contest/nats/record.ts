/**
 * A lease in a JetStream key-value bucket: names, the value of its key, and the arithmetic of its times. docs/nats.md describes them
 * for other languages.
 */

import { isText } from "../../check.ts";
import { decodeToken, encodeToken } from "../../nats/token.ts";
import { LEASE_LIMITS, type Subject } from "../../native/lease.ts";
import { TIMEOUT_MAX } from "../../options.ts";

/** What the value of a lease's key says. */
export interface LeaseRecord {
  readonly owner: string;
  /** Id of the tenure: random text. */
  readonly id: string;
  /** Fencing token; 0 in the claim itself, whose revision is the token. */
  readonly token: number;
  /** Duration of the lease, in ms, as its holder asked for it. */
  readonly ttl: number;
  /** Time from the claim to this renewal, in ms. */
  readonly held: number;
  readonly pid: number;
}

const VERSION = 1;
const ID = /^[A-Za-z0-9_-]{16,64}$/;

/** Returns the bytes of a record. */
export function encodeRecord({ owner, id, token, ttl, held, pid }: LeaseRecord): string {
  return JSON.stringify({ v: VERSION, owner, id, token, ttl, held: Math.round(held), pid });
}

/** Returns the record in the value of a key; `null` if it is not one. Any client of the server may have written it. */
export function decodeRecord(value: string): LeaseRecord | null {
  let read: unknown;
  try {
    read = JSON.parse(value);
  } catch {
    return null;
  }
  if (typeof read !== "object" || read === null) return null;
  const { v, owner, id, token, ttl, held, pid } = read as Record<string, unknown>;
  const isRight =
    v === VERSION &&
    isText(owner, LEASE_LIMITS.owner) &&
    typeof id === "string" &&
    ID.test(id) &&
    isCount(token, Number.MAX_SAFE_INTEGER) &&
    typeof ttl === "number" &&
    ttl > 0 &&
    ttl <= TIMEOUT_MAX &&
    isCount(held, Number.MAX_SAFE_INTEGER) &&
    isCount(pid, 0xffff_ffff);
  return isRight ? { owner, id, token, ttl, held, pid } : null;
}

function isCount(value: unknown, max: number): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0 && (value as number) <= max;
}

// ---- names ----------------------------------------------------------------------------------------------------------

/** Returns the key of a subject in its bucket. */
export function keyOf({ kind, label }: Subject): string {
  return `${encodeToken(kind)}.${encodeToken(label)}`;
}

/** Returns the subject of a key; `null` if it is not a key of a lease. */
export function subjectOf(key: string): Subject | null {
  const tokens = key.split(".");
  if (tokens.length !== 2) return null;
  const [kind, label] = tokens.map(decodeToken);
  return isText(kind, LEASE_LIMITS.kind) && isText(label, LEASE_LIMITS.label) ? { kind, label } : null;
}

/** Returns the bucket of a fleet: different for each prefix and name. Bucket names allow only A-Z a-z 0-9 _ -. */
export function bucketOf(prefix: string, fleet: string): string {
  const escape = (char: string): string => `_${char.charCodeAt(0).toString(16).toUpperCase()}`;
  return `${prefix.replaceAll(/[._-]/g, escape)}-${fleet.replaceAll(/[._]/g, escape)}`;
}

// ---- times ----------------------------------------------------------------------------------------------------------

/** Part of a ttl by which a holder gives up its lease before the server removes it: clocks do not run at one speed. */
const EARLY = 0.01;

/** Returns the ttl for the server, in whole seconds: the lease is free for others after at least `ms`. */
export function serverSeconds(ms: number): number {
  return Math.max(1, Math.ceil(ms / 1_000));
}

/** Returns when the holder's lease ends by its own clock. It counts from the sending of the claim or renewal. */
export function deadlineOf(sentAt: number, ttl: number): number {
  return sentAt + ttl * (1 - EARLY);
}

/** Returns the ttl of a renewal that must not shorten the lease, in ms. */
export function renewedTtl(ttl: number, sentAt: number, expiresAt: number): number {
  const left = (expiresAt - sentAt) / (1 - EARLY);
  return Math.max(ttl, left);
}

/**
 * Returns claim and end of another holder's lease by the clock of this process. `written`: when the server stored the record, by its
 * wall clock, in ms. `wall` and `now`: the clocks of this process. An estimate, as good as the wall clocks agree.
 */
export function timesOf(record: LeaseRecord, written: number, wall: number, now: number): [number, number] {
  const lasts = serverSeconds(record.ttl) * 1_000;
  const age = Math.min(lasts, Math.max(0, wall - written));
  return [now - age - record.held, now - age + lasts];
}
