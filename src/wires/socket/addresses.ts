/** Finds the sockets of a bus in its runtime directory. */

import { existsSync, readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { C } from "../../native/abi.ts";

/**
 * Returns the addresses at which clients of a name may listen: `NAME` for an owner, `NAME@K` for client K of a shared name. Clients
 * that were killed may be among them. Works in a directory that this user may not list.
 */
export function findAddresses(directory: string, name: string): string[] {
  const all = [name, ...Array.from({ length: C.SB_CLIENTS_MAX }, (_, client) => `${name}@${client}`)];
  let files: Set<string>;
  try {
    files = new Set(readdirSync(directory));
  } catch {
    return all.filter((address) => existsSync(join(directory, `${address}.sock`)));
  }
  return all.filter((address) => files.has(`${address}.sock`));
}

/** Whether an address is one of a shared bus. */
export function isShared(address: string): boolean {
  return address.includes("@");
}

/** Returns an identity of the socket file at `address`, which differs between two clients that listen there. */
export function socketIdentity(directory: string, address: string): string {
  try {
    const { ino, ctimeMs } = statSync(join(directory, `${address}.sock`));
    return `${ino} ${ctimeMs}`;
  } catch {
    return ""; // there is none
  }
}
