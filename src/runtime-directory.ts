/** The runtime directory: where it is, and which names it has room for. */

import { resolve } from "node:path";
import { shown } from "./check.ts";
import { InvalidConfigError, InvalidNameError } from "./errors.ts";

const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;

/** Throws {@link InvalidNameError} unless `name` can name a bus, or a fleet. C checks it again. */
export function checkName(name: unknown, what: "bus" | "fleet" = "bus"): string {
  if (typeof name !== "string" || !NAME.test(name)) throw new InvalidNameError(name, what);
  return name;
}

/** A runtime directory as a path from the root. Throws {@link InvalidConfigError} for what is no path. */
export function resolveDirectory(given: unknown): string {
  const directory = given ?? defaultDirectory();
  if (typeof directory === "string" && directory !== "" && !directory.includes("\0")) return resolve(directory);
  throw new InvalidConfigError(`directory is ${shown(directory)}; it must be a path: text without NUL.`);
}

/** `$SLOTBUS_DIR`, else `/dev/shm/slotbus-<euid>`. */
export function defaultDirectory(): string {
  return process.env["SLOTBUS_DIR"] || `/dev/shm/slotbus-${process.geteuid?.() ?? 0}`;
}
