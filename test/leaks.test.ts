/** What `leaks.ts` and `slots.ts` report: a test that leaves a timer or a slot fails, and the report names it. */

import { expect, test } from "bun:test";
import { join } from "node:path";

test("a test that leaves a timer or a slot in use fails, and the report says which", async () => {
  const child = Bun.spawn([process.execPath, "test", "--timeout=20000", "./test/fixtures/leaking.ts"], {
    cwd: join(import.meta.dir, ".."),
    stdio: ["ignore", "ignore", "pipe"],
  });
  const [report, code] = await Promise.all([child.stderr.text(), child.exited]);
  const results = [...report.matchAll(/(?:error: The test left: (.*)\n[^]*?)?\((pass|fail)\) (.*?) \[/g)];
  expect(results.length).toBe(7);
  for (const [, left = "nothing", result, name] of results) {
    const what = name!.replace(/, when .*/, "");
    expect(left).toContain(what);
    expect(result).toBe(what === "nothing" ? "pass" : "fail");
  }
  expect(code).toBe(1);
}, 60_000);
