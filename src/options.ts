/**
 * Tables of options. One row defines an option's type, default, range, unit, error, command-line flag and line in
 * docs/api.md.
 */

import { checkKeys, checkOptions, shown } from "./check.ts";
import { InvalidConfigError } from "./errors.ts";

/** One option. `In`: type that a caller passes; `Out`: type after checks; `Need`: the option is required. */
export interface Row<In, Out = In, Need extends boolean = boolean> {
  /** Default as docs/api.md shows it; `"—"`: the option is required. */
  readonly fallback: string;
  /** Accepted values, in words: `"1 to 256"`. */
  readonly range: string;
  /** Rows of a group of options. */
  readonly rows?: Rows;
  /** Help text of its command-line flag; without it there is no flag. */
  readonly help?: string;
  /** Checks `given`; `undefined`: the option was left out. `base` replaces the default. @throws {InvalidConfigError} */
  resolve(given: unknown, name: string, base?: unknown): Out;
  readonly "~given"?: In;
  readonly "~need"?: Need;
}

// oxlint-disable-next-line no-explicit-any -- rows of one table have different types
export type Rows = Readonly<Record<string, Row<any, any, boolean>>>;

type Needed<R extends Rows> = { [K in keyof R]: true extends NonNullable<R[K]["~need"]> ? K : never }[keyof R];
type In<R> = R extends Row<infer T, unknown, boolean> ? T : never;
type Out<R> = R extends { resolve(...args: never[]): infer T } ? T : never;

/** The options object of a table, as a caller passes it. */
export type Given<R extends Rows> = {
  [K in keyof R as K extends Needed<R> ? K : never]: In<R[K]>;
} & { [K in keyof R as K extends Needed<R> ? never : K]?: In<R[K]> | undefined };

/** The options object of a table, with all defaults filled in. */
export type Resolved<R extends Rows> = { readonly [K in keyof R]: Out<R[K]> };

/** Extra arguments of {@link Options.resolve}. */
interface Place<R extends Rows> {
  /** Name of the object in errors: `"pools[0]"`. Default: none; errors name only the option. */
  at?: string;
  /** Values that replace the defaults. */
  base?: Partial<Resolved<R>>;
}

/** A table of options. `title` names their owner in errors: `"a bus"`. */
export class Options<const R extends Rows> {
  readonly rows: R;
  readonly #title: string;
  readonly #keys: readonly string[];

  constructor(title: string, rows: R) {
    this.#title = title;
    this.rows = rows;
    this.#keys = Object.keys(rows);
  }

  /** Checks the options and fills in their defaults. @throws {InvalidConfigError} */
  resolve(given: Given<R>, { at, base = {} }: Place<R> = {}): Resolved<R> {
    const options = this.check(given, at) as Readonly<Record<string, unknown>>;
    const resolved: Record<string, unknown> = {};
    for (const key of this.#keys) {
      const name = at === undefined ? key : `${at}.${key}`;
      resolved[key] = this.rows[key]!.resolve(options[key], name, base[key]);
    }
    return resolved as Resolved<R>;
  }

  /** Returns the options if they are an object without unknown keys. @throws {InvalidConfigError} */
  check<T extends object>(given: T, at?: string): T {
    return checkKeys(at ?? this.#title, given, this.#keys);
  }
}

/** Returns a row. `check` gets the given value, or the default, and returns the checked value. */
export function row<In, Out = In>(
  fallback: In | undefined,
  range: string,
  check: (value: unknown, name: string) => Out,
  shownDefault = describe(fallback),
): Row<In, Out, false> {
  return {
    fallback: shownDefault,
    range,
    resolve: (given, name, base) =>
      given === undefined && base !== undefined ? (base as Out) : check(given ?? fallback, name),
  };
}

function describe(fallback: unknown): string {
  return fallback === undefined ? "none" : typeof fallback === "string" ? JSON.stringify(fallback) : String(fallback);
}

/** Returns the same row for a required option. */
export function needed<In, Out>({ range, resolve }: Row<In, Out, boolean>): Row<In, Out, true> {
  return { fallback: "—", range, resolve };
}

/** Returns the same row for an option without a default: `null` when it is left out. */
export function optional<In, Out>(
  { range, rows, resolve }: Row<In, Out, boolean>,
  fallback = "none",
): Row<In, Out | null, false> {
  const plain = {
    fallback,
    range,
    resolve: (given: unknown, name: string, base?: unknown) =>
      given === undefined && base === undefined ? null : resolve(given, name, base),
  };
  return rows ? { ...plain, rows } : plain;
}

/** Returns the same row with a command-line flag. */
export function flag<In, Out, Need extends boolean>(of: Row<In, Out, Need>, help: string): Row<In, Out, Need> {
  return { ...of, help };
}

/** Returns the same row that also accepts `false`, which becomes `null`. */
export function orFalse<In, Out>(of: Row<In, Out, boolean>): Row<In | false, Out | null, false> {
  const resolve: typeof of.resolve = (given, name, base) =>
    given === false ? (null as never) : of.resolve(given, name, base);
  const plain = { fallback: of.fallback, range: `${of.range}, or false`, resolve };
  return of.rows ? { ...plain, rows: of.rows } : plain;
}

/** Throws the error for an invalid value. `must` completes "it must be". */
export function refuse(name: string, value: unknown, must: string): never {
  throw new InvalidConfigError(`${name} is ${shown(value)}; it must be ${must}.`);
}

/** A whole number from `low` to `high`. */
export function integer(
  fallback: number | undefined,
  low: number,
  high: number,
  unit = "",
  shownDefault?: string,
): Row<number, number, false> {
  const range = `${low} to ${high}${unit}`;
  const check = (value: unknown, name: string): number =>
    Number.isInteger(value) && (value as number) >= low && (value as number) <= high
      ? (value as number)
      : refuse(name, value, `a whole number from ${range}`);
  return row<number, number>(fallback, range, check, shownDefault);
}

/** Like {@link integer}, or `Infinity`. */
export function endless(fallback: number, low: number, high: number, unit = ""): Row<number, number, false> {
  const range = `${low} to ${high}${unit}, or Infinity`;
  const check = (value: unknown, name: string): number =>
    value === Infinity || (Number.isInteger(value) && (value as number) >= low && (value as number) <= high)
      ? (value as number)
      : refuse(name, value, `a whole number from ${range}`);
  return row<number, number>(fallback, range, check);
}

/** A size in bytes. */
export function bytes(fallback: number | undefined, low: number, high: number): Row<number, number, false> {
  return integer(fallback, low, high, " bytes");
}

/** A number from `low` to `high`, whole or not. */
export function decimal(fallback: number, low: number, high: number): Row<number, number, false> {
  const range = `${low} to ${high}`;
  return row<number, number>(fallback, range, (value, name) =>
    typeof value === "number" && value >= low && value <= high ? value : refuse(name, value, `a number from ${range}`),
  );
}

/** Longest timeout in ms: 49.7 days. */
export const TIMEOUT_MAX = 0xffff_ffff;

/** A timeout in ms, rounded up; `Infinity`: no limit. `low` is 0 for calls that may return without waiting. */
export function timeout(
  fallback: number | undefined,
  low: 0 | 1 = 1,
  shownDefault?: string,
): Row<number, number, false> {
  const range = `${low} to ${TIMEOUT_MAX} ms, or Infinity`;
  return row<number, number>(fallback, range, (value, name) => checkTime(value, name, low, range), shownDefault);
}

function checkTime(value: unknown, name: string, low: number, range: string): number {
  if (value === Infinity) return Infinity;
  if (typeof value === "number" && value >= low && value <= TIMEOUT_MAX) return Math.ceil(value);
  return refuse(name, value, range);
}

/** Checks the timeout of a call, in ms; 0 does not wait, `Infinity` waits without limit. @throws {InvalidConfigError} */
export function checkTimeout(value: unknown, name = "timeout"): number {
  return checkTime(value, name, 0, `0 to ${TIMEOUT_MAX} ms, or Infinity`);
}

/** `true` or `false`. */
export function boolean(fallback: boolean): Row<boolean, boolean, false> {
  return row<boolean, boolean>(fallback, "true or false", (value, name) =>
    typeof value === "boolean" ? value : refuse(name, value, "true or false"),
  );
}

/** One of several texts. */
export function choice<const C extends readonly string[]>(
  fallback: C[number],
  choices: C,
): Row<C[number], C[number], false> {
  const range = choices.map((one) => JSON.stringify(one)).join(", ");
  return row<C[number], C[number]>(fallback, range, (value, name) =>
    choices.includes(value as string) ? (value as C[number]) : refuse(name, value, `one of ${choices.join(", ")}`),
  );
}

/** Text that `isValid` accepts; `range` describes it for errors. */
export function text(
  fallback: string | undefined,
  range: string,
  isValid: (value: string) => boolean,
  shownDefault?: string,
): Row<string, string, false> {
  const check = (value: unknown, name: string): string =>
    typeof value === "string" && isValid(value) ? value : refuse(name, value, range);
  return row<string, string>(fallback, range, check, shownDefault);
}

/** A value that `check` checks as a whole; `check` throws the error itself. */
export function custom<In, Out = In>(
  fallback: In | undefined,
  range: string,
  check: (value: In, name: string) => Out,
  shownDefault?: string,
): Row<In, Out, false> {
  return row<In, Out>(fallback, range, (value, name) => check(value as In, name), shownDefault ?? describe(fallback));
}

/** A function. */
export function callback<F extends (...args: never[]) => unknown>(): Row<F, F | null, false> {
  return optional(
    row<F, F>(undefined, "a function", (value, name) =>
      typeof value === "function" ? (value as F) : refuse(name, value, "a function"),
    ),
  );
}

/** An `AbortSignal`. */
export const signal: Row<AbortSignal, AbortSignal | null, false> = optional(
  row<AbortSignal, AbortSignal>(undefined, "an AbortSignal", (value, name) =>
    value instanceof AbortSignal ? value : refuse(name, value, "an AbortSignal"),
  ),
);

/** A group of options inside an option: `{ queue: { limit, policy } }`. */
export function group<const R extends Rows>(rows: R): Row<Given<R>, Resolved<R>, false> {
  const keys = Object.keys(rows);
  const example = `{ ${keys.join(", ")} }`;
  return {
    fallback: "none",
    range: example,
    rows,
    resolve: (given, name, base) => {
      const options = given === undefined ? {} : checkOptions(name, given as Given<R>, example);
      return new Options(name, rows).resolve(options as Given<R>, { at: name, base: base as Partial<Resolved<R>> });
    },
  };
}
