/** Options of a pool of supervised workers, as a table. */

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
   * `"always"`: whatever its end was; `"on-failure"`: not after exit code 0; `"never"`. A worker that is not started again is
   * `stopped` after exit code 0 and `failed` after any other end.
   */
  policy: choice("always", ["always", "on-failure", "never"]),
  /** Restarts of a worker within `window`. A worker that ends once more is paused. 0: none; `Infinity`: no limit. */
  maxRestarts: endless(5, 0, MAX_TIMER_MS),
  /** Length of the sliding window, in ms. */
  window: integer(60_000, 1, MAX_TIMER_MS, " ms"),
  /** The pauses before restarts. */
  backoff: group({
    /** Pause before the first restart, in ms. */
    initial: integer(100, 0, MAX_TIMER_MS, " ms"),
    /** Longest pause, in ms. */
    max: integer(60_000, 0, MAX_TIMER_MS, " ms"),
    /** By what each further pause is longer. */
    factor: decimal(2, 1, 10),
    /** Part of each pause that is left to chance: 0.2 makes it 80 % to 100 % as long. */
    jitter: decimal(0.2, 0, 1),
  }),
  /** A worker that was ready for so many ms begins with the first pause again, and ends the pause of its pool. */
  healthyAfter: integer(10_000, 0, MAX_TIMER_MS, " ms"),
  /**
   * `true`: a worker that ends too often is `failed` and is not started again. `false`: it is `paused`. One paused worker of the
   * pool is tried at a time, after pauses that go on growing up to `backoff.max`, until one stays up.
   */
  giveUp: boolean(false),
};

const stopRows = {
  /** Until what the worker has is answered. */
  drain: integer(5_000, 0, MAX_TIMER_MS, " ms"),
  /** From the end of its input (when it has one) to SIGTERM. */
  endOfInput: integer(2_000, 0, MAX_TIMER_MS, " ms"),
  /** From SIGTERM to SIGKILL. */
  term: integer(3_000, 0, MAX_TIMER_MS, " ms"),
};

const recycleRows = {
  /** After so many ms, up to a tenth less by chance. `Infinity`: never. */
  maxAge: endless(Infinity, 1, MAX_TIMER_MS, " ms"),
  /** After so many requests. `Infinity`: never. */
  maxRequests: endless(Infinity, 1, MAX_TIMER_MS),
};

/** When and how soon a worker that ended is started again. */
export interface RestartOptions extends Given<typeof restartRows> {}
/** How long each step of the end of a worker may take, in ms; 0 goes on at once. */
export interface StopOptions extends Given<typeof stopRows> {}
/** When a worker is replaced though it is well: the new one is ready before the old one drains, one at a time. */
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
      refuse(`a name in ${name}`, variable, 'text without "=" and NUL');
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

/** Id of a user or a group. */
const identity = (range: string): Row<number, number | null, false> => ({
  ...optional(integer(undefined, 0, 0xffff_fffe), "of this process"),
  range,
});

/** Options of a pool: equal workers of one program. */
export const poolOptions = new Options("a pool", {
  /** The program: a path, or a name that is searched in PATH (of `env`, when it has one). No shell. */
  command: needed(text(undefined, "a program", (value) => value !== "" && isText(value))),
  /** In errors and events. */
  name: optional(text(undefined, "text", isText), "the command"),
  /** Arguments. */
  args: row<readonly string[]>([], "texts", checkArgs, "none"),
  /** Workers. */
  instances: integer(1, 0, 1024),
  /** Added to the environment of this process; `undefined` removes a variable. */
  env: row<Variables>({}, "texts by name", checkEnv, "none"),
  /** Working directory. */
  cwd: row<string>(".", "a path", checkDirectory, "of this process"),
  /** User to run as, with `gid`; this process must be root. Supplementary groups are dropped. */
  uid: identity("a user id"),
  /** Group to run as, with `uid`. */
  gid: identity("a group id"),
  /** How long a worker may take until it is ready, in ms; `Infinity` for no limit. */
  startupTimeout: timeout(10_000),
  /** When and how soon a worker that ended is started again. */
  restart: group(restartRows),
  /** How long each step of the end of a worker may take. */
  stop: group(stopRows),
  /** When a worker is replaced though it is well. */
  recycle: group(recycleRows),
  /** `"log"`: read by lines for the event `log`, the last 64 KiB kept for errors. `"inherit"`: that of this process. */
  stderr: choice("log", ["log", "inherit"]),
});

/** A pool: equal workers of one program. */
export interface PoolOptions extends Given<typeof poolOptions.rows> {}
/** @internal Options of a pool with their defaults filled in. */
export type ResolvedPool = Resolved<typeof poolOptions.rows> & { readonly name: string };
/** @internal When and how soon a worker is started again, with the defaults filled in. */
export type ResolvedRestart = ResolvedPool["restart"];
/** @internal The steps of the end of a worker. */
export type Steps = ResolvedPool["stop"];

/** Fills in defaults. @throws {InvalidConfigError} @internal */
export function resolvePool(given: PoolOptions): ResolvedPool {
  return completePool(poolOptions.resolve(given));
}

/** Checks what a table cannot, with `at` before the names of options. @throws {InvalidConfigError} @internal */
export function completePool(pool: Resolved<typeof poolOptions.rows>, at = ""): ResolvedPool {
  const { uid, gid, name, command, restart } = pool;
  if ((uid === null) !== (gid === null)) {
    throw new InvalidConfigError(`${at}${uid === null ? "gid" : "uid"} is given alone.`, { hint: "Give both." });
  }
  const { initial, max } = restart.backoff;
  if (max < initial) refuse(`${at}restart.backoff.max`, max, `at least ${at}restart.backoff.initial, ${initial}`);
  return { ...pool, name: name ?? command };
}
