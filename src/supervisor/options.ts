/** Options of a pool: their defaults, their ranges, and the one error each wrong value gets. */

import { resolve } from "node:path";
import type { Backoff } from "../backoff.ts";
import { checkChoice, checkInteger, checkKeys, checkOptions, checkTimeout, shown } from "../check.ts";
import { MAX_TIMER_MS } from "../clock.ts";
import { InvalidConfigError } from "../errors.ts";

/** When and how soon a worker that ended is started again. */
export interface RestartOptions {
  /**
   * `"always"`: whatever its end was (default); `"on-failure"`: not after exit code 0; `"never"`. A worker that is not
   * started again is `stopped` after exit code 0 and `failed` after any other end.
   */
  policy?: "always" | "on-failure" | "never";
  /**
   * Restarts of a worker within `window`. A worker that ends once more is paused. 0: none; `Infinity`: no limit. Default 5.
   */
  limit?: number;
  /** Length of the window that slides, in ms. Default 60 000. */
  window?: number;
  backoff?: {
    /** Pause before the first restart, in ms. Default 100. */
    initial?: number;
    /** Longest pause, in ms. Default 60 000. */
    max?: number;
    /** By what each further pause is longer. 1 to 10, default 2. */
    factor?: number;
    /** Part of each pause that is left to chance, 0 to 1: 0.2 makes it 80 % to 100 % as long. Default 0.2. */
    jitter?: number;
  };
  /** A worker that was ready for so many ms begins with the first pause again, and ends the pause of its pool. Default 10 000. */
  healthyAfter?: number;
  /**
   * `true`: a worker that ends too often is `failed` and is not started again. `false`: it is `paused`. One paused worker of the
   * pool is tried at a time, after pauses that go on growing up to `backoff.max`, until one stays up. Default `false`.
   */
  giveUp?: boolean;
}

/** How long each step of the end of a worker may take, in ms; 0 goes on at once. */
export interface StopOptions {
  /** Until what it has is answered. Default 5000. */
  drain?: number;
  /** From the end of its input (when it has one) to SIGTERM. Default 2000. */
  endOfInput?: number;
  /** From SIGTERM to SIGKILL. Default 3000. */
  term?: number;
}

/** When a worker is replaced though it is well: the new one is ready before the old one drains, one at a time. */
export interface RecycleOptions {
  /** After so many ms, up to a tenth less by chance. `Infinity`: never (default). */
  maxAge?: number;
  /** After so many requests. `Infinity`: never (default). */
  maxRequests?: number;
}

/** A pool: equal workers of one program. */
export interface PoolOptions {
  /** In errors and events. Default: `command`. */
  name?: string;
  /** The program: a path, or a name that is looked for in PATH (of `env`, when it has one). No shell. */
  command: string;
  args?: readonly string[];
  /** Workers. 0 to 1024, default 1. */
  instances?: number;
  /** Added to the environment of this process; `undefined` takes a variable out. */
  env?: Readonly<Record<string, string | undefined>>;
  /** Working directory. Default: that of this process. */
  cwd?: string;
  /** User and group to run as, both or none; this process must be root. Supplementary groups are dropped. */
  uid?: number;
  gid?: number;
  /** How long a worker may take until it is ready, in ms; `Infinity` for no limit. Default 10 000. */
  startupTimeout?: number;
  restart?: RestartOptions;
  stop?: StopOptions;
  recycle?: RecycleOptions;
  /** `"log"`: read by lines for the event `log`, the last 64 KiB kept for errors (default). `"inherit"`: that of this process. */
  stderr?: "log" | "inherit";
}

/** @internal */
export type ResolvedRestart = Readonly<Required<RestartOptions> & { backoff: Required<Backoff> }>;

/** @internal Options with their defaults filled in; 0 in `startupTimeout` is no limit. */
export type ResolvedPool = Readonly<
  Required<Omit<PoolOptions, "uid" | "gid">> &
    Pick<PoolOptions, "uid" | "gid"> & {
      restart: ResolvedRestart;
      stop: Required<StopOptions>;
      recycle: Required<RecycleOptions>;
    }
>;

/** Most workers of one pool. */
export const INSTANCES_MAX = 1024;

function checkText(option: string, value: unknown): string {
  if (typeof value === "string" && !value.includes("\0")) return value;
  throw new InvalidConfigError(`${option} is ${shown(value)}; it must be text without NUL.`);
}

function checkNumber(option: string, value: unknown, low: number, high: number): number {
  if (typeof value === "number" && value >= low && value <= high) return value;
  throw new InvalidConfigError(`${option} is ${shown(value)}; it must be a number from ${low} to ${high}.`);
}

/** @internal */
export function checkBoolean(option: string, value: unknown): boolean {
  if (typeof value === "boolean") return value;
  throw new InvalidConfigError(`${option} is ${shown(value)}; it must be true or false.`);
}

function checkMs(option: string, value: unknown, low = 0): number {
  return checkInteger(option, value, low, MAX_TIMER_MS, " ms");
}

/** A whole number from `low`, or `Infinity`. @internal */
export function checkCount(option: string, value: unknown, low: number, unit = ""): number {
  return value === Infinity ? Infinity : checkInteger(option, value, low, MAX_TIMER_MS, `${unit}, or Infinity`);
}

/** Throws {@link InvalidConfigError}. @internal */
export function resolveRestart(given: RestartOptions | undefined, of = "restart"): ResolvedRestart {
  const options = checkKeys(of, given ?? {}, ["policy", "limit", "window", "backoff", "healthyAfter", "giveUp"]);
  const backoff = checkKeys(`${of}.backoff`, options.backoff ?? {}, ["initial", "max", "factor", "jitter"]);
  const initial = checkMs(`${of}.backoff.initial`, backoff.initial ?? 100);
  return {
    policy: checkChoice(`${of}.policy`, options.policy ?? "always", ["always", "on-failure", "never"]),
    limit: checkCount(`${of}.limit`, options.limit ?? 5, 0),
    window: checkMs(`${of}.window`, options.window ?? 60_000, 1),
    backoff: {
      initial,
      max: checkMs(`${of}.backoff.max`, backoff.max ?? Math.max(initial, 60_000), initial),
      factor: checkNumber(`${of}.backoff.factor`, backoff.factor ?? 2, 1, 10),
      jitter: checkNumber(`${of}.backoff.jitter`, backoff.jitter ?? 0.2, 0, 1),
    },
    healthyAfter: checkMs(`${of}.healthyAfter`, options.healthyAfter ?? 10_000),
    giveUp: checkBoolean(`${of}.giveUp`, options.giveUp ?? false),
  };
}

/** Throws {@link InvalidConfigError}. @internal */
export function resolveStop(given: StopOptions | undefined, defaults?: Required<StopOptions>): Required<StopOptions> {
  const options = checkKeys("stop", given ?? {}, ["drain", "endOfInput", "term"]);
  return {
    drain: checkMs("stop.drain", options.drain ?? defaults?.drain ?? 5_000),
    endOfInput: checkMs("stop.endOfInput", options.endOfInput ?? defaults?.endOfInput ?? 2_000),
    term: checkMs("stop.term", options.term ?? defaults?.term ?? 3_000),
  };
}

function resolveEnv(given: unknown): Readonly<Record<string, string | undefined>> {
  const env = checkOptions("env", (given ?? {}) as Record<string, unknown>, '{ NAME: "value" }');
  for (const [name, value] of Object.entries(env)) {
    if (name === "" || name.includes("=") || name.includes("\0")) {
      throw new InvalidConfigError(`env has the name ${shown(name)}; it must be text without "=" and NUL.`);
    }
    if (value !== undefined) checkText(`env.${name}`, value);
  }
  return { ...env } as Readonly<Record<string, string | undefined>>;
}

/** @internal Names of the options of a pool. */
export const POOL_KEYS = [
  "name",
  "command",
  "args",
  "instances",
  "env",
  "cwd",
  "uid",
  "gid",
  "startupTimeout",
  "restart",
  "stop",
  "recycle",
  "stderr",
] as const satisfies readonly (keyof PoolOptions)[];

/** Fills in defaults. Throws {@link InvalidConfigError}. @internal */
export function resolvePool(given: PoolOptions): ResolvedPool {
  const options = checkKeys("a pool", given, POOL_KEYS);
  const command = checkText("command", options.command);
  if (command === "") throw new InvalidConfigError('command is ""; it must name a program.');
  const args: unknown = options.args ?? [];
  if (!Array.isArray(args)) throw new InvalidConfigError(`args is ${shown(args)}; it must be an array of texts.`);
  const { uid, gid } = options;
  if ((uid === undefined) !== (gid === undefined)) {
    throw new InvalidConfigError(`${uid === undefined ? "gid" : "uid"} is given alone.`, { hint: "Give both." });
  }
  const recycle = checkKeys("recycle", options.recycle ?? {}, ["maxAge", "maxRequests"]);
  return {
    name: checkText("name", options.name ?? command),
    command,
    args: args.map((arg, index) => checkText(`args[${index}]`, arg)),
    instances: checkInteger("instances", options.instances ?? 1, 0, INSTANCES_MAX),
    env: resolveEnv(options.env),
    cwd: resolve(checkText("cwd", options.cwd ?? ".")),
    uid: uid === undefined ? undefined : checkInteger("uid", uid, 0, 0xffff_fffe),
    gid: gid === undefined ? undefined : checkInteger("gid", gid, 0, 0xffff_fffe),
    startupTimeout: checkTimeout("startupTimeout", options.startupTimeout ?? 10_000),
    restart: resolveRestart(options.restart),
    stop: resolveStop(options.stop),
    recycle: {
      maxAge: checkCount("recycle.maxAge", recycle.maxAge ?? Infinity, 1, " ms"),
      maxRequests: checkCount("recycle.maxRequests", recycle.maxRequests ?? Infinity, 1),
    },
    stderr: checkChoice("stderr", options.stderr ?? "log", ["log", "inherit"]),
  };
}
