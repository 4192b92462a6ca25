/**
 * Turns a table of options into command-line flags (one for each row with a `help`), and parsed flags back into
 * options.
 */

import type { Command } from "commander";
import { refuse, type Rows } from "../options.ts";

/** Units of a flag's value: name and factor. */
type Units = Readonly<Record<string, number>>;
const TIMES: Units = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000 };
const SIZES: Units = { k: 1_024, m: 1_048_576, g: 1_073_741_824 };

type AnyRow = Rows[string];
type Kind = "switch" | "time" | "size" | "number" | "list" | "text";

/** Returns the kind of value that a row accepts, from its range. */
function kindOf({ range }: AnyRow): Kind {
  if (range === "true or false") return "switch";
  if (range.startsWith("a list of ") || hasList({ range })) return "list";
  if (!/^\d+ to \d/.test(range) || / characters| of /.test(range)) return "text";
  return / ms\b/.test(range) ? "time" : / bytes\b/.test(range) ? "size" : "number";
}

/** Whether the flag may be given without a value, as a switch, or with a list. */
function hasList({ range }: Pick<AnyRow, "range">): boolean {
  return range.startsWith("true, false or a list of ");
}

/** Adds a flag `--kebab-case-name` for each row with a help; flags of a group start with the group's name. */
export function addFlags(command: Command, rows: Rows): Command {
  for (const { path, row } of flagsOf(rows)) {
    const name = path.join("-").replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
    if (row.rows) command.option(`--no-${name}`, row.help);
    else if (kindOf(row) === "switch") command.option(`--${name}`, row.help);
    else {
      const parse = (given: string): unknown => read(row, `--${name}`, given);
      const value = hasList(row) ? "[list]" : `<${placeholder(row)}>`;
      command.option(`--${name} ${value}`, `${row.help}${shownDefault(row)}`, parse);
    }
  }
  return command;
}

/** Returns the options of a table from parsed flags of {@link addFlags}. Flags that were not given are left out. */
export function optionsOf(rows: Rows, flags: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const options: Record<string, unknown> = {};
  for (const { path, row } of flagsOf(rows)) {
    const given = flags[path.map((key, at) => (at === 0 ? key : key[0]!.toUpperCase() + key.slice(1))).join("")];
    const [first, ...rest] = path as [string, ...string[]];
    if (given === undefined || options[first] === false) continue;
    if (row.rows) {
      if (given === false) options[first] = false;
    } else if (rest.length === 0) options[first] = given;
    else options[first] = { ...(options[first] as object | undefined), [rest[0]!]: given };
  }
  return options;
}

/** Returns the rows with a help and the path of keys to each: one key, or two in a group. */
function flagsOf(rows: Rows): { path: string[]; row: AnyRow }[] {
  return Object.entries(rows).flatMap(([key, row]) => {
    const own = row.help === undefined ? [] : [{ path: [key], row }];
    const inner = Object.entries(row.rows ?? {}).filter(([, { help }]) => help !== undefined);
    return [...own, ...inner.map(([name, of]) => ({ path: [key, name], row: of }))];
  });
}

/** Parses and checks a flag's value. @throws {InvalidConfigError} with the flag's name */
function read(row: AnyRow, name: string, given: string): unknown {
  const value = valueOf(row, given);
  if (value === undefined) refuse(name, given, row.range.replace(/, or false$/, "")); // no flag has the value `false`
  row.resolve(value, name);
  return value;
}

/** Parses a value; `undefined`: it is not of the row's kind. */
function valueOf(row: AnyRow, given: string): unknown {
  switch (kindOf(row)) {
    case "time":
      return given === "Infinity" ? Infinity : quantity(given, TIMES);
    case "size":
      return quantity(given, SIZES);
    case "number":
      return /^\d+$/.test(given) ? Number(given) : undefined;
    case "list":
      return given === "*" ? given : given.split(",").map((item) => item.trim());
    default:
      return given;
  }
}

function quantity(given: string, units: Units): number | undefined {
  const [, number, unit = ""] = /^(\d+(?:\.\d+)?)([a-z]*)$/.exec(given.toLowerCase()) ?? [];
  const factor = unit === "" ? 1 : units[unit];
  return number === undefined || factor === undefined ? undefined : Math.round(Number(number) * factor);
}

function placeholder(row: AnyRow): string {
  const choices = [...row.range.matchAll(/"([^"]+)"/g)].map(([, choice]) => choice);
  const [, noun] = /\ban? (\w+)$/.exec(row.range) ?? []; // "a path"
  return choices.length > 0 ? choices.join("|") : (noun ?? kindOf(row));
}

/** Formats a row's default in the syntax of the flag. */
function shownDefault(row: AnyRow): string {
  const { fallback } = row;
  if (fallback === "none" || fallback === "—") return "";
  if (hasList(row)) return "";
  const kind = kindOf(row);
  const units = kind === "time" ? TIMES : kind === "size" ? SIZES : null;
  const [unit, factor] =
    Object.entries(units ?? {}).findLast(([, one]) => Number(fallback) > 0 && Number(fallback) % one === 0) ?? [];
  const shown = factor === undefined || fallback === "Infinity" ? fallback : `${Number(fallback) / factor}${unit}`;
  return ` (default: ${shown.replaceAll('"', "")})`;
}
