/** Path of the runtime directory, and the names that are allowed in it. */

import { existsSync, lstatSync, readFileSync, type Stats } from "node:fs";
import { resolve } from "node:path";
import { shown } from "./check.ts";
import { InvalidConfigError, SlotbusError } from "./errors.ts";
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

/** Returns `$SLOTBUS_DIR`, else `/dev/shm/slotbus-<euid>`, or `/tmp/slotbus-<euid>` on a system without `/dev/shm`. */
export function defaultDirectory(): string {
  const parent = existsSync("/dev/shm") ? "/dev/shm" : "/tmp";
  return process.env["SLOTBUS_DIR"] || `${parent}/slotbus-${process.geteuid?.() ?? 0}`;
}

// ---- errors -----------------------------------------------------------------------------------------------------------

/** Start of a hint for both sides: processes that use different directories do not find each other. */
const ELSEWHERE = "set SLOTBUS_DIR, or the option `directory`, to a directory of your own in all processes of the bus";

/** The same as a sentence. */
export const directoryElsewhere = sentence(ELSEWHERE);

/** Returns the error for a directory that others may write to, or that is not a directory. `mode`: the mode that it must have. */
export function directoryRefusal(directory: string, mode: number, mayBeForeign: boolean): SlotbusError {
  const what = `The runtime directory ${directory}`;
  const rights = mode.toString(8).padStart(4, "0");
  const uid = process.geteuid?.() ?? 0;
  const fail = (why: string, hint: string): SlotbusError =>
    new SlotbusError("PERMISSION_DENIED", `${what} ${why}.`, { hint: sentence(hint) });
  let found: Stats;
  try {
    found = lstatSync(directory);
  } catch (cause) {
    return fail(`cannot be opened: ${(cause as Error).message}`, ELSEWHERE);
  }
  const has = `has mode ${(found.mode & 0o7777).toString(8).padStart(4, "0")}`;
  if (!found.isDirectory()) {
    const kind = found.isSymbolicLink() ? "a symbolic link" : "a file";
    return fail(`is ${kind}; it must be a directory of mode ${rights}`, `remove it, or ${ELSEWHERE}`);
  }
  if (found.uid !== uid && !mayBeForeign) {
    return fail(`belongs to ${userText(found.uid)}; this process runs as ${userText(uid)}`, ELSEWHERE);
  }
  if (found.uid !== uid) {
    return fail(
      `${has} and belongs to ${userText(found.uid)}; this process runs as ${userText(uid)}`,
      "check its path, or let only its owner write to it",
    );
  }
  return fail(`${has}; it must have mode ${rights}`, `run \`chmod ${rights} ${directory}\`, or ${ELSEWHERE}`);
}

/** Returns `uid 1000 (ada)`; without the name if /etc/passwd does not have it. */
export function userText(uid: number): string {
  let users = "";
  try {
    users = readFileSync("/etc/passwd", "utf8");
  } catch {
    users = ""; // a container without users
  }
  const name = new RegExp(`^([^:\\n]+):[^:\\n]*:${uid}:`, "m").exec(users)?.[1];
  return name === undefined ? `uid ${uid}` : `uid ${uid} (${name})`;
}

function sentence(text: string): string {
  return `${text[0]!.toUpperCase()}${text.slice(1)}.`;
}
