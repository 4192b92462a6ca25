/** Names of buses, for processes without the C library: whose a name is, and where its client listens. */

import { chmodSync, renameSync, unlinkSync } from "node:fs";
import { sleep, systemClock } from "../clock.ts";
import { BusExistsError, SlotbusError } from "../errors.ts";
import { findLauncher } from "../native/find.ts";
import { isAlive, type Lock, ownerOf, type Refusal, runLauncher, takeLock } from "./locks.ts";
import type { BusName } from "./module.ts";
import { closePlace, CLIENTS_MAX, doorsAt, failure, filesOf, openPlace, type Place } from "./place.ts";
import { sockets } from "./socket/duplex.ts";

/** Time for which a name that is held is tried again, in ms: a client that leaves holds it for a moment. */
const HELD_MS = 100;
/** Pause between two tries, in ms. */
const PAUSE_MS = 5;

/** A name that this process holds. The C library's `NameLock` and this class exclude each other. */
export class PortableName implements BusName {
  readonly client: number | null;
  readonly #place: Place;
  readonly #name: string;
  readonly #lock: Lock;

  /**
   * Takes the name alone, or as one of up to 64 clients. Creates the directory if necessary and removes a leftover socket.
   *
   * @throws (rejects) {BusExistsError} when live processes hold the name; `PERMISSION_DENIED`, `RESOURCE`.
   */
  static async take(how: "own" | "share", directory: string, name: string, shared: boolean): Promise<PortableName> {
    const place = openPlace(directory, { create: true, shared })!;
    try {
      for (let tries = 0; ; tries++) {
        const lock = await takeLock(place, name, how);
        const found = typeof lock === "string" ? lock : await clear(place, name, lock);
        if (typeof found !== "string") return new PortableName(place, name, found);
        if (found === "full" || tries === HELD_MS / PAUSE_MS) throw refused(found, place, name, how);
        await sleep(systemClock, PAUSE_MS);
      }
    } catch (error) {
      closePlace(place);
      throw error;
    }
  }

  private constructor(place: Place, name: string, lock: Lock) {
    this.#place = place;
    this.#name = name;
    this.#lock = lock;
    this.client = lock.client;
  }

  get #path(): string {
    return pathOf(this.#place, this.#name, this.client);
  }

  get socketPath(): string {
    return `${this.#path}.new`;
  }

  expose(shared: boolean): void {
    try {
      chmodSync(this.socketPath, shared ? 0o666 : 0o600);
      renameSync(this.socketPath, `${this.#path}.sock`);
    } catch (error) {
      throw failure(`Cannot listen at ${this.#path}.sock`, error);
    }
    this.#lock.exposed();
  }

  knock(): void {
    if (this.client === null) return;
    const doors = doorsAt(this.#place, this.#name);
    if (doors.length === 0) return;
    for (const door of doors) void knockAt(`${this.#place.path}/${door}`);
    // Doors of workers with the C library are datagram sockets.
    const launcher = process.platform === "linux" ? findLauncher() : null;
    if (launcher !== null) runLauncher(launcher, ["--knock", String(this.client), ...doors], this.#place.fd);
  }

  release(): void {
    removeSockets(this.#place, this.#name, this.client); // while it is locked
    this.#lock.release(() => sweep(this.#place, this.#name));
    closePlace(this.#place);
  }
}

function pathOf(place: Place, name: string, client: number | null): string {
  return client === null ? `${place.path}/${name}` : `${place.path}/${name}@${client}`;
}

function removeSockets(place: Place, name: string, client: number | null): void {
  for (const ending of [".sock", ".new"]) unlinkQuietly(`${pathOf(place, name, client)}${ending}`);
}

function unlinkQuietly(path: string): void {
  try {
    unlinkSync(path);
  } catch {} // it does not exist
}

/**
 * Removes the sockets that the last holder left. Connects first: a process that could take no lock, because it has neither the C
 * library nor the launcher, listens there.
 */
async function clear(place: Place, name: string, lock: Lock): Promise<Lock | Refusal> {
  const others = lock.client === null ? [null] : [null, lock.client];
  for (const client of others) {
    if (!(await isAlive(`${pathOf(place, name, client)}.sock`))) continue;
    lock.release(() => {});
    return client === null ? "owned" : "again";
  }
  for (const client of others) removeSockets(place, name, client);
  return lock;
}

/** Removes what dead clients of a shared name left. Called by the last client, under the lock. */
function sweep(place: Place, name: string): void {
  const left = /^@\d+\.(?:sock|new|lock)$/;
  for (const file of filesOf(place, name))
    if (left.test(file.slice(name.length))) unlinkQuietly(`${place.path}/${file}`);
}

/** Tells a worker without the C library that a client has come: it looks for clients when someone connects to its door. */
async function knockAt(path: string): Promise<void> {
  try {
    await sockets.connect(path, (duplex) => duplex.terminate());
  } catch {} // a datagram socket, or its worker has ended
}

function refused(why: Refusal, place: Place, name: string, how: "own" | "share"): Error {
  if (why === "full") {
    return new SlotbusError("RESOURCE", `Cannot share the name "${name}": it has ${CLIENTS_MAX} clients.`);
  }
  if (why === "shared") return new BusExistsError(name, 0, false, "shared");
  const owner = ownerOf(place, name);
  return new BusExistsError(name, owner, owner === process.pid, how === "share" ? "owned" : "taken");
}
