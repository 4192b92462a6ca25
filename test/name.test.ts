/** Names that one client owns or up to 64 share, and the doors which notify workers of new clients. */

import { expect, test } from "bun:test";
import { existsSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { addressesOf, clientsOf, openDirectory } from "../src/native/directory.ts";
import { Door } from "../src/native/door.ts";
import { C, native } from "../src/native/library.ts";
import { NameLock } from "../src/native/name.ts";
import { BusExistsError, SlotBus, type SlotbusError } from "../src/index.ts";
import { rejection, Workspace } from "./support.ts";

/** Listens like a client; stop it before the lock is released. */
function listen(lock: NameLock): Disposable {
  const listener = Bun.listen({ unix: lock.socketPath, socket: { data: () => {} } });
  lock.expose(false);
  return { [Symbol.dispose]: () => listener.stop(true) };
}

test("clients that share a name have a number and a socket each; the last one leaves no file", async () => {
  await using space = new Workspace();
  const { directory, name } = space;
  const locks = [await NameLock.share(directory, name, false), await NameLock.share(directory, name, false)];
  {
    using _first = listen(locks[0]!);
    using _second = listen(locks[1]!);
    expect(locks.map(({ client }) => client)).toEqual([0, 1]);
    expect(readdirSync(directory).sort()).toEqual([`${name}.lock`, `${name}@0.sock`, `${name}@1.sock`]);
  }
  // A listener that stops unlinks the path at which it was bound, and the socket no longer has that path.
  expect(existsSync(join(directory, `${name}@0.sock`))).toBe(true);
  locks[0]!.release();
  expect(readdirSync(directory).sort()).toEqual([`${name}.lock`, `${name}@1.sock`]);
  locks[1]!.release();
  expect(readdirSync(directory)).toEqual([]);
});

test("an owner has no number, and its socket has the name of the bus", async () => {
  await using space = new Workspace();
  const lock = await NameLock.own(space.directory, space.name, false);
  {
    using _listener = listen(lock);
    expect(lock.client).toBeNull();
    expect(readdirSync(space.directory).sort()).toEqual([`${space.name}.lock`, `${space.name}.sock`]);
  }
  lock.release();
  expect(readdirSync(space.directory)).toEqual([]);
});

test("a bus is not created on a shared name, and the error says that clients share it and what to call", async () => {
  await using space = new Workspace();
  const lock = await NameLock.share(space.directory, space.name, false);
  const error = await rejection<BusExistsError>(SlotBus.create({ name: space.name, directory: space.directory }));
  lock.release();
  expect(error).toBeInstanceOf(BusExistsError);
  expect(error).toMatchObject({ code: "BUS_EXISTS", ownerPid: 0, retryable: true });
  expect(error.message).toBe(
    `Clients share the bus "${space.name}", so SlotBus.create cannot own it. ` +
      "Call SlotBus.connect to join them, or choose another name.",
  );
});

test("the name of an owner is not shared, and the error says who owns it and what to call", async () => {
  await using space = new Workspace();
  await space.bus();
  const error = await rejection<BusExistsError>(NameLock.share(space.directory, space.name, false));
  expect(error).toMatchObject({ code: "BUS_EXISTS", ownerPid: process.pid });
  expect(error.message).toBe(
    `SlotBus.create or a hub owns the name "${space.name}" (pid ${process.pid}, this process), ` +
      "so SlotBus.connect cannot share it. Call SlotBus.connect in all its clients, or choose another name.",
  );
});

test("a lock that is held for a moment only is waited for", async () => {
  await using space = new Workspace();
  const { directory, name } = space;
  for (const [before, after] of [
    ["own", "share"],
    ["share", "own"],
    ["own", "own"],
  ] as const) {
    const held = await NameLock[before](directory, name, false);
    const next = NameLock[after](directory, name, false);
    await Promise.resolve();
    held.release();
    (await next).release();
  }
  expect(readdirSync(directory)).toEqual([]);
});

test("the 65th client of a name is refused with the limit", async () => {
  await using space = new Workspace();
  const share = (): Promise<NameLock> => NameLock.share(space.directory, space.name, false);
  const locks = await Promise.all(Array.from({ length: C.SB_CLIENTS_MAX }, share));
  const error = await rejection<SlotbusError>(share());
  for (const lock of locks) lock.release();
  expect(error).toMatchObject({ code: "RESOURCE" });
  expect(error.message).toContain(`Cannot share the name "${space.name}": it has 64 clients.`);
});

test("a door notifies its worker that a client listens", async () => {
  await using space = new Workspace();
  const dir = openDirectory(space.directory)!;
  const door = Door.open(dir, space.name, false)!;
  const locks = [await NameLock.share(space.directory, space.name, false)];
  locks.push(await NameLock.share(space.directory, space.name, false));
  locks[1]!.knock();
  const knocks = Bun.spawnSync(["head", "-c", "4"], { stdin: door.fd });
  expect([...knocks.stdout]).toEqual([1, 0, 0, 0]);
  for (const lock of locks) lock.release();
  expect(readdirSync(space.directory)).toEqual([doorOf(space)]);
  door.close();
  native.sb_fd_close(dir);
  expect(readdirSync(space.directory)).toEqual([]);
});

function doorOf({ directory, name }: Workspace): string {
  const file = readdirSync(directory).find((one) => one.endsWith(".door"))!;
  expect(file).toMatch(new RegExp(`^${name}@[0-9a-f]{16}\\.door$`));
  return file;
}

test("a door in a directory that cannot take it is an error that names the bus", async () => {
  await using space = new Workspace();
  const dir = openDirectory(space.directory)!;
  expect(() => Door.open(dir, "no name", false)).toThrow('Cannot open a door for workers of bus "no name"');
  native.sb_fd_close(dir);
});

test("a leftover at the place of a socket is removed before a client listens there", async () => {
  await using space = new Workspace();
  const { directory, name } = space;
  for (const file of [`${name}@0.new`, `${name}@0.sock`, `${name}.new`, `${name}.sock`])
    writeFileSync(join(directory, file), "");
  const lock = await NameLock.share(directory, name, false);
  expect(readdirSync(directory)).toEqual([`${name}.lock`]);
  listen(lock)[Symbol.dispose]();
  lock.release();
  expect(readdirSync(directory)).toEqual([]);
});

test("the live clients of a name and the addresses to try are found; killed clients are only among the addresses", async () => {
  await using space = new Workspace();
  const { directory, name } = space;
  const dir = openDirectory(directory)!;
  expect([clientsOf(dir, name), addressesOf(dir, name)]).toEqual([[], []]);
  const locks = await Promise.all(Array.from({ length: 34 }, () => NameLock.share(directory, name, false)));
  {
    using _listener = listen(locks[33]!);
    writeFileSync(join(directory, `${name}@63.sock`), "");
    expect(clientsOf(dir, name)).toEqual(Array.from({ length: 34 }, (_, client) => client));
    expect(addressesOf(dir, name)).toEqual([`${name}@33`, `${name}@63`]);
  }
  for (const lock of locks) lock.release();
  expect(readdirSync(directory)).toEqual([]);
  const owner = await NameLock.own(directory, name, false);
  {
    using _listener = listen(owner);
    expect([clientsOf(dir, name), addressesOf(dir, name)]).toEqual([[], [name]]);
  }
  owner.release();
  native.sb_fd_close(dir);
});
