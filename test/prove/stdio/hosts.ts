/**
 * Kills hosts at any moment of their lives: while their workers start and while they work. The workers, in a stdio pool and
 * on a bus, ignore the end of their input and SIGTERM. So do two child processes of each worker: one in its process group, one
 * outside. All descendants of a host have a mark in their environment; after one second no process with the mark may be left.
 *
 *     bun test/prove/stdio/hosts.ts [test | ci | quick | long]
 */

import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { figures, finish, problem, say, sized } from "./report.ts";

/** How long the descendants of a killed host may live, in ms. */
const AFTER_MS = 1_000;
/** Host, four launchers, four workers, two children of each. */
const WHOLE = 17;

const hosts = sized(2, 15, 100, 1_000);
const folder = mkdtempSync(join(tmpdir(), "slotbus-hosts-"));
const met = { starting: 0, busy: 0 };
let longest = 0;
let processes = 0;

function marked(mark: string): number[] {
  const all = readdirSync("/proc").filter((name) => /^\d+$/.test(name));
  return all.map(Number).filter((pid) => {
    try {
      return readFileSync(`/proc/${pid}/environ`, "latin1").includes(mark);
    } catch {
      return false; // it has ended
    }
  });
}

async function killOne(n: number): Promise<void> {
  const directory = mkdtempSync(join(folder, "host-"));
  const mark = `SLOTBUS_TEST_MARK=${directory}`;
  const host = Bun.spawn([process.execPath, join(import.meta.dir, "../../fixtures/stdio-host.ts"), `host-${n}`], {
    env: { ...process.env, SLOTBUS_DIR: directory, SLOTBUS_TEST_MARK: directory },
    stdio: ["ignore", "pipe", "inherit"],
  });
  const reader = host.stdout.getReader();
  let isBusy = false;
  const busy = reader.read().then(({ done }) => (isBusy = !done));
  if (n % 3 > 0) await busy;
  await Bun.sleep(Math.random() * (n % 3 > 0 ? 50 : 200));
  const before = marked(mark).length;
  processes = Math.max(processes, before);
  met[isBusy ? "busy" : "starting"]++;
  if (isBusy && before < WHOLE) problem("leaked", `host ${n}: only ${before} processes, this proves nothing`);
  host.kill("SIGKILL");
  await host.exited;
  figures.kills++;
  const from = performance.now();
  let left = marked(mark);
  while (left.length > 0 && performance.now() - from < AFTER_MS) {
    await Bun.sleep(5);
    left = marked(mark);
  }
  longest = Math.max(longest, performance.now() - from);
  for (const pid of left) {
    problem("leaked", `host ${n} left process ${pid}`);
    process.kill(pid, "SIGKILL");
  }
  rmSync(directory, { recursive: true });
}

for (let n = 0; n < hosts; n++) await killOne(n);
say(
  `${hosts} hosts killed, ${met.starting} while their workers started, ${met.busy} while they worked; at most ` +
    `${processes} processes, all gone after ${longest.toFixed(0)} ms at most`,
);
for (const [when, count] of Object.entries(met)) if (count === 0) problem("leaked", `no host was killed while ${when}`);
rmSync(folder, { recursive: true });
finish();
