/** Measured times, as percentiles. */

import { expect, test } from "bun:test";
import { Latencies } from "../src/latency.ts";

test("percentiles are at most one percent above the measured time, from a microsecond to weeks", () => {
  for (const scale of [0.001, 0.1, 1, 1_000, 4e6]) {
    const latencies = new Latencies();
    for (let i = 1; i <= 1_000; i++) latencies.add(((i * 7) % 1_000 || 1_000) * scale);
    expect(latencies.count).toBe(1_000);
    for (const percent of [0.1, 50, 90, 99, 99.9, 100]) {
      const exact = percent * 10 * scale;
      expect(latencies.percentile(percent)).toBeWithin(exact - 1e-9, exact * 1.01 + 1e-9);
    }
  }
});

test("a time of 0 and a time above the range count as the shortest and the longest", () => {
  const latencies = new Latencies();
  latencies.add(0);
  latencies.add(Number.MAX_VALUE);
  expect(latencies.count).toBe(2);
  expect(latencies.percentile(50)).toBe(0.001);
  expect(latencies.percentile(100)).toBeWithin(0xffff_ffff, 0xffff_ffff * 1.01);
});

test("before the first measurement, and after a reset, every percentile is 0", () => {
  const latencies = new Latencies();
  expect([latencies.count, latencies.percentile(50), latencies.percentile(100)]).toEqual([0, 0, 0]);
  latencies.add(5);
  latencies.reset();
  expect([latencies.count, latencies.percentile(50), latencies.percentile(100)]).toEqual([0, 0, 0]);
});
