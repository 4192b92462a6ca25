/** The `slotbus` command as its user runs it. */

import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Row } from "../src/cli/bench.ts";

const root = join(import.meta.dir, "..");

function slotbus(...args: string[]): { code: number; out: string; err: string } {
  const { exitCode, stdout, stderr } = Bun.spawnSync([process.execPath, join(root, "src/cli/slotbus.ts"), ...args], {
    stdin: "ignore",
  });
  return { code: exitCode, out: stdout.toString(), err: stderr.toString() };
}

test("without a command, and with --help, it says what there is; --version is the package's", () => {
  const help = slotbus();
  expect([help.code, help.out]).toEqual([0, slotbus("--help").out]);
  expect(help.out).toContain("bench");
  const { version } = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as { version: string };
  expect(slotbus("--version").out).toBe(`${version}\n`);
  expect(slotbus("bench", "--help").out).toContain("--payload");
});

test("what cannot be meant is one line on stderr and exit code 2", () => {
  for (const args of [
    ["bensh"],
    ["bench", "--fast"],
    ["bench", "--quick", "--short"],
    ["bench", "--payload", "3"],
    ["bench", "--payload", "17m"],
    ["bench", "--payload", "64,x"],
    ["bench", "--in-flight", "0"],
    ["bench", "--in-flight", "257"],
    ["bench", "--against", "carrier-pigeon"],
    ["bench", "--against", "slotbus"],
    ["bench", "left", "over"],
  ]) {
    const { code, out, err } = slotbus(...args);
    expect([args, code, out]).toEqual([args, 2, ""]);
    expect(err).toMatch(/^slotbus: [^\n]+\n$/);
  }
});

test("bench --json prints the rows that were asked for and nothing else", () => {
  const flags = ["--short", "--json", "--payload", "64,4k", "--in-flight", "1,3", "--against", "unix-socket"];
  const { code, out, err } = slotbus("bench", ...flags);
  expect([code, err]).toEqual([0, ""]);
  const { machine, rows } = JSON.parse(out) as { machine: Record<string, unknown>; rows: Row[] };
  expect(machine).toMatchObject({ bun: Bun.version, mode: "short", cores: expect.any(Number) });
  expect(rows.map((row) => [row.system, row.case, row.payload_bytes, row.in_flight])).toEqual([
    ["slotbus", "rtt", 64, 1],
    ["unix-socket", "rtt", 64, 1],
    ["slotbus", "throughput", 64, 3],
    ["unix-socket", "throughput", 64, 3],
    ["slotbus", "rtt", 4096, 1],
    ["unix-socket", "rtt", 4096, 1],
    ["slotbus", "throughput", 4096, 3],
    ["unix-socket", "throughput", 4096, 3],
  ]);
  for (const row of rows) {
    expect(row.p50_us).toBeGreaterThan(0);
    expect(row.p90_us).toBeGreaterThanOrEqual(row.p50_us);
    expect(row.p99_us).toBeGreaterThanOrEqual(row.p90_us);
    expect(row.requests_per_second).toBeGreaterThan(0);
  }
  // Thousands of requests are sent to either system in rounds of 100 ms, so the last percentile is known of ours.
  expect(rows[0]!.p999_us).toBeGreaterThanOrEqual(rows[0]!.p99_us);
}, 60_000);

test("bench draws a table for people", () => {
  const { code, out } = slotbus("bench", "--short", "--in-flight", "1", "--against", "none");
  expect(code).toBe(0);
  expect(out).toMatch(/^slotbus +[\d.]+ +[\d.]+ +[\d.]+/m);
  expect(out).toContain("Round trip, 64 B");
}, 60_000);
