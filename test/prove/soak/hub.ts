/** `soak/hub.ts NAME BOOKS SEED REQUESTS`: waits for "go", then asks without end; checks and writes down every answer. */

import { readdirSync, readFileSync } from "node:fs";
import {
  type BorrowedResponse,
  type BusResponse,
  NoWorkerError,
  RemoteError,
  RequestTimeoutError,
  SlotBus,
  SlotbusError,
  WorkerDiedError,
} from "../../../src/index.ts";
import { descriptors, mappings, same, until } from "../../support.ts";
import * as b from "./books.ts";

/** What the supervisor says. */
export type Order =
  | { do: "go" }
  | { do: "end" }
  | { do: "quiet"; workers: number }
  /** `pid` 0 is the hub itself. `want`: the state to wait for, a little. */
  | { do: "kill" | "stop"; pid: number; want: b.State };

/** What the hub says. */
export type Report =
  | { is: "loaded" | "open" }
  | { is: "faulted"; pid: number }
  | { is: "quiet"; faults: string[]; lost: number }
  | { is: "broken"; what: string };

const CALLERS = 56;
const SLOTS = 16;
const BURST = 80;
/** Callers whose requests take so long that both runs of one are met by a kill. */
const HOLDERS = 4;
/** How long a handler waits at the most, where it is not 30 ms. */
const WAIT_MS: Partial<Record<b.Mode, number>> = { block: 4, hold: 600 };
const LIMIT = 2 ** 20;
const TIMEOUT_MS = 2_500;
/** After its timeout every request has settled. */
const GRACE_MS = 2_000;
const POOL = 2 * LIMIT;

const [name, directory, seed, wanted] = process.argv.slice(2);
const books = new b.Books(directory!);
const random = new b.Random(Number(seed));
const pool = new Uint8Array(POOL);
new Uint32Array(pool.buffer).forEach((_, i, words) => (words[i] = random.next()));
const expected = new Uint8Array(LIMIT);
const gaveUp = new Error("the caller of the soak gave up");

let bus: SlotBus;
/** By id: when it has to have settled at the latest. */
const waiting = new Map<number, number>();
let paused = false;
let ending = false;
let lent = 0;
/** What the bus's own counters must say. */
const own = { answers: 0, timeouts: 0, aborts: 0 };
let baseline: { fds: number; maps: number } | null = null;

function say(report: Report): void {
  process.send!(report);
}

function broken(what: string): void {
  say({ is: "broken", what });
}

// ---- asking ---------------------------------------------------------------------------------------------------------

interface Ask {
  id: number;
  nonce: number;
  body: Uint8Array;
  mode: b.Mode;
  tag: string;
}

function pickMode(): b.Mode {
  const n = random.below(1000);
  if (n < 40) return "async";
  if (n < 46) return "late";
  if (n < 50) return "never";
  if (n < 55) return "throw";
  if (n < 60) return "reject";
  if (n < 61) return "block";
  if (n < 110) return "reserve";
  return n < 160 ? "respond" : "sync";
}

function makeAsk(mode: b.Mode): Ask {
  const id = books.next++;
  const nonce = random.next();
  const size = random.size(random.chance(1 / 24) ? LIMIT : 1024);
  const start = random.below((POOL - size) / 4) * 4;
  return { id, nonce, mode, body: pool.subarray(start, start + size), tag: `${id}.${nonce}` };
}

async function one(mode: b.Mode): Promise<void> {
  const ask = makeAsk(mode);
  const { id, nonce, body } = ask;
  const slow = mode === "never" || mode === "late";
  const timeout = slow || random.chance(0.01) ? 1 + random.below(40) : TIMEOUT_MS;
  const idempotent = mode === "hold" || random.chance(0.2);
  const controller = random.chance(0.01) ? new AbortController() : null;
  const query = `${ask.tag}.${b.checksum(body, nonce)}.${body.length}.${random.below(WAIT_MS[mode] ?? 30)}`;
  const request = { path: mode, id: String(id), query, body };
  const options = { timeout, idempotent, signal: controller?.signal };
  const borrows = random.chance(0.03);
  books.outcome[id] = b.ISSUED | (idempotent ? b.IDEMPOTENT : 0);
  waiting.set(id, performance.now() + timeout + GRACE_MS);
  const promise = borrows ? bus.borrow(request, options) : bus.request(request, options);
  if (controller) abortSoon(id, controller);
  try {
    const response = await promise;
    settle(id, b.ANSWERED);
    own.answers++;
    await check(ask, response);
  } catch (error) {
    failed(ask, error, controller);
  }
}

function settle(id: number, bit: number): void {
  const before = books.outcome[id]!;
  books.outcome[id] = before | bit | (before & b.SETTLED ? b.TWICE : 0);
  waiting.delete(id);
}

function wrong(ask: Ask, what: string): void {
  books.outcome[ask.id]! |= b.WRONG;
  broken(`request ${ask.tag} (${ask.mode}, ${ask.body.length} bytes): ${what}`);
}

async function check(ask: Ask, response: BusResponse): Promise<void> {
  const loan = "release" in response ? (response as BorrowedResponse) : null;
  if (loan) {
    lent++;
    if (random.chance(0.5)) await Bun.sleep(random.below(12));
  }
  const right = expected.subarray(0, ask.body.length);
  b.transform(ask.body, ask.nonce, right);
  const tag = response.headers.get("tag");
  if (tag !== ask.tag) wrong(ask, `answered with ${tag}`);
  else if (!same(response.body, right)) wrong(ask, "answered with other bytes");
  else if (books.runs[ask.id]! < b.REPLIED) wrong(ask, "answered, and no handler did");
  if (loan) {
    loan.release();
    lent--;
  }
}

function failed(ask: Ask, error: unknown, controller: AbortController | null): void {
  if (controller?.signal.aborted && error === gaveUp) {
    own.aborts++;
    return settle(ask.id, b.ABORTED);
  }
  if (!(error instanceof SlotbusError)) {
    settle(ask.id, b.FAILED);
    return wrong(ask, `failed with ${Bun.inspect(error)}`);
  }
  settle(ask.id, error.mayHaveExecuted ? b.FAILED : b.REFUSED);
  if (error instanceof RemoteError) {
    own.answers++;
    const meant = ask.mode === "throw" || ask.mode === "reject";
    if (!meant || !error.message.endsWith(`refused ${ask.tag}`)) wrong(ask, `failed with ${error.message}`);
  } else if (error instanceof RequestTimeoutError) {
    own.timeouts++;
    if (error.mayHaveExecuted) books.count("timeout", "claimed");
    else books.count("timeout", error.ranMs > 0 ? "ready" : "queued");
  } else if (error instanceof NoWorkerError) {
    own.timeouts++;
    books.count("timeout", "queued");
  } else if (!(error instanceof WorkerDiedError)) {
    wrong(ask, `failed with ${error.message}`);
  }
}

/** At once, after the other side had a moment on its processor, or some milliseconds later. */
function abortSoon(id: number, controller: AbortController): void {
  const abort = (): void => {
    const state = waiting.has(id) ? stateOf(id) : null;
    if (state) books.count("abort", state);
    controller.abort(gaveUp);
  };
  const way = random.below(3);
  if (way === 0) return void setTimeout(abort, random.below(20));
  const end = performance.now() + (way === 1 ? 0 : random.below(200) / 1000);
  while (performance.now() < end);
  abort();
}

function stateOf(id: number): b.State | null {
  const { slots, queued } = bus.diagnostics();
  if (queued.some(({ requestId }) => requestId === String(id))) return "queued";
  const slot = slots.find(({ requestId, borrowed }) => requestId === String(id) && !borrowed);
  return slot ? (slot.state.toLowerCase() as b.State) : null;
}

async function call(mode?: b.Mode): Promise<void> {
  while (!ending) {
    while (paused && !ending) await Bun.sleep(1);
    if (ending) return;
    await one(mode ?? pickMode());
    if (books.next > Number(wanted)) await Bun.sleep(2); // the faults are behind
  }
}

/** More slow requests than there are slots, so that some run out of time in the queue. */
async function burst(): Promise<void> {
  while (!ending) {
    await Bun.sleep(300 + random.below(700));
    for (let i = 0; i < BURST && !paused && !ending; i++) void one("late");
  }
}

// ---- faults ---------------------------------------------------------------------------------------------------------

/** States of the slots of a worker (of all workers: 0), and of the queue. */
function look(pid: number): Map<b.State, number> {
  const found = new Map<b.State, number>();
  const add = (state: b.State): void => void found.set(state, (found.get(state) ?? 0) + 1);
  const { slots, queued } = bus.diagnostics();
  for (const { workerPid, state, borrowed } of slots) {
    if ((pid === 0 || workerPid === pid) && state !== "FREE") add(borrowed ? "lent" : (state.toLowerCase() as b.State));
  }
  if (found.size === 0) add("idle");
  if (queued.length > 0) found.set("queued", queued.length);
  return found;
}

/** Sends the signal when the wanted state is there, and counts what the victim had once it can move no more. */
async function strike(order: { do: "kill" | "stop"; pid: number; want: b.State }): Promise<void> {
  const { pid, want } = order;
  if (want === "idle") paused = true;
  const end = performance.now() + (want === "idle" || pid === 0 ? 700 : 80);
  while (!look(pid).has(want) && performance.now() < end) await new Promise((resolve) => setImmediate(resolve));
  if (pid === 0) {
    for (const [state, requests] of look(0)) books.count("hub-kill", state, requests);
    process.kill(process.pid, "SIGKILL");
  }
  process.kill(pid, order.do === "kill" ? "SIGKILL" : "SIGSTOP");
  const limit = performance.now() + 100;
  while (!/^(Z|X|T|$)/.test(processState(pid)) && performance.now() < limit);
  const fault = order.do === "kill" ? "worker-kill" : "stop";
  if (bus.workers.some((worker) => worker.pid === pid)) {
    for (const [state, requests] of look(pid)) books.count(fault, state, requests);
  }
  paused = false;
  say({ is: "faulted", pid });
}

/** `T` is stopped, `Z` dead; empty when it is gone. */
function processState(pid: number): string {
  try {
    return /\) (\S)/.exec(readFileSync(`/proc/${pid}/stat`, "latin1"))?.[1] ?? "";
  } catch {
    return "";
  }
}

// ---- quiet points ---------------------------------------------------------------------------------------------------

/** Nothing under way: nothing lost, nothing held, nothing grown. */
async function quiet(workers: number): Promise<void> {
  const faults: string[] = [];
  const reach = (condition: () => boolean, what: string, ms: number): Promise<void> =>
    until(condition, what, ms).catch((error) => void faults.push(error.message));
  paused = true;
  await reach(() => waiting.size === 0, "every request has settled", TIMEOUT_MS + GRACE_MS);
  const lost = waiting.size;
  await reach(() => lent === 0, "every loan has ended", 1_000);
  await reach(() => bus.workers.length === workers, `${workers} workers are attached`, 5_000);
  await reach(() => bus.diagnostics().slots.every(({ state }) => state === "FREE"), "every slot is free", 3_000);
  const stats = bus.stats();
  const equal = (what: string, is: number, should: number): void => {
    if (is !== should) faults.push(`${what}: ${is}, not ${should}`);
  };
  equal("stats().inFlight", stats.inFlight, 0);
  equal("stats().queued", stats.queued, 0);
  equal("stats().workersEvicted", stats.workersEvicted, 0);
  equal("stats().responses without the dropped", stats.responses - stats.dropped, own.answers);
  equal("stats().timeouts", stats.timeouts, own.timeouts);
  equal("stats().aborts", stats.aborts, own.aborts);
  equal("slots", bus.diagnostics().slots.length, workers * SLOTS);
  const files = readdirSync(process.env["SLOTBUS_DIR"]!).toSorted().join();
  if (files !== `${name}.lock,${name}.sock`) faults.push(`files of the bus: ${files}`);
  baseline ??= { fds: descriptors(), maps: mappings() };
  const most = baseline;
  await reach(() => descriptors() <= most.fds, `no more than ${most.fds} descriptors`, 1_000);
  await reach(() => mappings() <= most.maps, `no more than ${most.maps} mappings`, 1_000);
  say({ is: "quiet", faults, lost });
  paused = false;
}

function overdue(): void {
  const now = performance.now();
  for (const [id, end] of waiting) {
    if (now < end) continue;
    broken(`request ${id} has not settled ${GRACE_MS} ms after its timeout`);
    waiting.set(id, Infinity);
  }
}

async function open(): Promise<void> {
  bus = await SlotBus.create({ name: name!, slots: SLOTS, payloadLimit: LIMIT });
  bus.ref();
  say({ is: "open" });
  setInterval(overdue, 100);
  for (let i = 0; i < CALLERS; i++) void call();
  for (let i = 0; i < HOLDERS; i++) void call("hold");
  void burst();
}

process.on("disconnect", () => process.exit(0));
process.on("message", async (order: Order) => {
  if (order.do === "go") await open();
  else if (order.do === "quiet") await quiet(order.workers);
  else if (order.do === "end") {
    ending = true;
    await bus.close();
    await until(() => waiting.size === 0, "the last request has settled").catch((error) => broken(error.message));
    process.exit(0);
  } else if (order.do === "kill" || order.do === "stop") await strike(order);
});
say({ is: "loaded" });
