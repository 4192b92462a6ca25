/** The fleet: joining, sizes, living and dead members, what stays behind. Other members are real processes. */

import { describe, expect, test } from "bun:test";
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { linkSync, openSync, renameSync, statfsSync, symlinkSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  FleetBusyError,
  ClosedError,
  FleetFullError,
  FleetGeometryError,
  FleetNotFoundError,
  InvalidConfigError,
  VersionMismatchError,
} from "../src/errors.ts";
import { Contest } from "../src/contest/index.ts";
import { EventBus, topic } from "../src/events/index.ts";
import { Fleet } from "../src/fleet/fleet.ts";
import type { FleetOptions } from "../src/fleet/options.ts";
import { SlotBus, SlotWorker } from "../src/index.ts";
import { callError } from "../src/native/fleet-failure.ts";
import { C, FIELDS, native, type Pointer } from "../src/native/library.ts";
import { FleetSpace, words } from "./fleet-space.ts";
import { descriptors, rejection, sockets, stop, until } from "./support.ts";

const EVENTS = { rings: { events: { frames: 64, frameBytes: 64 } } };

/** Mappings of fleets in this process. */
function mapped(): number {
  const maps = readFileSync("/proc/self/maps", "latin1").split("\n");
  return maps.filter((line) => /\.fleet|memfd:.*fleet/.test(line)).length;
}

describe("joining", () => {
  test("the first member makes the file, the second has its own place, and the last removes the file", async () => {
    await using space = new FleetSpace();
    const first = await space.join(EVENTS);
    const second = await space.join();
    expect([first.index, second.index]).toEqual([0, 1]);
    expect(second.epoch).toBe(first.epoch);
    expect(second.members().map(({ index }) => index)).toEqual([0, 1]);
    for (const { pid, uid, joinedAt } of first.members()) {
      expect([pid, uid]).toEqual([process.pid, process.geteuid!()]);
      expect(Math.abs(joinedAt - Date.now())).toBeLessThan(60_000);
    }
    await first.close();
    expect(second.members().map(({ index }) => index)).toEqual([1]);
    expect(existsSync(space.file)).toBe(true);
    await second.close();
    expect(readdirSync(space.directory)).toEqual([]);
  });

  test("sizes that are not given come from the file", async () => {
    await using space = new FleetSpace();
    await space.join({ maxMembers: 7, maxLeases: 9, rings: { a: { frames: 16 }, b: { frameBytes: 128 } } });
    const second = await space.join({ rings: { b: {} } });
    expect(second.geometry).toMatchObject({ maxMembers: 7, maxLeases: 9 });
    expect(second.geometry.rings).toEqual([
      { name: "a", frames: 16, frameBytes: 512 },
      { name: "b", frames: 1_024, frameBytes: 128 },
    ]);
    expect([second.ring("a").frames, second.ring("b").frameBytes, second.ring("b").payloadBytes]).toEqual([
      16, 128, 32_768,
    ]);
  });

  test("sizes that differ from a living fleet's are refused with both numbers, and change nothing", async () => {
    await using space = new FleetSpace();
    const first = await space.join({ maxMembers: 7, ...EVENTS });
    const before = readFileSync(space.file);
    const rings = { events: { frames: 128, frameBytes: 64 }, other: {} };
    const error = await rejection<FleetGeometryError>(space.join({ maxMembers: 8, maxLeases: 256, rings }));
    expect(error).toBeInstanceOf(FleetGeometryError);
    expect(error.differences).toEqual([
      { what: "maxMembers", theirs: "7", ours: "8" },
      { what: "rings.events.frames", theirs: "64", ours: "128" },
      { what: "rings.other", theirs: "none", ours: "one" },
    ]);
    expect(error.message).toContain("maxMembers: the fleet has 7, this call asks for 8");
    expect(readFileSync(space.file).equals(before)).toBe(true);
    expect(first.members().length).toBe(1);
  });

  const bad: [string, Partial<FleetOptions>, typeof InvalidConfigError | typeof InvalidConfigError][] = [
    ["an empty name", { name: "" }, InvalidConfigError],
    ["a name with a slash", { name: "a/b" }, InvalidConfigError],
    ["a name with NUL", { name: "a\0b" }, InvalidConfigError],
    ["a name of 65 characters", { name: "a".repeat(65) }, InvalidConfigError],
    ["a name that is a number", { name: 7 as never }, InvalidConfigError],
    ["no members", { maxMembers: 0 }, InvalidConfigError],
    ["257 members", { maxMembers: 257 }, InvalidConfigError],
    ["NaN members", { maxMembers: NaN }, InvalidConfigError],
    ["no leases", { maxLeases: 0 }, InvalidConfigError],
    ["4097 leases", { maxLeases: 4_097 }, InvalidConfigError],
    ["a list of rings", { rings: [] as never }, InvalidConfigError],
    ["a ring that is a number", { rings: { a: 1 as never } }, InvalidConfigError],
    ["a ring without a name", { rings: { "": {} } }, InvalidConfigError],
    ["a ring's name of 33 characters", { rings: { ["r".repeat(33)]: {} } }, InvalidConfigError],
    [
      "17 rings",
      { rings: Object.fromEntries(Array.from({ length: 17 }, (_, i) => [`r${i}`, {}])) },
      InvalidConfigError,
    ],
    ["100 frames, not a power of two", { rings: { a: { frames: 100 } } }, InvalidConfigError],
    ["4 frames", { rings: { a: { frames: 4 } } }, InvalidConfigError],
    ["frames of 60 bytes", { rings: { a: { frameBytes: 60 } } }, InvalidConfigError],
    ["frames of 65 bytes", { rings: { a: { frameBytes: 65 } } }, InvalidConfigError],
    ["an old option", { memory: true } as never, InvalidConfigError],
    ["an old option of a ring", { rings: { a: { payload: 64 } as never } }, InvalidConfigError],
    ["frames of 128 KiB", { rings: { a: { frameBytes: 131_072 } } }, InvalidConfigError],
  ];
  test.each(bad)("%s is refused and makes no file", async (_, options, type) => {
    await using space = new FleetSpace();
    expect(await rejection(space.join(options))).toBeInstanceOf(type);
    expect(readdirSync(space.directory)).toEqual([]);
  });

  test("the longest names and the largest number of rings are accepted", async () => {
    await using space = new FleetSpace();
    const rings = Object.fromEntries(Array.from({ length: 16 }, (_, i) => [`${i}`.padEnd(32, "r"), { frames: 8 }]));
    const fleet = await space.join({ maxMembers: 256, maxLeases: 4_096, rings });
    expect(fleet.geometry.rings.map(({ name }) => name).sort()).toEqual(Object.keys(rings).sort());
    expect(() => fleet.ring("none")).toThrow(InvalidConfigError);
  });

  test("a full fleet accepts no member until one leaves; then its place has another incarnation", async () => {
    await using space = new FleetSpace();
    await space.join({ maxMembers: 2 });
    const second = await space.join();
    const error = await rejection<FleetFullError>(space.join());
    expect(error).toBeInstanceOf(FleetFullError);
    expect([error.members, error.retryable]).toEqual([2, true]);
    await second.close();
    const third = await space.join();
    expect(third.index).toBe(second.index);
    expect(third.incarnation).not.toBe(second.incarnation);
  });

  test("a file that is not a fleet's is refused and left unchanged", async () => {
    await using space = new FleetSpace();
    for (const content of [Buffer.alloc(0), Buffer.from("garbage"), Buffer.alloc(100_000, 0xa5)]) {
      writeFileSync(space.file, content, { mode: 0o600 });
      expect(await rejection(space.join())).toMatchObject({ code: "FLEET_CORRUPT" });
      expect(await rejection(space.observe())).toMatchObject({ code: "FLEET_CORRUPT" });
      expect(readFileSync(space.file).equals(content)).toBe(true);
    }
  });

  test("a directory, a link and a file with a second name in its place are refused, and the error says what is there", async () => {
    await using space = new FleetSpace();
    const other = join(space.directory, "other");
    const places: [what: string, make: () => void][] = [
      ["a directory, uid", () => mkdirSync(space.file)],
      ["a symbolic link, uid", () => symlinkSync(other, space.file)],
      ["a file of 4 bytes", () => linkSync(other, space.file)],
    ];
    writeFileSync(other, "mine", { mode: 0o600 });
    for (const [what, make] of places) {
      make();
      const error = await rejection(space.join());
      expect(error).toMatchObject({ code: "PERMISSION_DENIED" });
      expect(error.message).toContain(`${space.file} is ${what}`);
      rmSync(space.file, { recursive: true });
    }
    expect(readFileSync(other, "utf8")).toBe("mine");
    rmSync(other);
  });

  test("a failed call on a fleet has its own type of error for each reason", () => {
    const of = (code: number): Error => callError(-code, "Cannot poll the cursor");
    expect(of(C.SB_EBUSY)).toBeInstanceOf(FleetBusyError);
    expect(of(C.SB_EINVAL)).toBeInstanceOf(InvalidConfigError);
    expect(of(C.SB_ECORRUPT)).toMatchObject({ code: "FLEET_CORRUPT" });
    expect(of(C.SB_ENOSPACE)).toMatchObject({ code: "RESOURCE" });
    for (const code of [C.SB_EINVAL, C.SB_ECORRUPT, C.SB_ENOSPACE])
      expect(of(code).message).toMatch(/^Cannot poll the cursor: .+\.$/);
  });

  test("a truncated file is an error, not a signal", async () => {
    await using space = new FleetSpace();
    const child = space.child("fleet-maker.ts");
    await child.line("joined");
    await child.kill();
    truncateSync(space.file, 4_096);
    expect(await rejection(space.join())).toMatchObject({ code: "FLEET_CORRUPT" });
  });

  test("a file of another version is refused", async () => {
    await using space = new FleetSpace();
    await space.join();
    space.poke(FIELDS["sb_fleet_header.abi"][0], words(C.SB_FLEET_ABI + 1));
    expect(await rejection(space.join())).toBeInstanceOf(VersionMismatchError);
    expect(await rejection(space.observe())).toBeInstanceOf(VersionMismatchError);
  });

  test("a fleet that does not fit on the disk is refused at once, and leaves no file", async () => {
    const directory = mkdtempSync("/dev/shm/slotbus-test-");
    const huge = { frames: 1_048_576, frameBytes: 65_536 };
    const rings = Object.fromEntries(Array.from({ length: 16 }, (_, i) => [`r${i}`, huge]));
    const error = await rejection(Fleet.join({ name: "huge", directory, rings }));
    const left = readdirSync(directory);
    rmSync(directory, { recursive: true });
    expect(error).toMatchObject({ code: "NO_SPACE" });
    expect(left).toEqual([]);
  });

  test("a fleet that does not fit on the disk does not fill it meanwhile", async () => {
    await using space = new FleetSpace();
    const free = (): number => statfsSync(space.directory).bavail;
    const before = free();
    const child = space.child("fleet-member.ts", "huge");
    let least = before;
    for (; child.process.exitCode === null; await Bun.sleep(0)) least = Math.min(least, free());
    await child.line("NO_SPACE");
    expect(least).toBeGreaterThan(before / 2);
  });

  test("a file or a directory that other users may write is refused", async () => {
    await using space = new FleetSpace();
    await space.join();
    chmodSync(space.file, 0o666);
    expect(await rejection(space.join())).toMatchObject({ code: "PERMISSION_DENIED" });
    chmodSync(space.file, 0o600);
    const open = join(space.directory, "open");
    mkdirSync(open);
    chmodSync(open, 0o777);
    expect(await rejection(space.join({ directory: open }))).toMatchObject({ code: "PERMISSION_DENIED" });
    space.leftovers.push("open");
  });

  test("an error about a file or a directory gives its path, the numbers and what to do", async () => {
    await using space = new FleetSpace();
    const messages = async (): Promise<string[]> =>
      Promise.all([space.join(), space.observe()].map(async (joined) => (await rejection(joined)).message));
    const uid = process.geteuid!();
    writeFileSync(space.file, "garbage", { mode: 0o600 });
    for (const message of await messages()) {
      expect(message).toContain(`${space.file} (a file of 7 bytes, uid ${uid}, mode 0600, 1 name)`);
      expect(message).toContain("remove the file");
    }
    chmodSync(space.file, 0o640);
    for (const message of await messages()) {
      expect(message).toContain(`${space.file} is a file of 7 bytes, uid ${uid}, mode 0640, 1 name.`);
      expect(message).toContain("mode 0600");
    }
    rmSync(space.file);
    const fleet = await space.join();
    space.poke(FIELDS["sb_fleet_header.abi"][0], words(C.SB_FLEET_ABI + 1));
    for (const message of await messages()) {
      expect(message).toContain(space.file);
      expect(message).toContain(`version ${C.SB_FLEET_ABI + 1}; this process speaks ${C.SB_FLEET_ABI}`);
    }
    await fleet.close();
    const huge = { frames: 1_048_576, frameBytes: 65_536 };
    const rings = Object.fromEntries(Array.from({ length: 16 }, (_, i) => [`r${i}`, huge]));
    const full = await rejection(space.join({ rings }));
    expect(full.message).toMatch(/ \(\/.*\.fleet\): its rings need more than 1048576 MiB, \d+ MiB are free\./);
    const open = join(space.directory, "open");
    mkdirSync(open);
    chmodSync(open, 0o755);
    expect((await rejection(space.join({ directory: open }))).message).toContain(
      `${open} has mode 0755; it must have mode 0700. Run \`chmod 0700 ${open}\``,
    );
    rmSync(open, { recursive: true });
    const missing = await rejection(space.join({ directory: join(space.directory, "a/b") }));
    expect(missing).toMatchObject({ code: "RESOURCE" });
    expect(missing.message).toStartWith(
      `Cannot open the runtime directory ${space.directory}/a/b: no such file or directory (ENOENT). Set SLOTBUS_DIR`,
    );
  });

  test("an invalid directory is refused by a fleet, a bus and a worker", async () => {
    for (const directory of ["", "/dev/shm\0/x", 7, {}, Object.create(null), Symbol("x")] as never[]) {
      for (const opened of [
        Fleet.join({ name: "x", directory }),
        Fleet.observe({ name: "x", directory }),
        SlotBus.create({ name: "x", directory }),
        SlotWorker.open({ name: "x", directory }),
      ]) {
        const error = await rejection(opened);
        expect(error).toBeInstanceOf(InvalidConfigError);
        expect(error.message).toContain("directory is ");
      }
    }
    for (const options of [undefined, null, {}, Object.create(null), { name: Object.create(null) }] as never[]) {
      expect(await rejection(Fleet.join(options))).toBeInstanceOf(InvalidConfigError);
      expect(await rejection(Fleet.observe(options))).toBeInstanceOf(InvalidConfigError);
    }
  });

  test("a member that is stopped while it joins is named in other members' errors after two seconds", async () => {
    await using space = new FleetSpace();
    const fleet = await space.join();
    const child = space.child("join-lock.ts");
    await child.line("held");
    const began = performance.now();
    const error = await rejection<FleetBusyError>(space.join());
    expect(error).toBeInstanceOf(FleetBusyError);
    expect(error.retryable).toBe(true);
    expect(error.message).toContain(space.file);
    expect(performance.now() - began).toBeGreaterThan(1_900);
    expect(fleet.members().length).toBe(1);
    await child.kill();
    expect((await space.join()).index).toBe(1);
  });

  test("processes that make the fleet at the same time all join the same one, each at its own place", async () => {
    await using space = new FleetSpace();
    const children = Array.from({ length: 8 }, () => space.child("fleet-maker.ts"));
    const joined = await Promise.all(children.map((child) => child.line("joined")));
    const parts = joined.map((line) => line.split(" "));
    expect(new Set(parts.map(([, index]) => index)).size).toBe(8);
    expect(new Set(parts.map(([, , , epoch]) => epoch)).size).toBe(1);
    const observer = await space.observe();
    expect(new Set(observer.members().map(({ pid }) => pid))).toEqual(new Set(children.map(({ pid }) => pid)));
  });
});

describe("living and dying", () => {
  test("a killed member is gone at once, and its place is free for another incarnation", async () => {
    await using space = new FleetSpace();
    const fleet = await space.join({ maxMembers: 2, ...EVENTS });
    const child = space.child("fleet-member.ts", "idle");
    const [, index, incarnation] = (await child.line("joined")).split(" ").map(Number);
    expect(fleet.members().map(({ pid }) => pid)).toEqual([process.pid, child.pid]);
    await child.kill();
    expect(fleet.members().map(({ pid }) => pid)).toEqual([process.pid]);
    const next = space.child("fleet-member.ts", "idle");
    const [, nextIndex, nextIncarnation] = (await next.line("joined")).split(" ").map(Number);
    expect(nextIndex).toBe(index!);
    expect(nextIncarnation).not.toBe(incarnation!);
  });

  test("a stopped member is a member", async () => {
    await using space = new FleetSpace();
    const fleet = await space.join(EVENTS);
    const child = space.child("fleet-member.ts", "idle");
    await child.line("joined");
    await stop(child);
    expect(fleet.members().length).toBe(2);
  });

  test("when all members were killed, the next member starts a new, higher epoch", async () => {
    await using space = new FleetSpace();
    const child = space.child("fleet-maker.ts");
    const epoch = Number((await child.line("joined")).split(" ")[3]);
    await child.kill();
    const fleet = await space.join({ maxMembers: 3, rings: {} });
    expect(fleet.epoch).toBeGreaterThan(epoch);
    expect(fleet.geometry).toMatchObject({ maxMembers: 3, rings: [] });
    expect(fleet.members().length).toBe(1);
  });

  test("leaving twice is leaving once; after that every call says that the fleet is closed", async () => {
    const before = [descriptors(), mapped()];
    await using space = new FleetSpace();
    const fleet = await space.join(EVENTS);
    const ring = fleet.ring("events");
    const bus = await EventBus.open({ fleet, ring: "events" });
    const cursor = ring.cursor();
    const waiting = cursor.next();
    const subscription = bus.subscribeAll();
    const next = subscription.next();
    await fleet.close();
    await fleet[Symbol.asyncDispose]();
    expect((await waiting).done).toBe(true);
    expect((await next).done).toBe(true);
    expect([fleet.closed, bus.closed, cursor.closed, subscription.closed]).toEqual([true, true, true, true]);
    expect(cursor.poll()).toEqual([]);
    for (const call of [
      () => fleet.members(),
      () => fleet.ring("events"),
      () => ring.publish("x"),
      () => ring.head,
      () => ring.cursor(),
      () => bus.publish("a", 1),
      () => bus.subscribeAll(),
      () => bus.bind({ on: "a", key: "k", id: "i" }),
    ]) {
      expect(call).toThrow(ClosedError);
    }
    await until(
      () => descriptors() <= before[0]! && mapped() <= before[1]!, // the collector may free more than it made
      "no more descriptors and mappings than before",
    );
  });

  test("two hundred joins and sleepers leave no descriptor and no mapping", async () => {
    await using space = new FleetSpace();
    await space.join(EVENTS);
    const before = [descriptors(), mapped()];
    for (let i = 0; i < 200; i++) {
      await using fleet = await Fleet.join({ name: space.name, directory: space.directory });
      await using cursor = fleet.ring("events").cursor();
      void cursor.next();
      if (i % 2 === 0) await new Promise((resolve) => setImmediate(resolve));
    }
    await until(
      () => descriptors() <= before[0]! && mapped() <= before[1]!, // the collector may free more than it made
      "no more descriptors and mappings than before",
    );
  });

  test("a process that waits for nothing ends by itself; a process that waits stays until its event comes", async () => {
    await using space = new FleetSpace();
    const fleet = await space.join(EVENTS);
    const unwatched = space.child("fleet-member.ts", "unwatched");
    expect(await unwatched.process.exited).toBe(0);
    const waits = space.child("fleet-member.ts", "waits");
    await waits.line("waiting");
    expect(waits.process.exitCode).toBe(null);
    fleet.ring("events").publish("now");
    expect(await waits.process.exited).toBe(0);
    expect(fleet.members().length).toBe(1);
  });

  test("a fleet serves a Worker thread; after a thread leaves it is not a member and holds nothing", async () => {
    await using space = new FleetSpace();
    const fleet = await space.join(EVENTS);
    const bus = await EventBus.open<{ ping: number; pong: number }>({ fleet, ring: "events" });
    const contest = await Contest.open({ fleet });
    const subject = { kind: "thread", label: "lease" };
    const thread = new Worker(join(import.meta.dir, "fixtures/fleet-thread.ts"));
    const heard: string[] = [];
    thread.onmessage = ({ data }) => heard.push(data);
    thread.postMessage({ name: space.name, directory: space.directory });
    await until(() => heard.length > 0, "it has joined");
    expect(heard).toEqual(["claimed"]);
    expect(fleet.members().map(({ index, pid }) => [index, pid])).toEqual([
      [0, process.pid],
      [1, process.pid],
    ]);
    expect(contest.holder(subject)).toMatchObject({ member: 1, pid: process.pid });
    const pongs = bus.subscribe(topic("pong"));
    for (let i = 0; i < 20; i++) {
      bus.publish("ping", i);
      expect((await pongs.next()).value).toMatchObject({ payload: i, writer: 1 });
    }
    thread.postMessage("leave");
    await until(() => heard.length > 1, "it has left");
    expect([fleet.members().length, contest.holder(subject)]).toEqual([1, null]);
    thread.terminate();
  });

  test("a living member that is stopped with a lock is named; a dead member's lock is taken over", async () => {
    await using space = new FleetSpace();
    const fleet = await space.join(EVENTS);
    const child = space.child("fleet-member.ts", "idle");
    const index = Number((await child.line("joined")).split(" ")[1]);
    const ring = fleet.ring("events");
    space.poke(space.ringOffset(), words(index + 1));
    const error = (() => {
      try {
        ring.publish("never");
        throw new Error("it was published");
      } catch (caught) {
        return caught as FleetBusyError;
      }
    })();
    expect(error).toBeInstanceOf(FleetBusyError);
    expect([error.retryable, ring.head]).toEqual([true, 0]);
    await child.kill();
    ring.publish("now");
    expect(ring.head).toBe(1);
  });
});

describe("looking without joining", () => {
  test("observing a fleet that does not exist rejects, and makes no file", async () => {
    await using space = new FleetSpace();
    expect(await rejection(space.observe())).toBeInstanceOf(FleetNotFoundError);
    const elsewhere = { name: space.name, directory: join(space.directory, "none") };
    expect(await rejection(Fleet.observe(elsewhere))).toBeInstanceOf(FleetNotFoundError);
    expect(readdirSync(space.directory)).toEqual([]);
  });

  test("an observer sees members and events, is not a member, and cannot publish, sleep or bind", async () => {
    await using space = new FleetSpace();
    const fleet = await space.join(EVENTS);
    const bus = await EventBus.open({ fleet, ring: "events" });
    bus.publish("seen", { a: 1 });
    const observer = await space.observe();
    expect([observer.index, observer.incarnation, observer.isObserver]).toEqual([-1, 0, true]);
    expect(observer.members()).toEqual(fleet.members());
    const before = readFileSync(space.file);
    const looking = await EventBus.open({ fleet: observer, ring: "events" });
    const subscription = looking.subscribeAll({ from: "oldest" });
    expect(subscription.poll()).toMatchObject([{ topic: "seen", payload: { a: 1 } }]);
    expect(() => looking.publish("x", 1)).toThrow(InvalidConfigError);
    expect(() => looking.bind({ on: "a", key: "k", id: "i" })).toThrow(InvalidConfigError);
    expect(await rejection(subscription.next())).toBeInstanceOf(InvalidConfigError);
    expect(await rejection(observer.ring("events").cursor().next())).toBeInstanceOf(InvalidConfigError);
    expect(readFileSync(space.file).equals(before)).toBe(true);
    await fleet.close();
    expect(observer.members()).toEqual([]);
  });
});

describe("the file of an observer", () => {
  test("that is replaced is reported once, in band, with the new epoch; isCurrent is false at once", async () => {
    await using space = new FleetSpace();
    const first = await space.join(EVENTS);
    const observer = await space.observe();
    const bus = await EventBus.open({ fleet: observer, ring: "events" });
    const cursor = observer.ring("events").cursor({ from: "oldest" });
    const subscriptions = [0, 256].map((limit) => bus.subscribeAll({ queue: { limit } }));
    (await EventBus.open({ fleet: first, ring: "events" })).publish("last", 1);
    expect([first.isCurrent, observer.isCurrent]).toEqual([true, true]);
    await first.close();
    expect([first.isCurrent, observer.isCurrent]).toEqual([false, false]);
    expect(cursor.poll().length).toBe(1);
    for (const one of subscriptions) expect(one.poll()).toMatchObject([{ topic: "last" }]);
    const second = await space.join(EVENTS);
    expect([second.isCurrent, observer.isCurrent, observer.closed]).toEqual([true, false, false]);
    const { epoch } = second;
    const told: unknown[][] = [[], [], []];
    await until(() => {
      for (const [i, one] of [cursor, ...subscriptions].entries()) told[i]!.push(...one.poll());
      return told.every((items) => items.length > 0);
    }, "all report it");
    const gap = { topic: null, overwritten: 0, dropped: 0, epoch };
    expect(told).toEqual([[{ epoch }], [gap], [gap]]);
    await Bun.sleep(150); // longer than the next check takes
    expect([cursor, ...subscriptions].flatMap((one) => one.poll() as unknown[])).toEqual([]);
    await second.close();
    const third = await space.join(EVENTS);
    await until(
      () => cursor.poll().some((item) => "epoch" in item && item.epoch === third.epoch),
      "it is reported again",
    );
    const reopened = await space.observe();
    expect([reopened.epoch, reopened.isCurrent]).toEqual([third.epoch, true]);
  });

  test("that is moved away, or replaced by a file that is not a fleet's, is not current, for a member too", async () => {
    await using space = new FleetSpace();
    const member = await space.join(EVENTS);
    const observer = await space.observe();
    renameSync(space.file, `${space.file}.away`);
    expect([member.isCurrent, observer.isCurrent]).toEqual([false, false]);
    writeFileSync(space.file, Buffer.alloc(64, 1));
    expect([member.isCurrent, observer.isCurrent]).toEqual([false, false]);
    expect(observer.ring("events").cursor().poll()).toEqual([]); // there is no epoch to report
    renameSync(`${space.file}.away`, space.file);
    expect([member.isCurrent, observer.isCurrent]).toEqual([true, true]);
  });
});

test("when the event loop rejects a sleeper's descriptor, the sleeper polls until a descriptor is accepted", async () => {
  await using space = new FleetSpace();
  const [fleet, other] = [await space.join(EVENTS), await space.join()];
  const before = sockets();
  const functions = native as { sb_bridge_fd: unknown };
  const { sb_bridge_fd } = native;
  let faults = 3;
  functions.sb_bridge_fd = (bridge: Pointer): number => {
    const fd = sb_bridge_fd(bridge);
    if (faults === 0) return fd;
    faults--;
    native.sb_fd_close(fd);
    return openSync(import.meta.path, "r"); // epoll rejects a regular file
  };
  try {
    const cursor = fleet.ring("events").cursor();
    const next = cursor.next();
    await until(() => faults === 2, "the first has failed");
    await Bun.sleep(1);
    other.ring("events").publish("heard");
    expect((await next).value).toMatchObject({ event: 0 });
    expect(faults).toBeGreaterThan(0);
    const second = cursor.next();
    await until(() => faults === 0, "all have failed");
    await Bun.sleep(300); // the next descriptor is accepted meanwhile
    const own = sockets().difference(before);
    expect(own.size).toBeGreaterThan(0);
    other.ring("events").publish("heard by the bridge");
    expect((await second).value).toMatchObject({ event: 1 });
    cursor.close();
    await until(() => sockets().isDisjointFrom(own), "the sleeper's socket is closed");
  } finally {
    functions.sb_bridge_fd = sb_bridge_fd;
  }
});

test("a publish without a sleeper wakes nobody, and one wake-up covers everything published meanwhile", async () => {
  await using space = new FleetSpace();
  const fleet = await space.join(EVENTS);
  const publish = (): boolean => {
    fleet.handle.draft(8);
    return fleet.handle.publish(0, 0, 8);
  };
  const cursor = fleet.ring("events").cursor();
  expect([publish(), publish()]).toEqual([false, false]);
  expect(cursor.poll().length).toBe(2);
  await Bun.sleep(1); // longer than a sleeper's polling interval
  const next = cursor.next();
  expect(Bun.peek.status(next)).toBe("pending");
  await until(publish, "it sleeps");
  expect([publish(), publish()]).toEqual([false, false]);
  await next;
  expect(cursor.poll().length).toBeGreaterThanOrEqual(2);
});
