/** The runtime directory: what its errors say, and the mode that it is made with. */

import { expect, test } from "bun:test";
import { chmodSync, chownSync, mkdirSync, mkdtempSync, rmSync, statSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { BusObserver } from "../src/native/observer.ts";
import { readNames } from "../src/cli/directory.ts";
import { Fleet } from "../src/fleet/fleet.ts";
import { HubWorker } from "../src/hub/index.ts";
import { SlotBus, type SlotbusError, SlotWorker } from "../src/index.ts";
import { Child, rejection, Workspace } from "./support.ts";

const isRoot = process.geteuid?.() === 0;
const OTHER = 65_534;

/** A folder that is removed with all that is in it. */
class Folder implements Disposable {
  readonly path = mkdtempSync(join(tmpdir(), "slotbus-directory-"));

  at(name: string): string {
    return join(this.path, name);
  }

  [Symbol.dispose](): void {
    rmSync(this.path, { recursive: true, force: true });
  }
}

/** What opens a directory that must be ours, by name: the option is given where it means the same as SLOTBUS_DIR. */
function openers(directory: string): Record<string, () => Promise<unknown>> {
  return {
    "a bus": () => SlotBus.create({ name: "x", directory }),
    "a fleet": () => Fleet.join({ name: "x", directory }),
    "an observer of a fleet": () => Fleet.observe({ name: "x", directory }),
    "a worker": () => inEnvironment(directory, () => SlotWorker.open({ name: "x" })),
    "an observer": () => inEnvironment(directory, () => BusObserver.open({ name: "x" })),
    "a worker of an HTTP hub": () => inEnvironment(directory, register),
    "the command": () => inEnvironment(directory, async () => readNames(undefined)),
  };
}

/** What it sends must not go to a program of another user that listens there. */
function register(): Promise<HubWorker> {
  return HubWorker.start({ hub: "site", name: "x", routes: {}, timeout: 0 });
}

/** Which directory it is, is read before anything is awaited. */
function inEnvironment<T>(directory: string, open: () => T): T {
  const before = process.env["SLOTBUS_DIR"];
  process.env["SLOTBUS_DIR"] = directory;
  try {
    return open();
  } finally {
    if (before === undefined) delete process.env["SLOTBUS_DIR"];
    else process.env["SLOTBUS_DIR"] = before;
  }
}

test("a directory of another user is named with its owner and with SLOTBUS_DIR as the way out, by all that open it", async () => {
  using folder = new Folder();
  const directory = isRoot ? folder.at("theirs") : "/"; // root's, wherever this runs as somebody else
  if (isRoot) {
    mkdirSync(directory, { mode: 0o700 });
    chownSync(directory, OTHER, OTHER);
  }
  const owner = statSync(directory).uid;
  const us = process.geteuid!();
  expect(owner).not.toBe(us);
  for (const [who, open] of Object.entries(openers(directory))) {
    const error = await rejection<SlotbusError>(open());
    expect(error, who).toMatchObject({ code: "PERMISSION_DENIED" });
    const said = new RegExp(
      `^The runtime directory ${directory} belongs to uid ${owner}( \\(\\S+\\))?; this process runs as uid ${us}( \\(\\S+\\))?\\. ` +
        "Set SLOTBUS_DIR, or the option `directory`, to a directory of your own",
    );
    expect(error.message, who).toMatch(said);
    expect(error.retryable, who).toBe(false);
  }
});

test.if(isRoot)("a worker of another user is told both users and what to do", async () => {
  for (const [options, mode] of [
    [{}, 0o700],
    [{ allowedUids: [4_242] }, 0o711],
  ] as const) {
    await using space = new Workspace();
    space.leftovers = ["run"];
    await space.bus({ ...options, directory: join(space.directory, "run") });
    chmodSync(space.directory, 0o711);
    expect(statSync(join(space.directory, "run")).mode & 0o777).toBe(mode);
    await using stranger = new Child("stranger.ts", [space.name, `${OTHER}`], {
      SLOTBUS_DIR: join(space.directory, "run"),
    });
    expect(await stranger.line("")).toMatch(
      new RegExp(
        `^the client of bus "${space.name}" is of uid 0 \\(root\\); this process runs as uid ${OTHER}( \\(\\S+\\))?\\. ` +
          `Run both as one user, or name ${OTHER} in \`allowedUids\` of SlotBus.create.$`,
      ),
    );
  }
});

test("a directory that others may open, a link and a file say what they are and what to do", async () => {
  using folder = new Folder();
  mkdirSync(folder.at("open"));
  chmodSync(folder.at("open"), 0o755);
  symlinkSync("open", folder.at("link"));
  await Bun.write(folder.at("file"), "");
  for (const [name, said] of [
    ["open", `has mode 0755; it must have mode 0700. Run \`chmod 0700 ${folder.at("open")}\`, or set SLOTBUS_DIR`],
    ["link", "is a symbolic link, not a directory of mode 0700. Remove it, or set SLOTBUS_DIR"],
    ["file", "is a file, not a directory of mode 0700. Remove it, or set SLOTBUS_DIR"],
  ] as const) {
    for (const [who, open] of Object.entries(openers(folder.at(name)))) {
      const error = await rejection<SlotbusError>(open());
      expect(error, who).toMatchObject({ code: "PERMISSION_DENIED" });
      expect(error.message, who).toStartWith(`The runtime directory ${folder.at(name)} ${said}`);
    }
  }
  expect(() => readNames(folder.at("file"))).toThrow("is a file, not a directory");
});

test("a directory whose parent is missing is not worth a retry, and the way out is SLOTBUS_DIR", async () => {
  using folder = new Folder();
  const directory = folder.at("missing/bus");
  const found = `Cannot open the runtime directory ${directory}: `;
  for (const [who, open] of Object.entries(openers(directory))) {
    const makes = who === "a bus" || who === "a fleet";
    const why = makes ? "no such file or directory (ENOENT)" : `there is no ${folder.at("missing")}`;
    const from = performance.now();
    const error = await rejection<SlotbusError>(open());
    expect(error, who).toMatchObject({ code: "RESOURCE" });
    expect(error.message, who).toStartWith(`${found}${why}. Set SLOTBUS_DIR`);
    expect([error.retryable, performance.now() - from < 1_000], who).toEqual([false, true]);
  }
});

test("a directory has mode 0700 also under umask 0777, and two that make it at once both come in", async () => {
  using folder = new Folder();
  for (let round = 0; round < 3; round++) {
    const directory = folder.at(`bus-${round}`);
    const clients = ["one", "two"].map(
      (name) => new Child("lonely.ts", [name, "ref"], { SLOTBUS_DIR: directory }, "umask 0777"),
    );
    try {
      for (const client of clients) await client.line("open");
      expect(statSync(directory).mode & 0o7777).toBe(0o700);
    } finally {
      for (const client of clients) await client.kill();
    }
  }
});
