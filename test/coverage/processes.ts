/**
 * Preloaded by `run.ts`, through the environment, into each Bun process that a test starts. When such a process exits, it writes
 * the lines of `src/` that it loaded and did not take into the folder $SLOTBUS_COVERAGE. Bun itself counts lines in `bun test`
 * only. These do not count: processes that a signal ends, that a test starts with an environment of its own, or compiled programs.
 */

import * as jsc from "bun:jsc";
import { appendFileSync } from "node:fs";
import { join } from "node:path";

/** Not in Bun's types. Returns `file | % of functions | % of lines | lines not taken`; throws if the file is not loaded. */
const { codeCoverageForFile } = jsc as unknown as { codeCoverageForFile(file: string, isSource: boolean): string };

const src = join(import.meta.dir, "../../src");

process.on("exit", () => {
  const reports: string[] = [];
  for (const file of new Bun.Glob("**/*.ts").scanSync(src)) {
    try {
      reports.push(codeCoverageForFile(join(src, file), false));
    } catch {} // this process has not loaded the file
  }
  appendFileSync(
    join(process.env["SLOTBUS_COVERAGE"]!, `${process.pid}.txt`),
    reports.map((line) => `${line}\n`).join(""),
  );
});
