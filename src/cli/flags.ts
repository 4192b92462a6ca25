/** Flags of a command from a table of options: each row with a `help` has one, and what is given becomes the options object again. */

import type { Command } from "commander";
import { refuse, type Rows } from "../options.ts";

/** Units of what a flag takes: their names, and what one is of. */
type Units = Readonly<Record<string, number>>;
const TIMES: Units = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000 };
const SIZES: Units = { k: 1_024, m: 1_048_576, g: 1_073_741_824 };

type AnyRow = Rows[string];
type Kind = "switch" | "time" | "size" | "number" | "list" | "text";

/** What a row takes, by its range. */
function kindOf({ range }: AnyRow): Kind {
  if (range === "true or false") return "switch";
  if (range.startsWith("a list of ")) return "list";
  if (!/^\d+ to \d/.test(range) || / characters| of /.test(range)) return "text";
  return / ms\b/.test(range) ? "time" : / bytes\b/.test(range) ? "size" : "number";
}

/** Adds `--kebab-case-name` for each row that has a help; rows of a group begin with the name of the group. */
export function addFlags(command: Command, rows: Rows): Command {
  for (const { path, row } of flagsOf(rows)) {
    const name = path.join("-").replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
    if (row.rows) command.option(`--no-${name}`, row.help);
    else if (kindOf(row) === "switch") command.option(`--${name}`, row.help);
    else {
      const parse = (given: string): unknown => read(row, `--${name}`, given);
      command.option(`--${name} <${placeholder(row)}>`, `${row.help}${shownDefault(row)}`, parse);
    }
  }
  return command;
}

/** The options object of a table, from what {@link addFlags} made of a command line. Flags that were not given are left out. */
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

/** Rows with a help, with their keys: one, or two in a group. */
function flagsOf(rows: Rows): { path: string[]; row: AnyRow }[] {
  return Object.entries(rows).flatMap(([key, row]) => {
    const own = row.help === undefined ? [] : [{ path: [key], row }];
    const inner = Object.entries(row.rows ?? {}).filter(([, { help }]) => help !== undefined);
    return [...own, ...inner.map(([name, of]) => ({ path: [key, name], row: of }))];
  });
}

/** @throws {InvalidConfigError} that names the flag. */
function read(row: AnyRow, name: string, given: string): unknown {
  const value = valueOf(row, given);
  if (value === undefined) refuse(name, given, row.range);
  row.resolve(value, name);
  return value;
}

/** `undefined`: it is not a value of the row's kind. */
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
  return choices.length > 0 ? choices.join("|") : kindOf(row);
}

/** The default of the table, as the flag would take it. */
function shownDefault(row: AnyRow): string {
  const { fallback } = row;
  if (fallback === "none" || fallback === "—") return "";
  const kind = kindOf(row);
  const units = kind === "time" ? TIMES : kind === "size" ? SIZES : null;
  const [unit, factor] =
    Object.entries(units ?? {}).findLast(([, one]) => Number(fallback) > 0 && Number(fallback) % one === 0) ?? [];
  const shown = factor === undefined || fallback === "Infinity" ? fallback : `${Number(fallback) / factor}${unit}`;
  return ` (default: ${shown.replaceAll('"', "")})`;
}
