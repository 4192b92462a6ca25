/** `slotbus/nats` without a server: options, names, and what fails clearly. test/system/nats.ts has the checks with a server. */

import { expect, test } from "bun:test";
import { SlotBus, SlotWorker } from "../src/index.ts";
import type { SlotbusError } from "../src/errors.ts";
import { NatsLink } from "../src/nats/link.ts";
import { nats } from "../src/nats/index.ts";
import { BusSubjects, checkPrefix, makeId, nameOf, tokenOf } from "../src/nats/subjects.ts";
import { rejection } from "./support.ts";

test("a name with dots is one token of a subject, and two names have two tokens", () => {
  for (const name of ["shop", "shop.eu", "a.b.c_-9"]) {
    expect(tokenOf(name)).not.toContain(".");
    expect(nameOf(tokenOf(name))).toBe(name);
  }
  expect(tokenOf("a.b")).not.toBe(tokenOf("a_b"));
});

test("only private subjects of the other side of the same bus are taken as replies", () => {
  const subjects = new BusSubjects("slotbus", "shop.eu");
  const [one, other] = [makeId(), makeId()];
  expect(subjects.worker(one, other)).toBe(`slotbus.shop~eu.w.${one}.${other}`);
  const { clients, workers } = subjects;
  expect(subjects.isPrivate(workers, subjects.worker(one), 1)).toBe(true);
  expect(subjects.isPrivate(workers, subjects.worker(one, other), 2)).toBe(true);
  for (const [base, subject, tokens] of [
    [workers, subjects.client(one), 1], // its own side
    [clients, subjects.worker(one, other), 2],
    [workers, subjects.worker(one), 2],
    [workers, subjects.worker(one, other), 1],
    [workers, `${workers}.*`, 1],
    [workers, `${workers}.>`, 1],
    [workers, `${workers}.short`, 1],
    [workers, `slotbus.shop.w.${one}`, 1], // another bus
    [workers, "$JS.API.STREAM.DELETE.orders", 1],
    [workers, undefined, 1],
  ] as const)
    expect([subject, subjects.isPrivate(base, subject, tokens)]).toEqual([subject, false]);
});

test("create is refused before it connects, with the name of the method that works", async () => {
  const via = nats({ servers: "127.0.0.1:1" });
  const error = await rejection(SlotBus.create({ name: "shop", via }));
  expect(error).toMatchObject({ code: "UNSUPPORTED", hint: expect.stringContaining("SlotBus.connect") });
});

test("a bus and a worker without a server reject with one clear error; a worker waits for as long as its timeout says", async () => {
  const via = nats({ servers: "127.0.0.1:1" });
  expect(await rejection(SlotBus.connect({ name: "shop", via }))).toMatchObject({ code: "DISCONNECTED" });
  const start = performance.now();
  expect(await rejection(SlotWorker.open({ name: "shop", via, timeout: 100 }))).toMatchObject({ code: "DISCONNECTED" });
  expect(performance.now() - start).toBeGreaterThan(90);
});

test("a prefix has no wildcards and no empty tokens", () => {
  for (const prefix of ["slotbus", "shop.eu", "a-b_9"]) expect(checkPrefix(prefix)).toBe(prefix);
  for (const prefix of ["", ".", "a..b", "a.*", ">", "a b", "$SYS", "a.", 7, "x".repeat(129)]) {
    expect(() => nats({ prefix: prefix as string })).toThrow("prefix is");
  }
});

test("a server that is not there is one clear error, that may be retried, for each user", async () => {
  const via = nats({ servers: "127.0.0.1:1", timeout: 1_000 });
  for (let n = 0; n < 2; n++) {
    const error = await rejection(via.link.enter());
    expect(error).toMatchObject({ code: "DISCONNECTED", retryable: true, mayHaveExecuted: false });
    expect((error as Error).message).toContain("127.0.0.1:1");
    expect((error as SlotbusError).hint).toContain("then connect again");
  }
  expect(() => via.link.connection).toThrow("The NATS server cannot be reached");
});

test("a client library that is missing is one error with the command that installs it", async () => {
  const link = new NatsLink({}, "slotbus", () => import("@nats-io/nothing" as string));
  expect(await rejection(link.enter())).toMatchObject({
    code: "UNSUPPORTED",
    hint: "Run `bun add @nats-io/transport-node` or `npm install @nats-io/transport-node`.",
  });
});
