/** A program made by `bun build --compile` is its own worker. */

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { findLauncher, findLibrary } from "../src/native/find.ts";

const source = join(import.meta.dir, "fixtures/compiled");
const folder = mkdtempSync(join(tmpdir(), "slotbus-compile-"));
const directory = join(folder, "run");
const program = join(folder, "program");
mkdirSync(directory, { mode: 0o700 });
afterAll(() => rmSync(folder, { recursive: true }));

/** Each program is 100 MB, so a test has one at a time. */
async function compile(options: string[], ...files: string[]): Promise<void> {
  const sources = files.map((file) => join(source, file));
  const command = [process.execPath, "build", "--compile", ...options, ...sources, "--outfile", program];
  const build = Bun.spawn(command, { cwd: folder, stdio: ["ignore", "ignore", "pipe"] });
  const errors = await build.stderr.text();
  expect([await build.exited, errors]).toEqual([0, errors]);
}

/** Runs a program of `fixtures/compiled/main.ts`. */
async function run(which: string): Promise<{ said: unknown; errors: string; exitCode: number }> {
  const given = { SLOTBUS_DIR: directory, SLOTBUS_LIB: findLibrary(), SLOTBUS_LAUNCHER: findLauncher()! };
  const child = Bun.spawn([program, which], {
    cwd: "/",
    env: { ...process.env, ...given },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const [text, errors, exitCode] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  expect(readdirSync(directory)).toEqual([]);
  return { said: text === "" ? null : JSON.parse(text), errors, exitCode };
}

for (const options of [[], ["--minify", "--sourcemap"], ["--minify", "--bytecode", "--format=esm"]]) {
  describe(`compiled with ${options.join(" ") || "nothing else"}`, () => {
    beforeAll(() => compile(options, "main.ts", "jobs/worker.ts"), 60_000);

    /** The main file runs once: workers print nothing. */
    const shows = (which: string, expected: unknown): void =>
      test(
        which,
        async () => {
          expect(await run(which)).toEqual({ said: expected, errors: "main runs\n", exitCode: 0 });
        },
        60_000,
      );
    const entry = "/$bunfs/root/jobs/worker.js";
    shows("who", [[entry, "a", "b"], [entry, "a", "b"], true, false, '"nothing"']);
    shows("dies", [expect.stringMatching(/^Worker pid \d+ exited with code 7 after /), true]);
    if (options.length > 0) return;
    shows("names", [
      2,
      1,
      'workers.entry is "/$bunfs/root/jobs/missing.ts"; the compiled program does not contain it (' +
        "/$bunfs/root/jobs/missing.js). Add the file to the build, as in `bun build --compile main.ts worker.ts`, and " +
        'pass `import.meta.resolve("./worker.ts")`.',
    ]);
    shows("recycles", true);
    shows("grows", "grew and shrank");
    shows("stops", [expect.stringMatching(/^\d+$/), ["SIGTERM", "SIGTERM"]]);
    shows("fails", [
      expect.stringMatching(
        /^Worker 0 of pool "\S+" ended before it was ready \(the main file .*: it exited with code 1/,
      ),
      expect.stringContaining("error: no database"),
    ]);
  });
}

test("a program whose parts share slotbus names the flags it needs to be compiled", async () => {
  await compile(["--splitting"], "main.ts", "jobs/worker.ts");
  const { errors, exitCode } = await run("who");
  expect(errors).toContain("Compile it without `--splitting` and `--external`.");
  expect(exitCode).toBe(1);
}, 60_000);
