/** Every program in examples/ runs as it stands and prints what it is there to show. */

import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";

const examples = resolve(import.meta.dir, "../examples");
const directory = mkdtempSync(join(tmpdir(), "slotbus-examples-"));
afterAll(() => rmSync(directory, { recursive: true }));

const shows: Record<string, RegExp[]> = {
  "client.ts": [/hello Ada, from process \d+/, /1 \+ 2 \+ 3 = 6/, /NO_WORKER: bus "shop" had no worker/],
  "fetch.ts": [/200/, /path: "\/users"/, /name: "Ada"/],
  "blocking.ts": [/12 squared is 144/],
  "tokens.ts": [/read: Why is a good question, $/m],
  "typed.ts": [/hi Ada/, /1\n2\n3/, /nothing has id 7/],
  "cache.ts": [/^process (\d+) forgets user:7\nprocess (?!\1 )\d+ forgets user:7$/m],
  "events.ts": [/^order\.paid 7\norder\.sent 7$/m],
  "claim.ts": [/^2041 is ours, under token \d+$/m],
  "leader.ts": [/^\d+ leads$/m, /(\d+) was killed; (?!\1 )\d+ leads with a higher token/],
  "jobs.ts": [/^3 workers did 4 jobs: invoice-1, invoice-2, invoice-3, invoice-4$/m],
  "http-hub.ts": [/^\/users\/7: 200 \{"id":"7"\}$/m, /^\/pages\/hello: 200 hello, hello$/m],
  "stdio.ts": [
    /^mean 3$/m,
    /primes so far \[ ?2, 3, 5, 7 ?\]/,
    /^mean of nothing: division by zero$/m,
    /^kernel Linux \S+$/m,
    /^hello hello Ada, user 7\ncounted to 1\ncounted to 2\ncounted to 3$/m,
    /^kernel again string$/m,
  ],
  "hello-bus.ts": [/^hello Ada false$/m],
  "hello-hub.ts": [/^hello Ada false$/m],
  "hello-events.ts": [/^hello Ada false$/m],
  "hello-contest.ts": [/^hello Ada false$/m],
  "hello-stdio.ts": [/^hello Ada false$/m],
  "in-place.ts": [/image\/raw 8388608 7/],
};

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

test("every example has an expectation, but for the workers that another one starts", () => {
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
