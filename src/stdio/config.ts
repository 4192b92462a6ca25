/** Options of a stdio bus: their defaults, their ranges, and the one error each wrong value gets. */

import { checkChoice, checkInteger, checkKeys, checkOptions, checkTimeout, shown } from "../check.ts";
import { type ExitReport, InvalidConfigError, type SlotbusError, type WorkerFailedError } from "../errors.ts";
import { checkBoolean, POOL_KEYS, type PoolOptions } from "../supervisor/options.ts";
import { type Framing, FRAMINGS } from "./framing.ts";
import { fromJson } from "./rpc.ts";
import type { LinkIdentity } from "./worker-connection.ts";

/** Limits of the bus; a pool may have its own in their place. */
export interface StdioLimits {
  /** Requests that one worker has at once. 1 to 65 536, default 64. */
  maxInFlight?: number;
  /** A worker is given no more while so many bytes wait for its pipe. 1 KiB to 1 GiB, default 4 MiB. */
  maxQueuedBytes?: number;
  /** Longest message of a worker, in bytes; one that is longer fails its request. 64 B to 1 GiB, default 10 MiB. */
  maxMessageBytes?: number;
  /** Default timeout of a request in ms, `Infinity` for none. Default 30 000. */
  timeout?: number;
  queue?: {
    /** Requests of a pool that may wait for a worker. 0 to 1 000 000, default 1024. */
    limit?: number;
    /** What happens beyond that: `"reject"` with BackpressureError (default), or `"wait"`. */
    policy?: "reject" | "wait";
  };
  /**
   * A worker is replaced, as by its age, when so many of its requests in a row timed out and it answered nothing since: it hangs.
   * 1 to 1 000 000; `Infinity`: never (default).
   */
  maxTimeouts?: number;
  /** What becomes of a worker that writes what is no message: `"skip"` goes on behind it (default), `"restart"` kills it. */
  onFault?: "skip" | "restart";
}

/** Workers of one program. */
export interface StdioPoolOptions extends Omit<PoolOptions, "name"> {
  /** Unique in its bus: 1 to 255 characters. */
  id: string;
  /** How messages are told apart. Default `"ndjson"`. */
  framing?: Framing;
  /** A worker is ready when it says so by the notification `$/ready` (true), or when it was started (false, default). */
  ready?: boolean;
  /**
   * Called for each new process, also after a restart, before it takes requests: language servers and tool servers must be told
   * `initialize` first, and state that the last one had is given to the next. The worker is ready when the promise that it
   * returns has settled, within `startupTimeout`; a rejection ends the process, as one that does not get ready.
   */
  initialize?: ((worker: StartingWorker) => unknown) | undefined;
  limits?: StdioLimits;
}

/** A worker that takes no requests yet. */
export interface StartingWorker extends LinkIdentity {
  /** Asks it; as `bus.request`, without a timeout of its own. @throws (rejects) {InvalidStateError} when it is ready. */
  request<T = unknown>(method: string, params?: unknown): Promise<T>;
  /** Tells it; as `bus.notify`. @throws (rejects) {InvalidStateError} when it is ready. */
  notify(method: string, params?: unknown): Promise<void>;
}

/** What became of a worker. */
export interface WorkerEvent {
  /** `"exited"`: a process ended, whatever the reason; what comes next tells what became of the worker. */
  readonly event: "started" | "stopping" | "exited" | "stopped" | "restarting" | "paused" | "failed";
  readonly pool: string;
  readonly worker: number;
  readonly life: number;
  /** 0: it has no process now. */
  readonly pid: number;
  /** How the process ended; only of `"exited"`. */
  readonly report?: ExitReport;
}

/** A pool whose workers end too often is paused, or no longer paused. */
export interface PoolEvent {
  readonly event: "paused" | "resumed";
  readonly pool: string;
  /** Why the last worker was paused; only of `"paused"`. */
  readonly error?: WorkerFailedError;
}

/** What a `StdioBus` is made of, and who is told what happens. */
export interface StdioBusOptions {
  /** 1 to 1024. */
  pools: readonly StdioPoolOptions[];
  limits?: StdioLimits;
  /** Told of each line that a worker writes to standard error. */
  onLog?: (line: { pool: string; worker: number; pid: number; line: string }) => void;
  /**
   * Told of what no promise tells: bytes that are no message (`worker` wrote them); with `null`, a pool that is paused, workers
   * that are given up, and connections that a server closed. Without this function a closed connection is one line on standard
   * error.
   */
  onError?: (error: SlotbusError, worker: LinkIdentity | null) => void;
  /** Told when a worker comes, goes and is started again. */
  onWorker?: (event: WorkerEvent) => void;
  /**
   * Told when a pool is paused because its workers end too often, and when it is no longer paused. Without `onPool` and `onError` a
   * warning on standard error says so.
   */
  onPool?: (event: PoolEvent) => void;
}

/** @internal Limits with their defaults; 0 in `timeout` is none. */
export type ResolvedLimits = Readonly<Required<StdioLimits> & { queue: Required<StdioLimits["queue"]> }>;

/** @internal A pool with its defaults; `program` is for the supervisor. */
export interface ResolvedStdioPool {
  readonly id: string;
  readonly framing: Framing;
  readonly ready: boolean;
  readonly initialize: ((worker: StartingWorker) => unknown) | undefined;
  readonly limits: ResolvedLimits;
  readonly program: PoolOptions;
}

const GIB = 2 ** 30;
const BUS_KEYS = ["pools", "limits", "onLog", "onError", "onWorker", "onPool"];
const LIMIT_KEYS = ["maxInFlight", "maxQueuedBytes", "maxMessageBytes", "timeout", "queue", "maxTimeouts", "onFault"];
const OWN_KEYS = ["id", "framing", "ready", "initialize", "limits"];
const PROGRAM_KEYS = POOL_KEYS.filter((key) => key !== "name");
const LEGACY_KEYS = ["pools", "limits"];
const LEGACY_POOL_KEYS = ["id", "command", "args", "instances"];
const LEGACY_LIMIT_KEYS = [
  "max_input_buffer",
  "max_output_queue",
  "max_restarts",
  "restart_window_sec",
  "drain_timeout_sec",
  "backpressure_timeout_sec",
];

const defaults: ResolvedLimits = {
  maxInFlight: 64,
  maxQueuedBytes: 4 * 2 ** 20,
  maxMessageBytes: 10 * 2 ** 20,
  timeout: 30_000,
  queue: { limit: 1_024, policy: "reject" },
  maxTimeouts: Infinity,
  onFault: "skip",
};

function resolveLimits(of: string, given: StdioLimits | undefined, base: ResolvedLimits): ResolvedLimits {
  const limits = checkKeys(of, given ?? {}, LIMIT_KEYS);
  const queue = checkKeys(`${of}.queue`, limits.queue ?? {}, ["limit", "policy"]);
  const { maxTimeouts = base.maxTimeouts } = limits;
  return {
    maxInFlight: checkInteger(`${of}.maxInFlight`, limits.maxInFlight ?? base.maxInFlight, 1, 65_536),
    maxQueuedBytes: checkInteger(`${of}.maxQueuedBytes`, limits.maxQueuedBytes ?? base.maxQueuedBytes, 1_024, GIB),
    maxMessageBytes: checkInteger(`${of}.maxMessageBytes`, limits.maxMessageBytes ?? base.maxMessageBytes, 64, GIB),
    timeout: checkTimeout(`${of}.timeout`, limits.timeout ?? base.timeout),
    queue: {
      limit: checkInteger(`${of}.queue.limit`, queue.limit ?? base.queue.limit, 0, 1_000_000),
      policy: checkChoice(`${of}.queue.policy`, queue.policy ?? base.queue.policy, ["reject", "wait"]),
    },
    maxTimeouts: maxTimeouts === Infinity ? Infinity : checkInteger(`${of}.maxTimeouts`, maxTimeouts, 1, 1_000_000),
    onFault: checkChoice(`${of}.onFault`, limits.onFault ?? base.onFault, ["skip", "restart"]),
  };
}

/** Fills in defaults. Throws {@link InvalidConfigError}. @internal */
export function resolveStdioOptions(given: StdioBusOptions): ResolvedStdioPool[] {
  const options = checkKeys("a StdioBus", given, BUS_KEYS);
  const limits = resolveLimits("limits", options.limits, defaults);
  for (const name of ["onLog", "onError", "onWorker", "onPool"] as const) {
    if (options[name] === undefined || typeof options[name] === "function") continue;
    throw new InvalidConfigError(`${name} is ${shown(options[name])}; it must be a function.`);
  }
  const pools: unknown = options.pools;
  if (!Array.isArray(pools) || pools.length === 0 || pools.length > 1_024) {
    throw new InvalidConfigError(`pools is ${shown(pools)}; it must be an array of 1 to 1024 pools.`);
  }
  const ids = new Set<string>();
  return pools.map((pool: StdioPoolOptions, index) => {
    const of = `pools[${index}]`;
    checkKeys(of, pool, [...OWN_KEYS, ...PROGRAM_KEYS]);
    const { id } = pool;
    if (typeof id !== "string" || id === "" || id.length > 255) {
      throw new InvalidConfigError(`${of}.id is ${shown(id)}; it must be text of 1 to 255 characters.`);
    }
    if (ids.has(id))
      throw new InvalidConfigError(`two pools have the id ${shown(id)}.`, { hint: "Give each its own." });
    ids.add(id);
    const { ready = false, initialize } = pool;
    if (initialize !== undefined && typeof initialize !== "function") {
      throw new InvalidConfigError(`${of}.initialize is ${shown(initialize)}; it must be a function.`);
    }
    if (pool.instances === 0) {
      throw new InvalidConfigError(`${of}.instances is 0; it must be a whole number from 1 to 1024.`);
    }
    return {
      id,
      framing: checkChoice(`${of}.framing`, pool.framing ?? "ndjson", FRAMINGS),
      ready: checkBoolean(`${of}.ready`, ready),
      initialize,
      limits: resolveLimits(`${of}.limits`, pool.limits, limits),
      program: programOf(pool),
    };
  });
}

/** What the supervisor is given: the options that are its own. */
function programOf(pool: StdioPoolOptions): PoolOptions {
  const { id, framing = "ndjson", ready: _, initialize: __, limits: ___, ...program } = pool;
  return { ...program, name: id, env: { SLOTBUS_NAME: undefined, ...program.env, [STDIO_VARIABLE]: framing } };
}

/** Environment variable that tells a worker how it is spoken to: the framing. */
export const STDIO_VARIABLE = "SLOTBUS_STDIO";

/** The older configuration with snake_case names: `{ pools: [{ id, command, args, instances }], limits: { max_restarts, … } }`. */
export interface StdioBusConfig {
  pools: readonly { id: string; command: string; args?: readonly string[]; instances: number }[];
  limits?: {
    /** Bytes of the longest line. */
    max_input_buffer?: number;
    /** Bytes that may wait for one worker. */
    max_output_queue?: number;
    max_restarts?: number;
    restart_window_sec?: number;
    drain_timeout_sec?: number;
    /** Accepted and without effect: a request has its own timeout. */
    backpressure_timeout_sec?: number;
  };
}

/**
 * Options of a `StdioBus` from an older configuration, JSON or an object, with the meaning and the defaults it had (longest line
 * 1 MiB, 5 restarts in 60 s after a failure, 30 s to drain).
 *
 * @throws {InvalidConfigError} for what is no JSON, for unknown keys, and for values out of range.
 */
export function fromStdioBusConfig(given: string | StdioBusConfig): StdioBusOptions {
  const config = checkOptions(
    "a configuration",
    typeof given === "string" ? fromJson<StdioBusConfig>(given, "the configuration") : given,
  );
  if ("transport" in config) {
    throw new InvalidConfigError("the configuration has `transport`, which is no option of a bus.", {
      hint: "Take it out, and call `bus.serve({ unix })` or `bus.serve({ tcp })` for clients from outside.",
    });
  }
  checkKeys("the configuration", config, LEGACY_KEYS);
  const limits = checkKeys("limits", config.limits ?? {}, LEGACY_LIMIT_KEYS);
  const seconds = (name: keyof typeof limits, fallback: number): number =>
    1_000 * checkInteger(`limits.${name}`, limits[name] ?? fallback, name === "drain_timeout_sec" ? 0 : 1, 86_400);
  const window = seconds("restart_window_sec", 60);
  const drain = seconds("drain_timeout_sec", 30);
  seconds("backpressure_timeout_sec", 60);
  if (!Array.isArray(config.pools)) {
    throw new InvalidConfigError(`pools is ${shown(config.pools)}; it must be an array of pools.`);
  }
  const restart = {
    policy: "on-failure" as const,
    limit: checkInteger("limits.max_restarts", limits.max_restarts ?? 5, 0, 1_000_000),
    window,
    giveUp: true,
  };
  return {
    pools: config.pools.map((pool, index) => {
      const { id, command, args = [] } = checkKeys(`pools[${index}]`, pool, LEGACY_POOL_KEYS);
      const instances = checkInteger(`pools[${index}].instances`, pool.instances, 1, 1_024);
      return { id, command, args, instances, restart, stop: { drain } };
    }),
    limits: {
      maxMessageBytes: checkInteger("limits.max_input_buffer", limits.max_input_buffer ?? 2 ** 20, 64, GIB),
      maxQueuedBytes: checkInteger("limits.max_output_queue", limits.max_output_queue ?? 4 * 2 ** 20, 1_024, GIB),
    },
  };
}
