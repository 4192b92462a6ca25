/** Options of a bus: every wrong value gets one clear error, in TypeScript and again in C. */

import { expect, test } from "bun:test";
import { resolveBusOptions } from "../src/bus/options.ts";
import { checkName } from "../src/runtime-directory.ts";
import { contract, InvalidConfigError, rpc, SlotBus, SlotWorker, stream } from "../src/index.ts";
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

test("names that could be a path, or are not file names, are refused by both layers, and no file is made", async () => {
  await using space = new Workspace(); // expects its directory to be empty at the end
  for (const name of badNames) {
    expect(() => checkName(name)).toThrow(InvalidConfigError);
    const options = { name, directory: space.directory };
    expect(await rejection(SlotBus.create(options))).toBeInstanceOf(InvalidConfigError);
    expect(await rejection(SlotWorker.open(options))).toBeInstanceOf(InvalidConfigError);
    if (name.includes("\0")) continue; // a C string ends there
    const dir = native.sb_dir_open(cString(space.directory), 0, 0);
    expect(native.sb_name_check(cString(name))).toBe(-C.SB_ENAME);
    expect(native.sb_name_lock(dir, cString(name), new Uint32Array(1))).toBe(-C.SB_ENAME);
    expect(native.sb_worker_open(dir, cString(name), 1)).toBeNull();
    expect(native.sb_error_last()).toBe(-C.SB_ENAME);
    native.sb_fd_close(dir);
  }
  for (const name of [undefined, null, 7]) expect(() => checkName(name)).toThrow(InvalidConfigError);
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
  [{ payloadBytes: 0 }, /payloadBytes is 0/],
  [{ payloadBytes: C.SB_PAYLOAD_MAX + 1 }, /payloadBytes is 1073741825; .* 1 to 1073741824 bytes/],
  [{ headBytes: 1023 }, /headBytes is 1023/],
  [{ inlineBytes: 0 }, /inlineBytes is 0/],
  [{ timeout: -1 }, /timeout is -1/],
  [{ timeout: 0 }, /timeout is 0; it must be 1 to/],
  [{ slot: 1 }, /no option "slot".*Did you mean slots\?/],
  [{ queue: { max: 1 } }, /queue has no option "max"/],
  [{ timeout: NaN }, /timeout is NaN/],
  [{ queue: { limit: -1 } }, /queue.limit is -1/],
  [{ queue: { policy: "drop" } }, /queue.policy is "drop"/],
  [{ spin: -1 }, /spin is -1/],
  [{ allowedUids: [1] }, /allowedUids requires an explicit `directory`/],
  [{ allowedUids: [-1], directory: "/tmp" }, /allowedUids is \[ ?-1 ?\]; it must be user ids/],
];
for (const [options, message] of bad) {
  test(`${JSON.stringify(options)} is refused with the fact and the range`, async () => {
    const error = await rejection(SlotBus.create({ name: "x", ...options }));
    expect(error).toBeInstanceOf(InvalidConfigError);
    expect(error.message).toMatch(message);
  });
}

test("a bus with 1 or 256 slots, and with room for 1 byte or 1 GiB in each, answers small requests", async () => {
  await using space = new Workspace();
  for (const options of [
    { slots: 1, payloadBytes: 1 },
    { slots: 256, payloadBytes: 4096 },
    { slots: 256, payloadBytes: C.SB_PAYLOAD_MAX },
  ]) {
    const bus = await space.bus(options);
    const worker = await space.worker((request) => request.body);
    const all = await Promise.all(Array.from({ length: 300 }, () => bus.request({ path: "/", body: "x" })));
    expect(all.every((response) => response.text() === "x")).toBe(true);
    await worker.close();
    await bus.close();
  }
});

test("Infinity means no timeout, and a fraction of a millisecond is rounded up", () => {
  const timeouts = [Infinity, 1.2, 5].map((timeout) => resolveBusOptions({ name: "x", timeout }).timeout);
  expect(timeouts).toEqual([Infinity, 2, 5]);
});

/** A call, with invalid options, and its error. */
const wrongCalls: [string, (bus: SlotBus, options: object) => unknown, object, RegExp][] = [
  ["request", (bus, options) => bus.request({ path: "/" }, options), { timout: 5 }, /"timout".*Did you mean timeout\?/],
  [
    "borrow",
    (bus, options) => bus.borrow({ path: "/" }, options),
    { headers: {} },
    /a request has no option "headers"/,
  ],
  ["requestSync", (bus, options) => bus.requestSync({ path: "/" }, options), { signl: 1 }, /Did you mean signal\?/],
  ["stream", (bus, options) => bus.stream({ path: "/" }, options), { idle: 0 }, /idle is 0; it must be 1 to/],
  ["stream", (bus, options) => bus.stream({ path: "/" }, options), { deadline: -1 }, /deadline is -1; it must be 1 to/],
  ["request", (bus, options) => bus.request({ path: "/" }, options), { timeout: -1 }, /timeout is -1; it must be 0 to/],
  [
    "request",
    (bus, options) => bus.request({ path: "/" }, options),
    { idempotent: 1 },
    /idempotent is 1; .*true or false/,
  ],
  ["request", (bus, options) => bus.request({ path: "/" }, options), { waitForWorker: "no" }, /waitForWorker is "no"/],
  [
    "request",
    (bus, options) => bus.request({ path: "/" }, options),
    { worker: "a" },
    /worker is "a"; .*id of a worker/,
  ],
  ["request", (bus, options) => bus.request({ path: "/" }, options), { signal: {} }, /signal is .*an AbortSignal/],
  ["request", (bus) => bus.request({ path: "/" }, 7 as never), {}, /The options of a request are 7/],
  ["request", (bus, request) => bus.request({ path: "/", ...request }), { boddy: "x" }, /"boddy".*Did you mean body\?/],
  [
    "request",
    (bus, request) => bus.request({ path: "/", ...request }),
    { timeout: 5 },
    /no field timeout\. It is an option, in the second argument/,
  ],
  ["request", (bus) => bus.request(undefined as never), {}, /a request are undefined/],
  ["fetch", (bus, options) => bus.fetch("/", options), { timeout: "1" }, /timeout is "1"/],
  [
    "ready",
    (bus, options) => bus.ready(options),
    { worker: 1 },
    /ready has no option "worker".*Did you mean workers\?/,
  ],
  ["ready", (bus, options) => bus.ready(options), { workers: 65 }, /workers is 65; .* 0 to 64/],
];
for (const [what, call, options, message] of wrongCalls) {
  test(`${what} refuses ${JSON.stringify(options)} with one error, and sends nothing`, async () => {
    await using space = new Workspace();
    const bus = await space.bus();
    const error = await rejection((async () => call(bus, options))());
    expect(error).toBeInstanceOf(InvalidConfigError);
    expect(error.message).toMatch(message);
    expect(bus.stats()).toMatchObject({ published: 0, queued: 0, unsettledAtEnd: 0 });
  });
}

test("unknown options of workers, contracts and streams are refused", async () => {
  await using space = new Workspace();
  const { bus, worker } = await space.pair(async function* () {
    yield "x";
  });
  const wrong: [() => unknown, RegExp][] = [
    [() => SlotWorker.open({ name: space.name, conc: 1 } as object), /a worker has no option "conc"/],
    [() => worker.serve(() => "x", { replaces: true } as object), /serve has no option "replaces".*mean replace\?/],
    [() => contract("c", {}, { codecs: 1 } as object), /a contract has no option "codecs".*mean codec\?/],
    [() => contract("c", {}, { version: "" }), /version is ""; it must be 1 to 64 characters/],
    [() => rpc({ imput: 1 } as object), /a method has no option "imput".*mean input\?/],
    [() => rpc({ idempotent: "yes" } as object), /idempotent is "yes"; it must be true or false/],
    [() => stream({ version: 7 } as object), /version is 7/],
    [() => bus.client(demo).hello(undefined, { header: {} } as object), /no option "header"/],
    [
      () =>
        bus
          .client(demo)
          .count(undefined, { timeuot: 1 } as object)
          .next(),
      /no option "timeuot".*mean timeout\?/,
    ],
    [async () => (await bus.stream({ path: "/" })).chunks({ inte: null } as object), /chunks has no option "inte"/],
  ];
  for (const [call, message] of wrong) {
    const error = await rejection((async () => call())());
    expect(error).toBeInstanceOf(InvalidConfigError);
    expect(error.message).toMatch(message);
  }
});

const demo = contract("demo", { hello: rpc(), count: stream<void, number>() });
