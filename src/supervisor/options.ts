/** Options of a pool of supervised workers. */

import { resolve } from "node:path";
import { checkOptions } from "../check.ts";
import { MAX_TIMER_MS } from "../clock.ts";
import { InvalidConfigError } from "../errors.ts";
import {
  boolean,
  choice,
  decimal,
  endless,
  type Given,
  group,
  integer,
  needed,
  Options,
  optional,
  refuse,
  type Resolved,
  type Row,
  row,
  text,
  timeout,
} from "../options.ts";

const isText = (value: string): boolean => !value.includes("\0");

const restartRows = {
  /**
   * When a worker that ended is restarted: `"always"`, `"on-failure"` (not after exit code 0) or `"never"`. Without a restart
   * its state is `stopped` after exit code 0 and `failed` otherwise.
   */
  policy: choice("always", ["always", "on-failure", "never"]),
  /** Restarts of a worker allowed within `window`. If it ends once more, it is paused. 0: none; `Infinity`: no limit. */
  maxRestarts: endless(5, 0, MAX_TIMER_MS),
  /**
   * Ends of a worker that count for `maxRestarts`: `"all"`, or `"starts"`: only ends of a process that was never ready, so a
   * worker whose requests crash it is always restarted.
   */
  counts: choice("all", ["all", "starts"]),
  /** Length of the sliding window of `maxRestarts`, in ms. */
  window: integer(60_000, 1, MAX_TIMER_MS, " ms"),
  /** Pauses before restarts. */
  backoff: group({
    /** Pause before the first restart, in ms. */
    initial: integer(100, 0, MAX_TIMER_MS, " ms"),
    /** Longest pause, in ms. */
    max: integer(60_000, 0, MAX_TIMER_MS, " ms"),
    /** Factor by which each further pause grows. */
    factor: decimal(2, 1, 10),
    /** Random part of each pause: with 0.2 a pause is 80 % to 100 % of its length. */
    jitter: decimal(0.2, 0, 1),
  }),
  /** Time for which a worker must be ready to count as healthy, in ms. Then backoff starts over, and a paused pool resumes. */
  healthyAfter: integer(10_000, 0, MAX_TIMER_MS, " ms"),
  /**
   * `true`: a worker that ends too often is `failed` and not restarted. `false`: it is `paused`. One paused worker of the pool
   * at a time is restarted, after pauses that grow up to `backoff.max`, until one stays up.
   */
  giveUp: boolean(false),
};

const stopRows = {
  /** Time to finish its requests, in ms. */
  drain: integer(5_000, 0, MAX_TIMER_MS, " ms"),
  /** Time from the end of its input (if it has one) to SIGTERM, in ms. */
  endOfInput: integer(2_000, 0, MAX_TIMER_MS, " ms"),
  /** Time from SIGTERM to SIGKILL, in ms. */
  term: integer(3_000, 0, MAX_TIMER_MS, " ms"),
};

const recycleRows = {
  /** Age at which a worker is replaced, in ms, shortened at random by up to 10 %. `Infinity`: never. */
  maxAge: endless(Infinity, 1, MAX_TIMER_MS, " ms"),
  /** Number of requests after which a worker is replaced. `Infinity`: never. */
  maxRequests: endless(Infinity, 1, MAX_TIMER_MS),
  /** Resident memory of the worker's process above which it is replaced, in bytes; checked each second. `Infinity`: never. */
  maxMemory: endless(Infinity, 1_048_576, Number.MAX_SAFE_INTEGER, " bytes"),
};

/** When and how soon a worker that ended is restarted. */
export interface RestartOptions extends Given<typeof restartRows> {}
/** Time limits of the steps that end a worker, in ms; 0 goes to the next step at once. */
export interface StopOptions extends Given<typeof stopRows> {}
/** When a healthy worker is replaced. The new one is ready before the old one drains; one worker at a time is replaced. */
export interface RecycleOptions extends Given<typeof recycleRows> {}

type Variables = Readonly<Record<string, string | undefined>>;

function checkArgs(value: unknown, name: string): readonly string[] {
  if (!Array.isArray(value)) return refuse(name, value, "an array of texts");
  return value.map((arg, index) =>
    typeof arg === "string" && isText(arg) ? arg : refuse(`${name}[${index}]`, arg, "text without NUL"),
  );
}

function checkEnv(value: unknown, name: string): Variables {
  const env = { ...checkOptions(name, value as Variables, '{ NAME: "value" }') };
  for (const [variable, given] of Object.entries(env)) {
    if (variable === "" || !isText(variable) || variable.includes("=")) {
      refuse(`A name in ${name}`, variable, 'text without "=" and NUL');
    }
    if (given !== undefined && !(typeof given === "string" && isText(given))) {
      refuse(`${name}.${variable}`, given, "text without NUL");
    }
  }
  return env;
}

function checkDirectory(value: unknown, name: string): string {
  return typeof value === "string" && isText(value) ? resolve(value) : refuse(name, value, "text without NUL");
}

/** Returns the row of a user id or group id. */
const identity = (range: string): Row<number, number | null, false> => ({
  ...optional(integer(undefined, 0, 0xffff_fffe), "of this process"),
  range,
});

/** Options of a pool: workers that run the same program. */
export const poolOptions = new Options("a pool", {
  /** Program to run: a path, or a name that is searched in PATH (of `env`, if it has one). It is not run by a shell. */
  command: needed(text(undefined, "a program", (value) => value !== "" && isText(value))),
  /** Name of the pool in errors and events. */
  name: optional(text(undefined, "text", isText), "the command"),
  /** Arguments of the program. */
  args: row<readonly string[]>([], "texts", checkArgs, "none"),
  /** Number of workers. */
  instances: integer(1, 0, 1024),
  /** Variables that are added to the environment of this process; `undefined` removes a variable. */
  env: row<Variables>({}, "texts by name", checkEnv, "none"),
  /** Working directory. */
  cwd: row<string>(".", "a path", checkDirectory, "of this process"),
  /** User to run as; needs `gid`. This process must be root. Supplementary groups are dropped. */
  uid: identity("a user id"),
  /** Group to run as; needs `uid`. */
  gid: identity("a group id"),
  /** Time in which a worker must become ready, in ms; `Infinity`: no limit. */
  startupTimeout: timeout(10_000),
  /** When and how soon a worker that ended is restarted. */
  restart: group(restartRows),
  /** Time limits of the steps that end a worker. */
  stop: group(stopRows),
  /** When a healthy worker is replaced. */
  recycle: group(recycleRows),
  /**
   * Standard error of workers. `"log"`: lines become events `log`, and errors show the end of it. `"inherit"`: that of this
   * process.
   */
  stderr: choice("log", ["log", "inherit"]),
});

/** Options of a pool: workers that run the same program. */
export interface PoolOptions extends Given<typeof poolOptions.rows> {}
/** @internal Options of a pool with their defaults filled in. */
export type ResolvedPool = Resolved<typeof poolOptions.rows> & { readonly name: string };
/** @internal Restart options with their defaults filled in. */
export type ResolvedRestart = ResolvedPool["restart"];
/** @internal Time limits of the steps that end a worker. */
export type Steps = ResolvedPool["stop"];

/** Fills in defaults. @throws {InvalidConfigError} @internal */
export function resolvePool(given: PoolOptions): ResolvedPool {
  return completePool(poolOptions.resolve(given));
}

/** Checks options against each other. `at` precedes their names in errors. @throws {InvalidConfigError} @internal */
export function completePool(pool: Resolved<typeof poolOptions.rows>, at = ""): ResolvedPool {
  const { uid, gid, name, command, restart } = pool;
  if ((uid === null) !== (gid === null)) {
    const [set, missing] = uid === null ? ["gid", "uid"] : ["uid", "gid"];
    throw new InvalidConfigError(`${at}${set} is set without ${missing}.`, { hint: "Set both `uid` and `gid`." });
  }
  const { initial, max } = restart.backoff;
  if (max < initial) refuse(`${at}restart.backoff.max`, max, `at least ${at}restart.backoff.initial, ${initial}`);
  return { ...pool, name: name ?? command };
}
