/** Pauses between attempts. */

import { expect, test } from "bun:test";
import { backoff, shorten } from "../src/backoff.ts";
import { systemClock } from "../src/clock.ts";

const pauses = { initial: 10, max: 1_000 };

test("a pause doubles up to the longest, also after very many attempts", () => {
  const all = [0, 1, 2, 6, 7, 1e9].map((attempt) => backoff(attempt, pauses, () => 0));
  expect(all).toEqual([10, 20, 40, 640, 1_000, 1_000]);
  expect(backoff(2, { ...pauses, factor: 3 }, () => 0)).toBe(90);
});

test("jitter takes at most half of a pause away, or the given part", () => {
  expect([0, 0.5, 1].map((chance) => backoff(7, pauses, () => chance))).toEqual([1_000, 750, 500]);
  expect([0, 0.5, 1].map((chance) => backoff(7, { ...pauses, jitter: 0.2 }, () => chance))).toEqual([1_000, 900, 800]);
  expect([0, 1].map((chance) => shorten(50, 0.1, () => chance))).toEqual([50, 45]);
});

test("without a given random source, two processes have different pauses", () => {
  const all = new Set(Array.from({ length: 100 }, () => backoff(0, pauses, systemClock.random)));
  expect(all.size).toBeGreaterThan(50);
  for (const ms of all) expect(ms).toBeWithin(5, 10.001);
});
