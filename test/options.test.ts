/** Options of a bus: every wrong value gets one clear error, in TypeScript and again in C. */

import { expect, test } from "bun:test";
import { resolveBusOptions } from "../src/bus/options.ts";
import { checkTimeout } from "../src/check.ts";
import { checkName } from "../src/runtime-directory.ts";
import { InvalidConfigError, InvalidNameError, SlotBus, SlotWorker } from "../src/index.ts";
import { C, cString, native } from "../src/native/library.ts";
import { rejection, Workspace } from "./support.ts";

const badNames = [
  "",
  "a/b",
  "..",
  "../x",
  "../../../x",
  ".hidden",
  "-dash",
  "a\0b",
  "naïve",
  "日本",
  "a b",
  "a\n",
  "x".repeat(65),
];

test("names that could be a path, or no file name, are refused by both layers, and nothing is made", async () => {
  await using space = new Workspace(); // expects its directory to be empty at the end
  for (const name of badNames) {
    expect(() => checkName(name)).toThrow(InvalidNameError);
    const options = { name, directory: space.directory };
    expect(await rejection(SlotBus.create(options))).toBeInstanceOf(InvalidNameError);
    expect(await rejection(SlotWorker.open(options))).toBeInstanceOf(InvalidNameError);
    if (name.includes("\0")) continue; // a C string ends there
    const dir = native.sb_dir_open(cString(space.directory), 0, 0);
    expect(native.sb_name_check(cString(name))).toBe(-C.SB_ENAME);
    expect(native.sb_name_lock(dir, cString(name), new Uint32Array(1))).toBe(-C.SB_ENAME);
    expect(native.sb_worker_open(dir, cString(name), 1)).toBeNull();
    expect(native.sb_error_last()).toBe(-C.SB_ENAME);
    native.sb_fd_close(dir);
  }
  for (const name of [undefined, null, 7]) expect(() => checkName(name)).toThrow(InvalidNameError);
});

test("names of 1 and of 64 characters work", async () => {
  await using space = new Workspace();
  for (const name of ["a", "A.b_c-9".padEnd(64, "x")]) {
    const bus = await space.bus({ name });
    const worker = await space.worker((request) => request.path, { name });
    expect((await bus.request({ path: "/" })).text()).toBe("/");
    await worker.close();
    await bus.close();
  }
});

const bad: [object, RegExp][] = [
  [{ slots: 0 }, /slots is 0; .* 1 to 256/],
  [{ slots: 257 }, /slots is 257/],
  [{ slots: 1.5 }, /slots is 1.5; it must be a whole number/],
  [{ slots: "8" }, /slots is "8"/],
  [{ payloadLimit: 0 }, /payloadLimit is 0/],
  [{ payloadLimit: C.SB_PAYLOAD_MAX + 1 }, /payloadLimit is 1073741825; .* 1 to 1073741824 bytes/],
  [{ headLimit: 1023 }, /headLimit is 1023/],
  [{ inlineSize: 0 }, /inlineSize is 0/],
  [{ timeout: -1 }, /timeout is -1/],
  [{ timeout: NaN }, /timeout is NaN/],
  [{ queue: { limit: -1 } }, /queue.limit is -1/],
  [{ queue: { policy: "drop" } }, /queue.policy is "drop"/],
  [{ spin: -1 }, /spin is -1/],
  [{ allowedUids: [1] }, /allowedUids needs an explicit `directory`/],
  [{ allowedUids: [-1], directory: "/tmp" }, /allowedUids is -1/],
];
for (const [options, message] of bad) {
  test(`${JSON.stringify(options)} is refused with the fact and the range`, async () => {
    const error = await rejection(SlotBus.create({ name: "x", ...options }));
    expect(error).toBeInstanceOf(InvalidConfigError);
    expect(error.message).toMatch(message);
  });
}

test("the extremes that are allowed work: 1 and 256 slots, 1 byte, 1 GiB", async () => {
  await using space = new Workspace();
  for (const options of [
    { slots: 1, payloadLimit: 1 },
    { slots: 256, payloadLimit: 4096 },
    { slots: 256, payloadLimit: C.SB_PAYLOAD_MAX },
  ]) {
    const bus = await space.bus(options);
    const worker = await space.worker((request) => request.body);
    const all = await Promise.all(Array.from({ length: 300 }, () => bus.request({ path: "/", body: "x" })));
    expect(all.every((response) => response.text() === "x")).toBe(true);
    await worker.close();
    await bus.close();
  }
});

test("no timeout is 0 inside, however it is written", () => {
  expect([checkTimeout("t", Infinity), checkTimeout("t", 0), checkTimeout("t", 0.2)]).toEqual([0, 0, 1]);
  expect(resolveBusOptions({ name: "x", timeout: Infinity }).timeout).toBe(0);
});
