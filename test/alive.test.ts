/**
 * What keeps a process alive: each row of the table in docs/operations.md. Each process has one pending promise and no
 * other work: it stays, sleeps, and exits after the promise has settled, unless its object keeps it alive.
 */

import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { lives } from "./line-transport.ts";
import { until, Workspace } from "./support.ts";
import { within } from "./wait.ts";

/** Child processes at a time. They sleep. */
const CHILDREN = 8;
/** Each process at top level is watched for this long, and may use this much of it. A spin uses all of it. */
const WATCH_MS = 500;
const SHARE = 0.15;
/** A process without anything that keeps it alive exits within some ms. */
const STAYS_MS = 300;
const TICK_MS = 10; // of the kernel's accounting

interface Row {
  readonly object: string;
  readonly isKept: boolean;
  readonly cases: string[];
}

function table(): Row[] {
  const page = readFileSync(join(import.meta.dir, "../docs/operations.md"), "utf8");
  const rows = page.slice(page.indexOf("| object | keeps the process alive ")).split("\n").slice(2);
  return rows.slice(0, rows.indexOf("")).map((row) => {
    const [object = "", open = "", promises = ""] = row.split("|").slice(1, -1);
    const plain = object.replaceAll("`", "").trim();
    const names = [...promises.matchAll(/`(\w+)`/g)].map(([, name]) => name!);
    const cases = (names.length > 0 ? names : ["open"]).map((name) => `${plain}: ${name}`);
    expect(`${plain} ${open.trim().slice(0, 3)}`).toMatch(/ (yes|no[ ,;]?)/);
    return { object: plain, isKept: open.trim().startsWith("yes"), cases };
  });
}

/** Processor time of a process so far, in ms. */
function cpuMs(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[11]) + Number(fields[12])) * TICK_MS;
}

/** Processes with the directory in their environment: the child's workers, and their launchers. */
function kinOf(directory: string): number[] {
  const found = Bun.spawnSync(["sh", "-c", `grep -lzs "^SLOTBUS_DIR=${directory}$" /proc/[0-9]*/environ`]);
  return [...found.stdout.toString().matchAll(/\/proc\/(\d+)\//g)].map(([, pid]) => Number(pid));
}

/** Runs one promise in one process. Throws when the process does not behave as its row says. */
async function walk(id: string, mode: "top" | "main", isKept: boolean): Promise<void> {
  await using space = new Workspace();
  space.leftovers = ["go", "go1", `${space.name}.fleet`];
  const child = space.child("alive.ts", id, mode);
  await child.line("pending");
  const stays = async (ms: number): Promise<void> => {
    await within(child.process.exited, ms);
    expect(child.process.exitCode).toBeNull();
  };
  await stays(STAYS_MS);
  if (mode === "top") {
    const [before, from] = [cpuMs(child.pid), performance.now()];
    await stays(WATCH_MS);
    expect((cpuMs(child.pid) - before) / (performance.now() - from)).toBeLessThan(SHARE);
  }
  expect(child.lines).toEqual(["pending"]);
  const kin = kinOf(space.directory);
  child.process.kill("SIGUSR2");
  if ((await child.line("settled")) === "settled open") {
    if (isKept) await stays(STAYS_MS);
    if (isKept) child.process.kill("SIGUSR2");
  }
  await until(() => child.process.exitCode !== null || child.process.signalCode !== null, "its end by itself", 5_000);
  expect(child.process.exitCode).toBe(0);
  await until(() => !kin.some(lives), "the end of its workers", 5_000);
}

test("the table has a case for each promise, and no case is missing in it", async () => {
  await using space = new Workspace();
  const child = space.child("alive.ts", "", "list");
  expect(await child.process.exited).toBe(0);
  await until(() => child.lines.length > 30, "the list");
  expect(
    table()
      .flatMap(({ cases }) => cases)
      .sort(),
  ).toEqual(child.lines.sort());
});

test("a pending promise keeps its sleeping process alive; after it settles, only open servers do", async () => {
  const left = table().flatMap(({ cases, isKept }) =>
    cases.flatMap((id) => (["top", "main"] as const).map((mode) => ({ id, mode, isKept }))),
  );
  const wrong: string[] = [];
  const run = async (): Promise<void> => {
    for (let next = left.shift(); next; next = left.shift()) {
      const { id, mode, isKept } = next;
      await walk(id, mode, isKept).catch((error) => {
        const first: unknown = error instanceof SuppressedError ? error.suppressed : error;
        wrong.push(`${id}, ${mode}: ${Bun.stripANSI(String(first))}`);
      });
    }
  };
  await Promise.all(Array.from({ length: CHILDREN }, run));
  expect(wrong).toEqual([]);
}, 90_000);
