/** Tables of options: defaults, ranges, groups, and the one error that each wrong value gets. */

import { expect, test } from "bun:test";
import { InvalidConfigError } from "../src/errors.ts";
import {
  boolean,
  bytes,
  callback,
  checkTimeout,
  choice,
  endless,
  type Given,
  group,
  integer,
  needed,
  Options,
  optional,
  orFalse,
  type Resolved,
  text,
  timeout,
} from "../src/options.ts";
import { linesOf } from "./option-lines.ts";

const rows = {
  name: needed(text(undefined, "text without spaces", (value) => !value.includes(" "))),
  slots: integer(32, 1, 256),
  payloadBytes: bytes(1_024, 1, 4_096),
  timeout: timeout(30_000),
  wait: timeout(5_000, 0),
  maxAge: endless(Infinity, 1, 10, " ms"),
  replace: boolean(false),
  port: optional(integer(undefined, 0, 65_535)),
  onLine: callback<(line: string) => void>(),
  queue: group({ limit: integer(8, 0, 16), policy: choice("reject", ["reject", "wait"]) }),
  ping: orFalse(group({ interval: integer(10, 1, 100, " ms") })),
};
const table = new Options("a thing", rows);
type ThingOptions = Given<typeof rows>;
type Thing = Resolved<typeof rows>;

function problemOf(given: object): string {
  try {
    table.resolve(given as ThingOptions);
  } catch (error) {
    expect(error).toBeInstanceOf(InvalidConfigError);
    return (error as Error).message;
  }
  throw new Error("nothing was wrong with it");
}

test("omitted options get their defaults, in groups too", () => {
  const thing: Thing = table.resolve({ name: "x", queue: { limit: 3 } });
  expect(thing).toEqual({
    name: "x",
    slots: 32,
    payloadBytes: 1_024,
    timeout: 30_000,
    wait: 5_000,
    maxAge: Infinity,
    replace: false,
    port: null,
    onLine: null,
    queue: { limit: 3, policy: "reject" },
    ping: { interval: 10 },
  });
});

test("false turns an option off where possible, and Infinity means no limit", () => {
  const { ping, timeout: limit } = table.resolve({ name: "x", ping: false, timeout: Infinity });
  expect([ping, limit]).toEqual([null, Infinity]);
});

test("the values of a base apply where nothing was given", () => {
  const base = table.resolve({ name: "base", slots: 4, queue: { limit: 1, policy: "wait" } });
  const thing = table.resolve({ name: "x", queue: { limit: 2 } }, { at: "pools[0]", base });
  expect([thing.name, thing.slots, thing.queue]).toEqual(["x", 4, { limit: 2, policy: "wait" }]);
});

const wrong: [object, string][] = [
  [{}, "name is undefined; it must be text without spaces."],
  [{ name: "a b" }, 'name is "a b"; it must be text without spaces.'],
  [{ slots: 0 }, "slots is 0; it must be a whole number from 1 to 256."],
  [{ slots: 1.5 }, "slots is 1.5; it must be a whole number from 1 to 256."],
  [{ payloadBytes: 5_000 }, "payloadBytes is 5000; it must be a whole number from 1 to 4096 bytes."],
  [{ timeout: 0 }, "timeout is 0; it must be 1 to 4294967295 ms, or Infinity."],
  [{ wait: -1 }, "wait is -1; it must be 0 to 4294967295 ms, or Infinity."],
  [{ maxAge: 11 }, "maxAge is 11; it must be a whole number from 1 to 10 ms, or Infinity."],
  [{ replace: 1 }, "replace is 1; it must be true or false."],
  [{ onLine: "x" }, 'onLine is "x"; it must be a function.'],
  [{ queue: 3 }, "`queue` is 3; it must be an object such as { limit, policy }."],
  [{ queue: { policy: "drop" } }, 'queue.policy is "drop"; it must be one of reject, wait.'],
  [{ queue: { limt: 3 } }, 'queue has no option "limt". Did you mean limit?'],
  [{ slot: 3 }, 'a thing has no option "slot". Did you mean slots?'],
];

test("each wrong value gets one error that names the option, the value and the range", () => {
  for (const [given, message] of wrong)
    expect(problemOf({ ...("name" in given || message.startsWith("name") ? {} : { name: "x" }), ...given })).toBe(
      message,
    );
});

test("the lines of a table name every option with its default and its range", () => {
  const lines = linesOf(rows).map(({ name, fallback, range }) => `${name} | ${fallback} | ${range}`);
  expect(lines).toContain("name | — | text without spaces");
  expect(lines).toContain('queue.policy | "reject" | "reject", "wait"');
  expect(lines).toContain("ping.interval | 10 | 1 to 100 ms");
  expect(lines).toContain("maxAge | Infinity | 1 to 10 ms, or Infinity");
  expect(lines).toContain("port | none | 0 to 65535");
});

test("the timeout of a call may be 0, and is rounded up", () => {
  expect([0, 0.2, 5, Infinity].map((ms) => checkTimeout(ms))).toEqual([0, 1, 5, Infinity]);
  for (const ms of [-1, Number.NaN, "5", null, 2 ** 32]) expect(() => checkTimeout(ms)).toThrow(InvalidConfigError);
});
