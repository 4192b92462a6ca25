/** `stalls/client.ts NAME BOOKS SEED INDEX`: waits for "go", sends requests, and stops workers or itself on order. */

import { SlotBus } from "../../../src/index.ts";
import { descriptors, mappings, until } from "../../support.ts";
import { type Common, processState } from "../actor.ts";
import { Asker, LIMIT, look } from "../asker.ts";
import * as b from "../soak/request-books.ts";
import { Times } from "../soak/times.ts";
import { Phases } from "./phases.ts";
import type { State } from "./states.ts";

/** Orders of the supervisor. `index`: of the worker in the phases. */
export type Order =
  | { do: "go" | "pause" | "resume" | "reopen" | "ask-sync" }
  /** `last`: no request follows. */
  | { do: "quiet"; workers: number; last: boolean }
  /** `pid` 0: the client itself. `want`: the state to wait for, for a short time. */
  | { do: "stop"; pid: number; index: number; want: State };

/** Messages of the client. `met`: requests of the victim by state, when it was stopped. */
export type Report =
  | Common
  | { is: "open" | "paused" | "reopened" | "asked" }
  | { is: "stopped"; met: State[] }
  | { is: "quiet"; faults: string[]; lost: number };

const CALLERS = 10;
const SLOTS = 12;
/** Longest wait for a state, in ms. */
const PATIENCE_MS = 60;

const [name, directory, seed, index] = process.argv.slice(2);
const books = new b.RequestBooks(directory!);
const phases = new Phases(directory!);
const random = new b.Random(Number(seed));
const asker = new Asker(books, new Times(directory!), random.next(), (what) => say({ is: "broken", what }));
asker.mayClose = true;
let bus: SlotBus;
let paused = false;
let baseline: { fds: number; maps: number } | null = null;

function say(report: Report): void {
  process.send!(report);
}

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

async function call(): Promise<void> {
  for (;;) {
    while (paused) await Bun.sleep(1);
    await asker.one({ mode: asker.pickMode() });
    if (random.chance(0.5)) await Bun.sleep(1);
  }
}

/** Sends requests that make a state likely. */
function provoke(want: State): void {
  if (want === "abandoned") for (let i = 0; i < 4; i++) void asker.one({ mode: "never", aborts: false });
  else if (want === "lent") for (let i = 0; i < 6; i++) void asker.one({ mode: "sync", borrows: true, aborts: false });
  else if (want === "sync handler" || want === "claimed") void asker.one({ mode: "block" });
}

function statesOf(pid: number): State[] {
  const found = look(bus, pid);
  found.delete("queued");
  return found.size === 0 ? ["idle"] : ([...found.keys()] as State[]);
}

/** Whether a worker is in the wanted state, as far as it can be seen from here. */
function isThere(pid: number, worker: number, want: State): boolean {
  const states = statesOf(pid);
  if (want === "idle") return states[0] === "idle" && (pid === 0 || processState(pid) === "R");
  if (want === "parked" || want === "sync wait") return states[0] === "idle" && processState(pid) === "S";
  if (want === "sync handler") return states.includes("claimed") && phases.get(worker) === want;
  return states.includes(want);
}

/** Sends the signal in the wanted state. A stop of this process ends when the supervisor continues it. */
async function strike(pid: number, worker: number, want: State): Promise<void> {
  const isIdle = want === "idle" || want === "parked" || want === "sync wait";
  if (isIdle) {
    paused = true;
    const settled = performance.now() + 400;
    while (asker.waiting.size > 0 && performance.now() < settled) await turn();
  }
  const end = performance.now() + PATIENCE_MS;
  provoke(want);
  while (!isThere(pid, worker, want) && performance.now() < end) {
    if (want === "idle") await asker.one({ mode: "sync", size: 8, timeout: 1_000, aborts: false });
    else await turn();
  }
  const asleep = pid > 0 && processState(pid) === "S";
  const before = statesOf(0);
  process.kill(pid || process.pid, "SIGSTOP");
  const met = pid === 0 ? before : await victim(pid, worker, asleep);
  paused = false;
  say({ is: "stopped", met });
}

/** State of a stopped worker. If it slept before, it still sleeps, because nobody could wake it. */
async function victim(pid: number, worker: number, asleep: boolean): Promise<State[]> {
  const limit = performance.now() + 1_000;
  while (processState(pid) !== "T" && performance.now() < limit);
  const states = statesOf(pid);
  const phase = phases.get(worker);
  if (states[0] === "idle") {
    if (phase !== "serving" && phase !== "sync wait") return [];
    return [asleep ? (phase === "sync wait" ? "sync wait" : "parked") : "idle"];
  }
  if (phase === "sync handler") states.push(phase);
  return states;
}

/** Sends a blocking request, which only its response interrupts. */
async function askSync(): Promise<void> {
  paused = true;
  await until(() => asker.waiting.size === 0, "every request has settled", 20_000);
  phases.set(Number(index), "sync wait");
  if (bus.workers.length > 0) asker.oneSync("block", 5_000);
  phases.set(Number(index), "serving");
  paused = false;
  say({ is: "asked" });
}

/** Closes the bus while requests wait, and opens it again. */
async function reopen(): Promise<void> {
  for (let i = 0; i < 8; i++) void asker.one({ mode: "async" });
  paused = true;
  phases.set(Number(index), "closing");
  await bus.close({ timeout: random.below(60) });
  phases.set(Number(index), "closed");
  await until(() => asker.waiting.size === 0, "every request of the closed bus has settled", 20_000);
  Object.assign(asker.own, { answers: 0, timeouts: 0, aborts: 0 });
  await open();
  paused = false;
  say({ is: "reopened" });
}

async function open(): Promise<void> {
  bus = await SlotBus.create({ name: name!, slots: SLOTS, payloadBytes: LIMIT });
  asker.bus = bus;
  bus.ref();
  bus.on("died", (worker, reason) => say({ is: "broken", what: `pid ${worker.pid} was only stopped: ${reason}` }));
  phases.set(Number(index), "serving");
}

/** With no request in flight, checks that nothing was lost, leaked or has grown. */
async function quiet(workers: number, last: boolean): Promise<void> {
  const faults: string[] = [];
  const reach = (condition: () => boolean, what: string): Promise<void> =>
    until(condition, what, 20_000).catch((error) => void faults.push(error.message));
  const equal = (what: string, is: number, should: number): void => {
    if (is !== should) faults.push(`${what}: ${is}, not ${should}`);
  };
  paused = true;
  await reach(() => asker.waiting.size === 0, "every request has settled");
  const lost = asker.waiting.size;
  await reach(() => asker.lent === 0, "every loan has ended");
  await reach(
    () => bus.workers.length === workers,
    `${workers} workers are attached, of ${bus.workers.map(({ pid }) => pid)}`,
  );
  await reach(() => bus.diagnostics().slots.every(({ state }) => state === "FREE"), "every slot is free");
  await reach(() => bus.stats().inFlight === 0, "the client has seen that every slot is free");
  const stats = bus.stats();
  equal("stats().queued", stats.queued, 0);
  equal("stats().workersEvicted", stats.workersEvicted, 0);
  equal("stats().workersDied", stats.workersDied, 0);
  equal("stats().responses without the dropped", stats.responses - stats.dropped, asker.own.answers);
  equal("stats().timeouts", stats.timeouts, asker.own.timeouts);
  equal("stats().aborts", stats.aborts, asker.own.aborts);
  baseline ??= { fds: descriptors(), maps: mappings() };
  const most = baseline;
  await reach(() => descriptors() <= most.fds, `no more than ${most.fds} descriptors`);
  await reach(() => mappings() <= most.maps, `no more than ${most.maps} mappings`);
  say({ is: "quiet", faults, lost });
  paused = last;
}

process.on("disconnect", () => process.exit(0));
process.on("message", async (order: Order) => {
  if (order.do === "go") {
    await open();
    for (let i = 0; i < CALLERS; i++) void call();
    say({ is: "open" });
  } else if (order.do === "pause") {
    paused = true;
    await until(() => asker.waiting.size === 0, "every request has settled", 20_000);
    say({ is: "paused" });
  } else if (order.do === "stop") await strike(order.pid, order.index, order.want);
  else if (order.do === "quiet") await quiet(order.workers, order.last);
  else if (order.do === "reopen") await reopen();
  else if (order.do === "ask-sync") await askSync();
  else paused = false;
});
say({ is: "loaded" });
