/** Runs the C tests of test/native and counts them as one. */

import { expect, test } from "bun:test";
import { resolve } from "node:path";

const root = resolve(import.meta.dir, "..");

test("the native tests pass", () => {
  const zig = Bun.which("zig", { PATH: `${root}/node_modules/.bin:${process.env["PATH"]}` });
  expect(zig).not.toBeNull();
  const run = Bun.spawnSync([zig!, "build", "test"], { cwd: root, stdout: "pipe", stderr: "pipe" });
  const output = run.stdout.toString() + run.stderr.toString();
  if (run.exitCode !== 0) throw new Error(output.replaceAll(/^ok .*\n/gm, ""));
  const passed = /(\d+) passed, 0 failed/.exec(output);
  expect(Number(passed?.[1])).toBeGreaterThan(20);
}, 300_000);
