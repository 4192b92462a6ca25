/**
 * Runs before all tests (`preload` in bunfig.toml). After each test this process must hold no more than before it: descriptors,
 * mappings of slotbus, child processes, files in the temporary directory, armed timers. What still closes gets SETTLE_MS; a timer
 * must fire or be cleared within TIMER_ROUNDS. Slots in use are judged by `slots.ts`, which reports here.
 */

import { getProtectedObjects } from "bun:jsc";
import { afterAll, afterEach, beforeEach } from "bun:test";
import { chmodSync, mkdtempSync, readdirSync, readFileSync, readlinkSync, rmdirSync, watch } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { holdWhile } from "../src/hold.ts";
import { slotsLeft } from "./left.ts";

const SETTLE_MS = 10_000;

/** Rounds of 10 ms in which a timer may fire. They are timers too, so a busy machine delays both alike. */
const TIMER_ROUNDS = 100;

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
await holdWhile(Promise.resolve()); // its timer stays for the next promise

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

/** A timer of Elysia, which it arms when it compiles a route, to free memory 5 minutes later. */
const OF_ELYSIA = /caches = \{\}/;

/** The runtime protects a timer from the garbage collector while it is armed. The timers of `Bun.sleep` count too. */
function timers(): NodeJS.Timeout[] {
  return getProtectedObjects().filter((one) => one?.constructor?.name === "Timeout");
}

/** Returns the delay and the start of the callback. */
function timerName(timer: NodeJS.Timeout): string {
  const { _idleTimeout: ms, _onTimeout: callback } = timer as unknown as { _idleTimeout: number; _onTimeout: unknown };
  return `armed timer of ${ms} ms: ${String(callback).replace(/\s+/g, " ").slice(0, 80)}`;
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

function moreTimers(): string[] {
  return timers()
    .filter((timer) => !armed.has(timer))
    .map(timerName)
    .filter((what) => !kept?.test(what) && !OF_ELYSIA.test(what));
}

let before: Held = new Map();

let armed = new Set<NodeJS.Timeout>();

let kept: RegExp | null = null;

/** The test that calls this may leave what matches, for the reason that it gives in a comment. */
export function leaves(what: RegExp): void {
  kept = what;
}

beforeEach(() => {
  before = held();
  armed = new Set(timers());
  slotsLeft.clear();
  kept = null;
});

afterEach(async () => {
  const end = performance.now() + SETTLE_MS;
  let left = more(before);
  let running = moreTimers();
  for (let rounds = 0; left.length > 0 || running.length > 0; left = more(before), running = moreTimers()) {
    if (left.length > 0 ? performance.now() >= end : ++rounds > TIMER_ROUNDS) break;
    Bun.gc(true);
    await Bun.sleep(10);
  }
  const all = [...left, ...running, ...[...slotsLeft].filter((what) => !kept?.test(what))];
  if (all.length > 0) throw new Error(`The test left: ${all.join("; ")}`);
}, SETTLE_MS + 5_000);

afterAll(() => rmdirSync(folder)); // fails when a test file left something
