/** The options of a bus. */

import { availableParallelism } from "node:os";
import { InvalidConfigError } from "../errors.ts";
import { C } from "../native/abi.ts";
import {
  bytes,
  choice,
  custom,
  type Given,
  group,
  integer,
  Options,
  refuse,
  type Resolved,
  signal,
  timeout,
} from "../options.ts";
import { directoryRow, nameRow } from "../runtime-directory.ts";
import { isVia, type Via } from "./via.ts";

/** Default of the option `spin`, in µs: 50, or 0 on a machine with one processor. */
export const DEFAULT_SPIN_US = availableParallelism() > 1 ? 50 : 0;
/** Largest number of attached workers. */
export const LINKS_MAX = C.SB_LINKS_MAX;
/** Largest number of slots of a worker. */
export const SLOTS_MAX = C.SB_SLOTS_MAX;
/** The option `via` of buses and workers. */
export const viaRow = custom<Via | undefined>(
  undefined,
  "`memory()`, `socket()` or `nats()`",
  checkVia,
  "memory where it is available",
);

const UID_MAX = 0xffff_fffe;

/** The option `spin` of buses and workers. */
export const spinRow = integer(DEFAULT_SPIN_US, 0, 10_000, " µs", "50");

const rows = {
  /** Name of the bus, by which workers find it. Must start with a letter or digit. */
  name: nameRow("bus"),
  /** Number of requests that one worker has at once. */
  slots: integer(32, 1, SLOTS_MAX),
  /** Largest body of a request or response, in bytes. Memory is allocated only when a body uses it. */
  payloadBytes: bytes(16_777_216, 1, C.SB_PAYLOAD_MAX),
  /** Largest head (path, query, parameters and headers together), in bytes. */
  headBytes: bytes(131_072, C.SB_HEAD_MIN, C.SB_HEAD_MAX),
  /**
   * Part of each arena that stays allocated when the bus is idle, in bytes. A worker copies a body up to this size when it
   * arrives.
   */
  inlineBytes: bytes(16_384, 1, C.SB_HEAD_MAX),
  /** Default timeout of a request, in ms; `Infinity` sets no limit. */
  timeout: timeout(30_000),
  /** Queue of the requests that wait for a free worker. */
  queue: group({
    /** Largest number of queued requests. */
    limit: integer(1_024, 0, 1_000_000),
    /** Behavior beyond the limit: `"reject"` rejects with BusOverloadedError, `"wait"` queues without a limit. */
    policy: choice("reject", ["reject", "wait"]),
  }),
  /** Longest time that the event loop spins before the process sleeps, in µs; 0 never spins. */
  spin: spinRow,
  /** User ids of other users whose workers may attach. Requires a `directory` with mode 0711. */
  allowedUids: custom<readonly number[]>([], "user ids", checkUids, "none"),
  /** Runtime directory, which holds the socket of the bus. */
  directory: directoryRow,
  /** What carries the requests. Workers that cannot share memory attach by socket to any bus. */
  via: viaRow,
  /** Worker processes that the bus starts itself. */
  workers: custom<object | undefined>(undefined, "see `workers`", (given) => given),
};

const readyRows = {
  /** Number of workers that must be attached. */
  workers: integer(1, 0, LINKS_MAX),
  /** Longest wait, in ms; 0 does not wait, `Infinity` waits without a limit. */
  timeout: timeout(30_000, 0),
  /** Cancels the wait: `ready` rejects with `signal.reason`. */
  signal,
};

/** The options of `SlotBus.ready`. */
export const readyOptions = new Options("ready", readyRows);

/** Number of workers for which `SlotBus.ready` waits, and how long it waits. */
export interface ReadyOptions extends Given<typeof readyRows> {}

/** The options of a bus. */
export const busOptions = new Options("a bus", rows);

/** Options of a bus. All except `name` have defaults. */
export interface BusOptions extends Given<typeof rows> {}

/** Options with their defaults filled in. */
export type ResolvedBusOptions = Omit<Resolved<typeof rows>, "workers">;

function checkVia(given: Via | undefined, name: string): Via | undefined {
  return given === undefined || isVia(given) ? given : refuse(name, given, "`memory()`, `socket()` or `nats()`");
}

function checkUids(given: readonly number[], name: string): readonly number[] {
  const isUid = (uid: unknown): boolean => Number.isInteger(uid) && (uid as number) >= 0 && (uid as number) <= UID_MAX;
  return Array.isArray(given) && given.every(isUid) ? given : refuse(name, given, `user ids from 0 to ${UID_MAX}`);
}

/** Fills in defaults. @throws {InvalidConfigError} */
export function resolveBusOptions(given: BusOptions): ResolvedBusOptions {
  const { workers: _, ...options } = busOptions.resolve(given);
  if (options.allowedUids.length > 0 && !given.directory) {
    throw new InvalidConfigError("allowedUids requires an explicit `directory`.", {
      hint: "Create one with mode 0711, owned by the client's user: others may enter it but not list it.",
    });
  }
  const headBytes = Math.ceil(options.headBytes / C.SB_LINE) * C.SB_LINE;
  const inlineBytes = Math.ceil(options.inlineBytes / C.SB_PAGE) * C.SB_PAGE;
  return { ...options, headBytes, inlineBytes };
}
