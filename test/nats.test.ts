/** `slotbus/nats` without a server: options, names, and what fails clearly. test/system/nats.ts has the checks with a server. */

import { expect, test } from "bun:test";
import { loadPackage } from "../src/nats/link.ts";
import { nats } from "../src/nats/index.ts";
import { checkPrefix, nameOf, tokenOf } from "../src/nats/subjects.ts";
import { rejection } from "./support.ts";

test("a name with dots is one token of a subject, and two names have two tokens", () => {
  for (const name of ["shop", "shop.eu", "a.b.c_-9"]) {
    expect(tokenOf(name)).not.toContain(".");
    expect(nameOf(tokenOf(name))).toBe(name);
  }
  expect(tokenOf("a.b")).not.toBe(tokenOf("a_b"));
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
  }
  expect(() => via.link.connection).toThrow("The NATS server cannot be reached");
});

test("a client library that is missing is one error with the command that installs it", async () => {
  const error = await rejection(loadPackage("@nats-io/nothing", () => import("@nats-io/nothing" as string)));
  expect(error).toMatchObject({
    code: "UNSUPPORTED",
    hint: "Run `bun add @nats-io/nothing` or `npm install @nats-io/nothing`.",
  });
});
