/** The runtime directory: its errors, and the mode that it is created with. */

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

/** A folder that is removed with its contents. */
class Folder implements Disposable {
  readonly path = mkdtempSync(join(tmpdir(), "slotbus-directory-"));

  at(name: string): string {
    return join(this.path, name);
  }

  [Symbol.dispose](): void {
    rmSync(this.path, { recursive: true, force: true });
  }
}

/** All calls that open a directory which must be ours. The option is given where it means the same as SLOTBUS_DIR. */
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

/** Its messages must not reach a program of another user that listens there. */
function register(): Promise<HubWorker> {
  return HubWorker.start({ hub: "site", name: "x", routes: {}, timeout: 0 });
}

/** `open` reads SLOTBUS_DIR before its first await, so the variable can be restored at once. */
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

test("a directory of another user is refused with its owner and the hint SLOTBUS_DIR, by every call that opens it", async () => {
  using folder = new Folder();
  const directory = isRoot ? folder.at("theirs") : "/"; // root owns it, also when this runs as another user
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

test.if(isRoot)("a worker of another user gets an error with both users and what to do", async () => {
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
        `^The client of bus "${space.name}" runs as uid 0 \\(root\\); this process runs as uid ${OTHER}( \\(\\S+\\))?\\. ` +
          `Run both as one user, or add ${OTHER} to \`allowedUids\` of SlotBus.create.$`,
      ),
    );
  }
});

test("a directory that others may open, a link and a file are refused with the reason and what to do", async () => {
  using folder = new Folder();
  mkdirSync(folder.at("open"));
  chmodSync(folder.at("open"), 0o755);
  symlinkSync("open", folder.at("link"));
  await Bun.write(folder.at("file"), "");
  for (const [name, said] of [
    ["open", `has mode 0755; it must have mode 0700. Run \`chmod 0700 ${folder.at("open")}\`, or set SLOTBUS_DIR`],
    ["link", "is a symbolic link; it must be a directory of mode 0700. Remove it, or set SLOTBUS_DIR"],
    ["file", "is a file; it must be a directory of mode 0700. Remove it, or set SLOTBUS_DIR"],
  ] as const) {
    for (const [who, open] of Object.entries(openers(folder.at(name)))) {
      const error = await rejection<SlotbusError>(open());
      expect(error, who).toMatchObject({ code: "PERMISSION_DENIED" });
      expect(error.message, who).toStartWith(`The runtime directory ${folder.at(name)} ${said}`);
    }
  }
  expect(() => readNames(folder.at("file"))).toThrow("is a file; it must be a directory");
});

test("a missing parent directory is not retryable, and the error names SLOTBUS_DIR", async () => {
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

test("a directory has mode 0700 also under umask 0777, and two processes that make it at once both succeed", async () => {
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
