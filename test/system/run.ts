/**
 * Runs the checks that need Debian's tools or root. A check passes, fails, or lacks a tool or right. The run succeeds only if
 * every check passes. `test/system/install.sh` installs the tools.
 *
 *     bun test/system/run.ts ["part of a check's sentence"]
 */

import { checks as browser } from "./browser.ts";
import { type Checks, Lacking, takeNotes } from "./checks.ts";
import { checks as clocks } from "./clocks.ts";
import { checks as containers } from "./containers.ts";
import { checks as crossBuild } from "./crossbuild.ts";
import { checks as descriptors } from "./descriptors.ts";
import { checks as installed } from "./installed.ts";
import { checks as memory } from "./memory.ts";
import { checks as nginx } from "./nginx.ts";
import { checks as packaged } from "./package.ts";
import { checks as processes } from "./processes.ts";
import { checks as reference } from "./reference.ts";
import { checks as sanitizers } from "./sanitizers.ts";
import { checks as silence } from "./silence.ts";
import { checks as stdio } from "./stdio.ts";
import { checks as syscalls } from "./syscalls.ts";
import { checks as systemd } from "./systemd.ts";
import { checks as users } from "./users.ts";
import { checks as versions } from "./versions.ts";

const checks: Checks = {
  ...sanitizers,
  ...crossBuild,
  ...packaged,
  ...reference,
  ...installed,
  ...silence,
  ...syscalls,
  ...memory,
  ...users,
  ...descriptors,
  ...processes,
  ...containers,
  ...versions,
  ...clocks,
  ...browser,
  ...nginx,
  ...stdio,
  ...systemd,
};

const counts = { passed: 0, failed: 0, lacking: 0 };
for (const [sentence, check] of Object.entries(checks)) {
  if (!sentence.includes(process.argv[2] ?? "")) continue;
  const start = performance.now();
  let verdict: keyof typeof counts = "passed";
  let why = "";
  try {
    await check();
  } catch (error) {
    verdict = error instanceof Lacking ? "lacking" : "failed";
    why = `\n${(error as Error).message}`;
  }
  counts[verdict]++;
  const seconds = ((performance.now() - start) / 1000).toFixed(1);
  const more = [...takeNotes(), why].filter((text) => text !== "").join("\n");
  process.stdout.write(
    `${verdict.padEnd(7)} ${sentence} (${seconds} s)${more && `\n${more.trim()}`.replaceAll("\n", "\n     ")}\n`,
  );
}
const lacking = counts.lacking > 0 ? `, ${counts.lacking} lacking` : "";
process.stdout.write(`${counts.passed} passed, ${counts.failed} failed${lacking}\n`);
process.exit(counts.failed + counts.lacking > 0 || counts.passed === 0 ? 1 : 0);
