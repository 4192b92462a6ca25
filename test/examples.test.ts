/** Every program in examples/ runs unchanged and prints its expected output. */

import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { shows } from "./examples.ts";

const examples = resolve(import.meta.dir, "../examples");
const directory = mkdtempSync(join(tmpdir(), "slotbus-examples-"));
afterAll(() => rmSync(directory, { recursive: true }));

async function run(file: string): Promise<{ output: string; exitCode: number }> {
  const child = Bun.spawn([process.execPath, join(examples, file)], {
    env: { ...process.env, SLOTBUS_DIR: directory },
    stdout: "pipe",
    stderr: "pipe",
  });
  const [output, errors] = await Promise.all([child.stdout.text(), child.stderr.text()]);
  return { output: output + errors, exitCode: await child.exited };
}

/** Workers that another example starts. */
const WORKERS = [
  "worker.ts",
  "http-users.ts",
  "http-pages.ts",
  "shop-worker.ts",
  "stdio-worker.py",
  "stdio-worker.sh",
  "stdio-worker.ts",
];
/** Run by `bun test`. */
const TESTS = ["shop.test.ts"];

test("every example has an expectation, except the workers that another example starts", () => {
  const programs = readdirSync(examples).filter(
    (file) => file.endsWith(".ts") && ![...WORKERS, ...TESTS].includes(file),
  );
  expect(programs.sort()).toEqual(Object.keys(shows).sort());
});

for (const [file, patterns] of Object.entries(shows)) {
  test(`examples/${file} ends by itself and prints what it shows`, async () => {
    const { output, exitCode } = await run(file);
    for (const pattern of patterns) expect(output).toMatch(pattern);
    expect(exitCode).toBe(0);
    expect(readdirSync(directory)).toEqual([]);
  }, 20_000);
}

for (const file of TESTS) {
  test(`examples/${file} passes`, async () => {
    const child = Bun.spawn([process.execPath, "test", join(examples, file)], {
      env: { ...process.env, SLOTBUS_DIR: directory },
      stdio: ["ignore", "ignore", "pipe"],
    });
    const report = await child.stderr.text();
    expect([await child.exited, report.match(/^ *\d+ pass$/m)?.[0].trim()]).toEqual([0, "2 pass"]);
    expect(readdirSync(directory)).toEqual([]);
  }, 20_000);
}
