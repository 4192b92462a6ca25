/**
 * `soak/client.ts NAME BOOKS SEED REQUESTS [PART]`: waits for "go", then sends requests until the end; checks and records
 * responses. With `PART`, it shares its bus with other clients and writes to that part of the books.
 */

import { readdirSync } from "node:fs";
import { join } from "node:path";
import { SlotBus } from "../../../src/index.ts";
import { descriptors, mappings, until } from "../../support.ts";
import { type Common, processState } from "../actor.ts";
import { Asker, LIMIT, look, TIMEOUT_MS } from "../asker.ts";
import { FlowAsker } from "../flow-asker.ts";
import { sources } from "../flows.ts";
import { count, type Counted } from "../memory.ts";
import * as b from "./request-books.ts";
import { Times } from "./times.ts";

/** Orders of the supervisor. */
export type Order =
  | { do: "go" }
  | { do: "end" }
  /** `killed`: workers killed in the life of this client so far. `stays`: it sends nothing until `resume`. */
  | { do: "quiet"; workers: number; killed: number; stays?: boolean }
  | { do: "resume" }
  /** `pid` 0: the client itself. `want`: the state to wait for, for a short time. */
  | { do: "kill" | "stop"; pid: number; want: b.State };

/** Messages of the client. */
export type Report =
  | Common
  | { is: "open" }
  | { is: "faulted"; pid: number }
  | { is: "quiet"; faults: string[]; lost: number; moves: number; memory: Counted };

const [name, directory, seed, wanted, part] = process.argv.slice(2);
const isShared = part !== undefined;
/** With other clients beside it, a client asks less. */
const CALLERS = isShared ? 12 : 56;
const SLOTS = 16;
const BURST = isShared ? 16 : 80;
/** Callers with requests so long that kills hit both runs of a request. */
const HOLDERS = isShared ? 1 : 4;
/** Callers that stream slowly, so that every fault meets a stream in the middle of its bytes. */
const STREAMERS = isShared ? 1 : 2;
/** Share of the other requests that stream. */
const STREAMED = 0.15;

const books = new b.RequestBooks(directory!, Number(part ?? 0));
const times = new Times(directory!);
const random = new b.Random(Number(seed));
const asker = new Asker(books, times, random.next(), broken);
const flows = new FlowAsker(asker, books, random.next());
let bus: SlotBus;
let paused = false;
let ending = false;
let baseline: { fds: number; maps: number } | null = null;

function say(report: Report): void {
  process.send!(report);
}

function broken(what: string): void {
  say({ is: "broken", what });
}

async function call(mode?: b.Mode): Promise<void> {
  while (!ending) {
    while (paused && !ending) await Bun.sleep(1);
    if (ending) return;
    if (mode === undefined && random.chance(STREAMED)) await flows.one();
    else await asker.one({ mode: mode ?? asker.pickMode() });
    if (books.next - books.first > Number(wanted)) await Bun.sleep(2); // the faults lag behind
  }
}

async function callSlowly(): Promise<void> {
  while (!ending) {
    while (paused && !ending) await Bun.sleep(1);
    if (!ending) await flows.one(true);
  }
}

/** More slow requests than there are slots, so that some run out of time in the queue. */
async function burst(): Promise<void> {
  while (!ending) {
    await Bun.sleep(300 + random.below(700));
    for (let i = 0; i < BURST && !paused && !ending; i++) void asker.one({ mode: "late" });
  }
}

// ---- faults ---------------------------------------------------------------------------------------------------------

/** Sends the signal in the wanted state, and counts the victim's requests once it is stopped or dead. */
async function strike(order: { do: "kill" | "stop"; pid: number; want: b.State }): Promise<void> {
  const { pid, want } = order;
  if (want === "idle") paused = true;
  const end = performance.now() + (want === "idle" || pid === 0 ? 700 : 80);
  while (!look(bus, pid).has(want) && performance.now() < end) await new Promise((resolve) => setImmediate(resolve));
  if (pid === 0) strikeMyself(order.do);
  else if (order.do === "kill") times.kill(pid, false);
  else process.kill(pid, "SIGSTOP");
  if (pid !== 0) await strikeOver(pid, order.do);
  paused = false;
  say({ is: "faulted", pid });
}

/** Stops this process; returns when the supervisor continues it. */
function strikeMyself(what: "kill" | "stop"): void {
  const fault = what === "kill" ? "client-kill" : "client-stop";
  for (const [state, requests] of look(bus, 0)) books.count(fault, state, requests);
  if (what === "kill") times.kill(process.pid, true);
  else process.kill(process.pid, "SIGSTOP");
}

async function strikeOver(pid: number, what: "kill" | "stop"): Promise<void> {
  const limit = performance.now() + 100;
  while (!/^(Z|X|T|$)/.test(processState(pid)) && performance.now() < limit);
  if (what === "kill") times.gone(pid);
  times.continue(process.pid, true); // this check delayed it, not the bus
  if (!bus.workers.some((worker) => worker.pid === pid)) return;
  const fault = what === "kill" ? "worker-kill" : "worker-stop";
  for (const [state, requests] of look(bus, pid)) books.count(fault, state, requests);
}

// ---- quiet points ---------------------------------------------------------------------------------------------------

/** With no request in flight, checks that nothing was lost, leaked or has grown. */
async function quiet(workers: number, killed: number): Promise<void> {
  const faults: string[] = [];
  const reach = (condition: () => boolean, what: string, ms: number): Promise<void> =>
    until(condition, what, ms).catch((error) => void faults.push(error.message));
  paused = true;
  await reach(() => asker.waiting.size === 0, "every request has settled", 8 * TIMEOUT_MS);
  const lost = asker.waiting.size;
  await reach(() => sources.open === 0, "the source of every stream has ended", 10_000);
  await reach(() => asker.lent === 0, "every loan has ended", 10_000);
  await reach(() => bus.workers.length === workers, `${workers} workers are attached`, 20_000);
  await reach(() => bus.diagnostics().slots.every(({ state }) => state === "FREE"), "every slot is free", 20_000);
  // A worker that ends an abandoned request frees the slot first, and reports that later.
  await reach(() => bus.stats().inFlight === 0, "no request is in flight", 20_000);
  const stats = bus.stats();
  const { own } = asker;
  const equal = (what: string, is: number, should: number): void => {
    if (is !== should) faults.push(`${what}: ${is}, not ${should}`);
  };
  equal("stats().queued", stats.queued, 0);
  equal("stats().workersEvicted", stats.workersEvicted, 0);
  equal("stats().workersLeft", stats.workersLeft, 0);
  if (stats.workersDied > killed) faults.push(`${stats.workersDied} workers died, ${killed} were killed`);
  const answers = stats.responses - stats.dropped;
  if (answers < own.answers - flows.left || answers > own.answers + flows.unsure)
    faults.push(`stats().responses: ${answers}, not ${own.answers} less ${flows.left} to plus ${flows.unsure}`);
  equal("stats().timeouts", stats.timeouts, own.timeouts);
  equal("stats().aborts", stats.aborts, own.aborts);
  equal("slots", bus.diagnostics().slots.length, workers * SLOTS);
  const files = readdirSync(process.env["SLOTBUS_DIR"]!).toSorted().join();
  if (!isShared && files !== `${name}.lock,${name}.sock`) faults.push(`files of the bus: ${files}`);
  baseline ??= { fds: descriptors(), maps: mappings() };
  const most = baseline;
  await reach(() => descriptors() <= most.fds, `no more than ${most.fds} descriptors`, 10_000);
  await reach(() => mappings() <= most.maps, `no more than ${most.maps} mappings`, 10_000);
  say({ is: "quiet", faults, lost, moves: stats.moves, memory: count() });
}

async function open(): Promise<void> {
  await Bun.connect({
    unix: join(directory!, "control"),
    socket: { open: (it) => void it.write(`${process.pid} `), data() {} },
  });
  const options = { name: name!, slots: SLOTS, payloadBytes: LIMIT };
  bus = isShared ? await SlotBus.connect(options) : await SlotBus.create(options);
  asker.bus = bus;
  asker.onGiveUp = (fault, state) => books.count(fault, state);
  bus.ref();
  bus.on("died", ({ pid }) => times.hear(pid));
  say({ is: "open" });
  for (let i = 0; i < CALLERS; i++) void call();
  for (let i = 0; i < HOLDERS; i++) void call("hold");
  for (let i = 0; i < STREAMERS; i++) void callSlowly();
  void burst();
}

process.on("disconnect", () => process.exit(0));
process.on("message", async (order: Order) => {
  if (order.do === "go") await open();
  else if (order.do === "resume") paused = false;
  else if (order.do === "quiet") {
    await quiet(order.workers, order.killed);
    paused = order.stays ?? false;
  } else if (order.do === "end") {
    ending = true;
    await bus.close();
    await until(() => asker.waiting.size === 0, "the last request has settled").catch((error) => broken(error.message));
    process.exit(0);
  } else await strike(order);
});
say({ is: "loaded" });
