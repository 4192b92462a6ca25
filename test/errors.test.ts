/** What errors say about times, names and users. */

import { expect, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import * as errors from "../src/errors.ts";
import { Fleet } from "../src/events/index.ts";
import { HubWorker } from "../src/hub/index.ts";
import { SlotBus, SlotWorker } from "../src/index.ts";
import { StdioBus } from "../src/stdio/index.ts";
import { fixture } from "./stdio-stage.ts";
import { rejection, Workspace } from "./support.ts";

test("a time in a message is a whole number, also when it was computed from fractions", () => {
  const ms = 1499.9999999999998;
  const subject = { kind: "leader", label: "x" };
  const end = { worker: 0, life: 1, pid: 1, exitCode: 1, signal: null, oomKills: null, stderrTail: "" };
  const all = [
    new errors.BusNotFoundError("shop", "/tmp", ms),
    new errors.NoWorkerError("shop", ms),
    new errors.NotReadyError("shop", ms, 0, 1, [], null),
    new errors.RequestTimeoutError("1", ms, ms, ms, true),
    new errors.RequestTimeoutError("1", ms, ms, ms, false),
    new errors.StreamTimeoutError("1", "idle", ms, 0),
    new errors.StreamTimeoutError("1", "deadline", ms, 0),
    new errors.ClaimTimeoutError(subject, ms, { subject, owner: "a", token: 1, pid: 1 }),
    new errors.WorkerDiedError(null, 1, { ...end, uptimeMs: ms, how: "itself" }, true),
  ];
  for (const { message } of all) expect(message.match(/\S+ ms/g)).toContain("1500 ms");
  for (const { message } of all) expect(message).not.toContain("1499");
  for (const file of readdirSync(join(import.meta.dir, "../src/errors"))) {
    const source = readFileSync(join(import.meta.dir, "../src/errors", file), "utf8");
    const times = source.match(/\$\{[^}]*\} ms\b/g) ?? [];
    expect(times).toEqual(file === "base.ts" ? ["${Math.round(ms)} ms"] : []);
  }
});

test("a timed out request gives its caller's number, in every API with a timeout", async () => {
  await using space = new Workspace();
  const { bus } = await space.pair(() => new Promise<never>(() => {}));
  await using stdio = await StdioBus.start({ pools: [fixture("stdio-worker.ts")] });
  const said = async (asked: Promise<unknown>): Promise<string> => {
    const error = await rejection(asked);
    expect(error).toBeInstanceOf(errors.RequestTimeoutError);
    return /timed out after (\S+ ms)/.exec(error.message)![1]!;
  };
  const body = (): ReadableStream<Uint8Array> =>
    new ReadableStream({
      async start(controller) {
        for (let i = 0; i < 20; i++) {
          controller.enqueue(new Uint8Array(1));
          await Promise.resolve();
        }
        const until = performance.now() + 5;
        while (performance.now() < until); // time passes before the request is made
        controller.close();
      },
    });
  const asked = Array.from({ length: 16 }, (_, i) => [
    said(bus.request({ path: "/" }, { timeout: 31 + i })),
    said(bus.fetch("/", { timeout: 31 + i, method: "POST", body: body() })),
    said(stdio.request("sleep", { ms: 60_000 }, { timeout: 31 + i })),
  ]);
  for (const [i, each] of asked.entries()) {
    expect(await Promise.all(each)).toEqual(Array.from({ length: 3 }, () => `${31 + i} ms`));
  }
});

test("a missing name is not printed as undefined, and the error names SLOTBUS_NAME where it is read", async () => {
  for (const [start, said] of [
    [(options: object) => SlotBus.create(options as never), "The name of the bus is missing. Pass `name`."],
    [
      (options: object) => SlotWorker.open(options as never),
      "The name of the bus is missing. Pass `name`, or set SLOTBUS_NAME.",
    ],
    [(options: object) => Fleet.join(options as never), "The name of the fleet is missing. Pass `name`."],
    [(options: object) => Fleet.observe(options as never), "The name of the fleet is missing. Pass `name`."],
    [(options: object) => HubWorker.start(options as never), "The name of the worker is missing. Pass `name`."],
  ] as const) {
    const error = await rejection(start({}));
    expect(error).toBeInstanceOf(errors.InvalidConfigError);
    expect(error.message).toBe(said);
  }
  const error = await rejection(HubWorker.start({ name: "a b", routes: {} }));
  expect(error.message).toStartWith('"a b" is not a valid worker name.');
});

test("a message ends with the standard error of the process, from its last error on", () => {
  const report = {
    worker: 0,
    life: 1,
    pid: 7,
    exitCode: 1,
    signal: null,
    uptimeMs: 20,
    oomKills: null,
    how: "itself",
  } as const;
  const message = (stderrTail: string): string =>
    new errors.WorkerStartError("a", 0, "ended before it was ready", { ...report, stderrTail }, { hint: "Do this." })
      .message;
  const start = 'Worker 0 of pool "a" ended before it was ready: it exited with code 1 after 20 ms. Do this.';
  expect(message("")).toBe(start);
  expect(message("one\ntwo\n")).toBe(`${start}\nIts standard error ended with:\none\ntwo`);
  expect(message("x".repeat(2_000))).toBe(`${start}\nIts standard error ended with:\n${"x".repeat(512)}`);
  const stack = Array.from({ length: 40 }, (_, n) => `      at call (/file-${n}.ts:1:1)`).join("\n");
  expect(message(`noise\nerror: The name is missing.\n${stack}\n`)).toStartWith(
    `${start}\nIts standard error ended with:\nerror: The name is missing.\n      at call`,
  );
});
