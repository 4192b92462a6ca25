/** Options: their defaults, their ranges, and the one error each wrong value gets. */

import { resolve } from "node:path";
import { InvalidConfigError, InvalidNameError } from "../errors.ts";
import { C } from "../native/abi.ts";
import { DEFAULT_SPIN_US } from "./driver.ts";

const namePattern = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;

/** Throws {@link InvalidNameError} unless `name` can name a bus, or a fleet. C checks it again. */
export function checkName(name: unknown, what: "bus" | "fleet" = "bus"): string {
  if (typeof name !== "string" || !namePattern.test(name)) throw new InvalidNameError(name, what);
  return name;
}

/** A value as the text of an error shows it, whatever it is; text has quotes. */
export function shown(value: unknown): string {
  if (typeof value === "string" && value.length > 64) {
    return `${Bun.inspect(value.slice(0, 64))}… (${Buffer.byteLength(value)} bytes)`;
  }
  return Bun.inspect(value, { depth: 0 }).replace(/\s+/g, " ").slice(0, 80);
}

/** Throws {@link InvalidConfigError} unless the options `of` something are an object. */
export function checkOptions<T>(of: string, options: T): T {
  if (typeof options === "object" && options !== null) return options;
  throw new InvalidConfigError(`the options of ${of} are ${shown(options)}; they must be an object.`);
}

/** Throws {@link InvalidConfigError} unless it is a signal, or none. */
export function checkSignal(signal: unknown): void {
  if (signal === undefined || signal instanceof AbortSignal) return;
  throw new InvalidConfigError(`signal is ${shown(signal)}; it must be an AbortSignal.`);
}

/** A runtime directory as a path from the root. Throws {@link InvalidConfigError} for what is no path. */
export function resolveDirectory(given: unknown): string {
  const directory = given ?? defaultDirectory();
  if (typeof directory === "string" && directory !== "" && !directory.includes("\0")) return resolve(directory);
  throw new InvalidConfigError(`directory is ${shown(directory)}; it must be a path: text without NUL.`);
}

/** `$SLOTBUS_DIR`, else `/dev/shm/slotbus-<euid>`. */
export function defaultDirectory(): string {
  return process.env["SLOTBUS_DIR"] || `/dev/shm/slotbus-${process.geteuid?.() ?? 0}`;
}

/** Throws unless `value` is a whole number from `low` to `high`. */
export function checkInteger(option: string, value: unknown, low: number, high: number, unit = ""): number {
  if (typeof value === "number" && Number.isInteger(value) && value >= low && value <= high) return value;
  throw new InvalidConfigError(
    `${option} is ${shown(value)}; it must be a whole number from ${low} to ${high}${unit}.`,
  );
}

/** Milliseconds; `Infinity` (or 0) means no limit and becomes 0. */
export function checkTimeout(option: string, value: unknown): number {
  if (value === Infinity) return 0;
  if (typeof value === "number" && value >= 0 && value <= 0xffff_ffff) return Math.ceil(value);
  throw new InvalidConfigError(`${option} is ${shown(value)}; it must be 0 (no limit) to 4294967295 ms.`);
}

/** Longest wait of a timer of JavaScript, in ms; a longer one would end at once. */
const MAX_TIMER_MS = 0x7fff_ffff;

/** Calls `done` after `ms`; never for 0 (no limit) and for what is beyond a timer's range (24 days). */
export function startTimer(ms: number, done: () => void): { clear(): void } {
  if (ms === 0 || ms > MAX_TIMER_MS) return { clear: () => {} };
  const timer = setTimeout(done, ms);
  return { clear: () => clearTimeout(timer) };
}

/** Limit of a drain in `close`, in ms: 0 means at once there. */
export function checkCloseLimit(value: unknown): number {
  if (value === 0) return 1;
  return checkTimeout("timeout", value);
}

/** Receives one line of timing per request; see {@link SlotBusOptions.instrumentation}. */
export interface RequestTiming {
  id: string;
  path: string;
  workerPid: number;
  /** From publication to the worker's claim, in microseconds. */
  claimUs: number;
  /** From publication to delivery, in microseconds. */
  roundTripUs: number;
}

export interface SlotBusOptions {
  /** Name under which workers find the bus: 1-64 of `A-Z a-z 0-9 . _ -`, starting with a letter or digit. */
  name: string;
  /** Slots per worker: requests that can be with one worker at once. 1-256, default 32. */
  slots?: number;
  /** Largest body in bytes, either direction. Default 16 MiB, at most 1 GiB. Memory is used when it is touched. */
  payloadLimit?: number;
  /** Largest head (path, query, parameters, headers) in bytes. Default 128 KiB, 1 KiB to 16 MiB. */
  headLimit?: number;
  /** Bytes of an arena that are kept warm, and up to which a worker copies a request. Default 16 KiB. */
  inlineSize?: number;
  /** Default timeout of a request in ms, `Infinity` for none. Default 30 000. */
  timeout?: number;
  queue?: {
    /** Requests that may wait for a free worker. Default 1024. */
    limit?: number;
    /** What happens beyond that: `"reject"` with BusOverloadedError (default), or `"wait"`. */
    policy?: "reject" | "wait";
  };
  /** Longest spin on the event loop before parking, in µs; 0 never spins. Default 50, or 0 on one processor. */
  spin?: number;
  /** Users that may attach, besides our own. Needs an explicit `directory` of mode 0711. */
  allowedUids?: readonly number[];
  /** Runtime directory. Default `$SLOTBUS_DIR`, else `/dev/shm/slotbus-<euid>`. */
  directory?: string;
  /** Called with the claim and round-trip time of each answered request. Default: nothing is measured. */
  instrumentation?: (timing: RequestTiming) => void;
}

/** Options with their defaults filled in. */
export type ResolvedBusOptions = Readonly<{
  name: string;
  slots: number;
  payloadLimit: number;
  headLimit: number;
  inlineSize: number;
  timeout: number;
  queue: Readonly<{ limit: number; policy: "reject" | "wait" }>;
  spin: number;
  allowedUids: readonly number[];
  directory: string;
  instrumentation: ((timing: RequestTiming) => void) | null;
}>;

function pageUp(bytes: number): number {
  return Math.ceil(bytes / C.SB_PAGE) * C.SB_PAGE;
}

/** Fills in defaults. Throws {@link InvalidConfigError} or {@link InvalidNameError}. */
export function resolveBusOptions(given: SlotBusOptions): ResolvedBusOptions {
  const name = checkName(given?.name);
  const policy = given.queue?.policy ?? "reject";
  if (policy !== "reject" && policy !== "wait") {
    throw new InvalidConfigError(`queue.policy is ${JSON.stringify(policy)}; it must be "reject" or "wait".`);
  }
  const allowedUids = (given.allowedUids ?? []).map((uid) => checkInteger("allowedUids", uid, 0, 0xffff_fffe));
  if (allowedUids.length > 0 && !given.directory) {
    throw new InvalidConfigError("allowedUids needs an explicit `directory`.", {
      hint: "Make one of mode 0711 that belongs to the hub's user: others may enter it, not list it.",
    });
  }
  const headLimit = checkInteger("headLimit", given.headLimit ?? 131_072, C.SB_HEAD_MIN, C.SB_HEAD_MAX, " bytes");
  return {
    name,
    slots: checkInteger("slots", given.slots ?? 32, 1, C.SB_SLOTS_MAX),
    payloadLimit: checkInteger("payloadLimit", given.payloadLimit ?? 16_777_216, 1, C.SB_PAYLOAD_MAX, " bytes"),
    headLimit: Math.ceil(headLimit / C.SB_LINE) * C.SB_LINE,
    inlineSize: pageUp(checkInteger("inlineSize", given.inlineSize ?? 16_384, 1, C.SB_HEAD_MAX, " bytes")),
    timeout: checkTimeout("timeout", given.timeout ?? 30_000),
    queue: { limit: checkInteger("queue.limit", given.queue?.limit ?? 1024, 0, 1_000_000), policy },
    spin: checkInteger("spin", given.spin ?? DEFAULT_SPIN_US, 0, 10_000, " µs"),
    allowedUids,
    directory: resolveDirectory(given.directory),
    instrumentation: given.instrumentation ?? null,
  };
}
