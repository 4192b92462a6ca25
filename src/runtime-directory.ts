/** Path of the runtime directory, and the names that are allowed in it. */

import { resolve } from "node:path";
import { shown } from "./check.ts";
import { InvalidConfigError } from "./errors.ts";
import { needed, type Row, row } from "./options.ts";
import { invalidName } from "./errors/plain.ts";

const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;

/** Returns `name` if it is valid, else throws {@link InvalidConfigError}. The C library checks it again. */
export function checkName(name: unknown, what: "bus" | "fleet" | "worker" = "bus", variable?: string): string {
  if (typeof name !== "string" || !NAME.test(name)) throw invalidName(name, what, variable);
  return name;
}

/**
 * Returns the absolute path of a runtime directory. Throws {@link InvalidConfigError} if `given` is not a valid path.
 */
export function resolveDirectory(given: unknown): string {
  const directory = given ?? defaultDirectory();
  if (typeof directory === "string" && directory !== "" && !directory.includes("\0")) return resolve(directory);
  throw new InvalidConfigError(`directory is ${shown(directory)}; it must be a path without NUL.`);
}

/** The option `directory` of buses, hubs and fleets. */
export const directoryRow: Row<string, string, false> = row<string, string>(
  undefined,
  "a path",
  resolveDirectory,
  "`$SLOTBUS_DIR`, else `/dev/shm/slotbus-<euid>`",
);

/** The option `name` of a bus or a fleet, required. */
export function nameRow(what: "bus" | "fleet"): Row<string, string, true>;
/** The same option with a default from the environment variable `variable`. */
export function nameRow(what: "bus" | "fleet", variable: string): Row<string, string, false>;
export function nameRow(what: "bus" | "fleet", variable?: string): Row<string, string, boolean> {
  const check = (given: unknown): string =>
    checkName(variable ? (given ?? process.env[variable]) : given, what, variable);
  const name = row<string, string>(undefined, "1 to 64 of `A-Z a-z 0-9 . _ -`", check, `\`$${variable}\``);
  return variable ? name : needed(name);
}

/** Returns `$SLOTBUS_DIR`, else `/dev/shm/slotbus-<euid>`. */
export function defaultDirectory(): string {
  return process.env["SLOTBUS_DIR"] || `/dev/shm/slotbus-${process.geteuid?.() ?? 0}`;
}
