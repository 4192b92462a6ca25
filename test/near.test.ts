/** Suggestions for misspelt names. */

import { expect, test } from "bun:test";
import { nearest } from "../src/near.ts";

test("names that differ little are found, the nearest first", () => {
  expect(nearest("hepl", ["count", "held", "help", "hello"], 2)).toEqual(["held", "help", "hello"]);
  expect(nearest("instance", ["instances", "distance", "limit"])).toEqual(["instances", "distance"]);
  expect(nearest("timeout", ["limit", "name"])).toEqual([]);
});

test("a name may differ in a third of its length, or in the given number of characters", () => {
  expect(nearest("ab", ["ac"])).toEqual(["ac"]);
  expect(nearest("ab", ["cd"])).toEqual([]);
  expect(nearest("ab", ["cd"], 2)).toEqual(["cd"]);
  expect(nearest("abcdefghi", ["abcdefxyz", "abcdewxyz"])).toEqual(["abcdefxyz"]);
  expect(nearest("zzzz", ["one", "two"], Infinity)).toEqual(["one", "two"]);
});

test("case and underscores do not count, and of a long name only the start is compared", () => {
  expect(nearest("MAX_IN_FLIGHT", ["maxInFlight"])).toEqual(["maxInFlight"]);
  expect(nearest("x".repeat(1e6), ["x".repeat(64)])).toEqual(["x".repeat(64)]);
});
