/** Lists of headers. */

import { expect, test } from "bun:test";
import { checkHeaderName, flattenHeaders, HeaderList } from "../src/bus/headers.ts";
import { InvalidConfigError } from "../src/index.ts";

const list = new HeaderList(["A", "1", "b", "2", "a", "3"]);

test("names compare without case; order and duplicates stay", () => {
  expect([list.get("a"), list.get("B"), list.get("c")]).toEqual(["1", "2", null]);
  expect([list.getAll("A"), list.getAll("c"), list.has("b"), list.has("c"), list.size]).toEqual([
    ["1", "3"],
    [],
    true,
    false,
    3,
  ]);
  expect([...list]).toEqual([
    ["A", "1"],
    ["b", "2"],
    ["a", "3"],
  ]);
  expect(JSON.stringify(list)).toBe('[["A","1"],["b","2"],["a","3"]]');
  expect(list.toHeaders().get("a")).toBe("1, 3");
});

test("changing a list's output does not change the list", () => {
  list.entries()[0]![1] = "changed";
  for (const pair of list) pair[0] = "changed";
  expect(list.get("A")).toBe("1");
});

test("pairs, records with arrays, Headers and lists are all accepted", () => {
  const flat = (headers: Parameters<typeof flattenHeaders>[0]): string[] => {
    const out: string[] = [];
    flattenHeaders(headers, out);
    return out;
  };
  expect(
    flat([
      ["a", "1"],
      ["a", "2"],
    ]),
  ).toEqual(["a", "1", "a", "2"]);
  expect(flat({ a: ["1", "2"], b: "3" })).toEqual(["a", "1", "a", "2", "b", "3"]);
  expect(
    flat(
      new Headers([
        ["a", "1"],
        ["b", "2"],
      ]),
    ),
  ).toEqual(["a", "1", "b", "2"]);
  expect(flat(list)).toEqual(["A", "1", "b", "2", "a", "3"]);
  for (const none of [7, "a: b", null, [null], [7]]) {
    expect(() => flat(none as unknown as string[][] as [string, string][])).toThrow(InvalidConfigError);
  }
});

test("names must be tokens of RFC 9110, also names in the cache", () => {
  for (let i = 0; i < 2; i++) {
    for (const good of ["a", "X-Forwarded-For", "!#$%&'*+-.^_`|~09"]) checkHeaderName(good);
    for (const bad of ["", " a", "a:", "ä", "(a)", "a\0"])
      expect(() => checkHeaderName(bad)).toThrow(InvalidConfigError);
  }
});
