/** Options: their defaults, their ranges, and the one error each wrong value gets. */

import { availableParallelism } from "node:os";
import { checkChoice, checkInteger, checkTimeout } from "../check.ts";
import { InvalidConfigError } from "../errors.ts";
import { C } from "../native/abi.ts";
import { checkName, resolveDirectory } from "../runtime-directory.ts";

/** Default of the option `spin`, in microseconds: 50, or 0 where there is one processor only. */
export const DEFAULT_SPIN_US = availableParallelism() > 1 ? 50 : 0;
/** Largest number of workers that are attached at once. */
export const LINKS_MAX = C.SB_LINKS_MAX;
/** Largest number of slots of a worker. */
export const SLOTS_MAX = C.SB_SLOTS_MAX;

/** Receives one line of timing per request; see {@link BusOptions.instrumentation}. */
export interface RequestTiming {
  id: string;
  path: string;
  workerPid: number;
  /** From publication to the worker's claim, in microseconds. */
  claimUs: number;
  /** From publication to delivery, in microseconds. */
  roundTripUs: number;
}

/** Options of a bus; all but the name have defaults. */
export interface BusOptions {
  /** Name under which workers find the bus: 1-64 of `A-Z a-z 0-9 . _ -`, starting with a letter or digit. */
  name: string;
  /** Slots per worker: requests that can be with one worker at once. 1-256, default 32. */
  slots?: number;
  /** Largest body in bytes, either direction. Default 16 MiB, at most 1 GiB. Memory is used when it is touched. */
  payloadLimit?: number;
  /** Largest head (path, query, parameters, headers) in bytes. Default 128 KiB, 1 KiB to 16 MiB. */
  headLimit?: number;
  /** Bytes of an arena that are kept warm, and up to which a worker copies a body when it comes. Default 16 KiB. */
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
export function resolveBusOptions(given: BusOptions): ResolvedBusOptions {
  const name = checkName(given?.name);
  const policy = checkChoice("queue.policy", given.queue?.policy ?? "reject", ["reject", "wait"]);
  const allowedUids = (given.allowedUids ?? []).map((uid) => checkInteger("allowedUids", uid, 0, 0xffff_fffe));
  if (allowedUids.length > 0 && !given.directory) {
    throw new InvalidConfigError("allowedUids needs an explicit `directory`.", {
      hint: "Make one of mode 0711 that belongs to the client's user: others may enter it, not list it.",
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
