/**
 * Runs before all tests (`preload` in bunfig.toml). After each test this process must hold no more than before it: descriptors,
 * mappings of slotbus, child processes, files in the temporary directory. What still closes gets SETTLE_MS.
 */

import { afterAll, afterEach, beforeEach } from "bun:test";
import { chmodSync, mkdtempSync, readdirSync, readFileSync, readlinkSync, rmdirSync, watch } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const SETTLE_MS = 10_000;

/** All temporary files of the tests and of their children are in it. */
const folder = mkdtempSync(join(tmpdir(), "sb-"));
chmodSync(folder, 0o711); // some tests start a process of another user
process.env.TMPDIR = folder;

// Bun opens descriptors of its own when it first starts a process, writes a warning or watches a file.
watch(folder, () => {}).close();
process.stdout.write("");
process.stderr.write("");
await Bun.spawn(["true"]).exited;
Bun.spawnSync(["true"]);

/** SO_ACCEPTCON, as in /proc/net/unix. */
const LISTENS = "00010000";

/** What is held, by description; the value is how many. */
type Held = Map<string, number>;

/** Inodes of listening sockets. Connections do not count: `fetch` keeps them open for a next request to the same address. */
function sockets(): Map<string, string> {
  const kinds = new Map<string, string>();
  const lines = (file: string): string[][] =>
    readFileSync(`/proc/self/net/${file}`, "latin1")
      .split("\n")
      .map((line) => line.trim().split(/\s+/));
  for (const [, , , flags, , , inode] of lines("unix"))
    if (flags === LISTENS) kinds.set(inode!, "listening Unix socket");
  for (const file of ["tcp", "tcp6"])
    for (const words of lines(file)) if (words[3] === "0A") kinds.set(words[9]!, "listening TCP socket");
  return kinds;
}

function descriptors(add: (what: string) => void): void {
  const kinds = sockets();
  for (const fd of readdirSync("/proc/self/fd")) {
    let target = "";
    try {
      target = readlinkSync(`/proc/self/fd/${fd}`);
    } catch {} // the descriptor of the listing itself
    const socket = /^socket:\[(\d+)\]$/.exec(target);
    const what = socket ? kinds.get(socket[1]!) : target.replace(/:\[\d+\]$/, "");
    if (what) add(`descriptor of ${what}`);
  }
}

function children(add: (what: string) => void): void {
  for (const thread of readdirSync("/proc/self/task")) {
    let pids = "";
    try {
      pids = readFileSync(`/proc/self/task/${thread}/children`, "latin1");
    } catch {} // the thread ended
    for (const pid of pids.split(" ").filter(Boolean)) add(`child process ${pid}`);
  }
}

function held(): Held {
  const all: Held = new Map();
  const add = (what: string): void => void all.set(what, (all.get(what) ?? 0) + 1);
  descriptors(add);
  children(add);
  for (const line of readFileSync("/proc/self/maps", "latin1").split("\n"))
    if (line.includes("memfd:slotbus")) add("mapping of a slotbus region");
  for (const file of readdirSync(folder)) add(`file ${file} in ${folder}`);
  return all;
}

function more(before: Held): string[] {
  return [...held()]
    .filter(([what, count]) => count > (before.get(what) ?? 0) && !kept?.test(what))
    .map(([what, count]) => `${count - (before.get(what) ?? 0)} × ${what}`);
}

let before: Held = new Map();

let kept: RegExp | null = null;

/** The test that calls this may leave what matches, for the reason that it gives in a comment. */
export function leaves(what: RegExp): void {
  kept = what;
}

beforeEach(() => {
  before = held();
  kept = null;
});

afterEach(async () => {
  const end = performance.now() + SETTLE_MS;
  let left = more(before);
  while (left.length > 0 && performance.now() < end) {
    Bun.gc(true);
    await Bun.sleep(10);
    left = more(before);
  }
  if (left.length > 0) throw new Error(`The test left: ${left.join("; ")}`);
}, SETTLE_MS + 5_000);

afterAll(() => rmdirSync(folder)); // fails when a test file left something
