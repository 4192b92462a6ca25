/**
 * `stalls/evict.ts NAME BOOKS SEED KIND VICTIM`: stops a hanging worker until the bus evicts it, and continues it: its
 * responses must then reach no caller. KIND: of the worker (`stalls/worker.ts`), or `closing`: an `async` worker that is
 * closing. VICTIM: its index in the phases.
 */

import { type BorrowedResponse, SlotBus } from "../../../src/index.ts";
import { same, until } from "../../support.ts";
import { type Common, stopped } from "../actor.ts";
import { Asker, LIMIT, look } from "../asker.ts";
import * as b from "../soak/request-books.ts";
import { Times } from "../soak/times.ts";
import { Phases } from "./phases.ts";
import type { State } from "./states.ts";

export type Order = { do: "go" };

export type Report =
  | Common
  | { is: "open" | "close-victim" | "start-heir" }
  /** `late`: responses of the zombie that were discarded. */
  | { is: "evicted"; met: State[]; late: number; again: boolean };

const [name, directory, seed, kind, victim] = process.argv.slice(2);
const isSync = kind === "sync";
const SLOTS = isSync ? 1 : 10;
/** Requests that fill more than half of its slots. */
const HUNG = isSync ? 1 : 6;
const EVICTED_MS = 60_000;
const LOAN = 40_000;

const self = Number(victim);
const books = new b.RequestBooks(directory!);
const phases = new Phases(directory!);
const random = new b.Random(Number(seed));
const asker = new Asker(books, new Times(directory!), random.next(), broken);
let bus: SlotBus;
let pid = 0;
let ending = false;
/** An idempotent request that the victim has claimed. */
let repeatable = -1;

function say(report: Report): void {
  process.send!(report);
}

function broken(what: string): void {
  say({ is: "broken", what: `${kind} victim ${pid}: ${what}` });
}

const count = (state: b.State): number => look(bus, pid).get(state) ?? 0;
const gate = "gate" as b.Mode;
const gateBlock = "gate-block" as b.Mode;
const settling: Promise<void>[] = [];

/** Fills the victim's slots: quarantined ones, claimed ones, a lent one. */
async function hang(): Promise<BorrowedResponse | null> {
  const loan = isSync ? null : await bus.borrow(await lendable());
  // Long enough for the victim to claim them on a busy machine: an unclaimed request would free its slot.
  const quick = { timeout: 1_000, idempotent: false, borrows: false, aborts: false, size: 64 };
  if (isSync) {
    settling.push(asker.one({ ...quick, mode: gateBlock }));
  } else {
    for (let i = 0; i < HUNG; i++) settling.push(asker.one({ ...quick, mode: gate }));
    await until(() => count("abandoned") === HUNG, "its slots are quarantined", 20_000);
    repeatable = books.next;
    settling.push(asker.one({ ...quick, mode: gate, timeout: 12_500, idempotent: true }));
    await until(() => count("claimed") === 1, "it has claimed one request", 20_000);
  }
  if (kind === "closing") {
    say({ is: "close-victim" });
    await until(() => phases.get(self) === "closing", "it has begun to close", 20_000);
    return loan;
  }
  if (!isSync) {
    settling.push(asker.one({ ...quick, mode: gateBlock, timeout: EVICTED_MS }));
    await until(() => count("claimed") === 2, "it has claimed another one, and hangs", 20_000);
  } else {
    await until(() => count("abandoned") === HUNG, "its slot is quarantined", 20_000);
  }
  return loan;
}

/** A request of its own, whose right answer is known here; the books count it as one that nobody asked. */
async function lendable(): Promise<{ path: string; id: string; query: string; body: Uint8Array }> {
  const body = new Uint8Array(LOAN).map((_, i) => i);
  const id = books.next++;
  books.outcome[id] = b.ISSUED | b.ANSWERED;
  return { path: "sync", id: String(id), query: `${id}.${LOAN}.${b.checksum(body, LOAN)}.${LOAN}.0`, body };
}

function checkLoan(loan: BorrowedResponse | null, when: string): void {
  if (!loan) return;
  const body = new Uint8Array(LOAN).map((_, i) => i);
  const right = new Uint8Array(LOAN);
  b.transform(body, LOAN, right);
  if (!same(loan.body, right)) broken(`a lent response has other bytes ${when}`);
}

/** Light load, which the healthy worker answers. */
async function load(): Promise<void> {
  while (!ending) {
    await asker.one({ mode: "sync", borrows: false, aborts: false });
    await Bun.sleep(20);
  }
}

/** Waits for the eviction; resolves to what the victim had just before. */
async function evicted(): Promise<State[]> {
  let reason = "";
  bus.on("died", (worker, why) => {
    if (worker.pid === pid) reason = why;
    else broken(`pid ${worker.pid} did nothing: ${why}`);
  });
  let met = new Map<b.State, number>();
  const end = performance.now() + EVICTED_MS;
  while (reason === "" && performance.now() < end) {
    const now = look(bus, pid);
    if (now.has("abandoned")) met = now;
    await Bun.sleep(5);
  }
  if (!reason.includes("stuck")) broken(`it was not evicted for hanging: "${reason}"`);
  met.delete("queued");
  const states = [...met.keys()] as State[];
  const phase = phases.get(self);
  return phase === "closing" || phase === "sync handler" ? [...states, phase] : states;
}

async function play(): Promise<void> {
  await bus.ready();
  pid = bus.workers[0]!.pid;
  const loan = await hang();
  asker.mayDie.add(pid);
  process.kill(pid, "SIGSTOP");
  await stopped(pid);
  const hasReady = kind !== "closing" && !isSync;
  // The last free slot of the only worker there is: it stays unclaimed, and must go to the other worker.
  if (hasReady)
    settling.push(asker.one({ mode: "sync", size: 64, timeout: EVICTED_MS, borrows: false, aborts: false }));
  if (hasReady && count("ready") !== 1) broken(`it has ${count("ready")} unclaimed requests, not 1`);
  say({ is: "start-heir" });
  await until(() => bus.workers.length === 2, "the other worker has attached", 20_000);
  void load();
  const met = await evicted();
  checkLoan(loan, "after the eviction");
  phases.openGate(self);
  process.kill(pid, "SIGCONT");
  const answers = HUNG + (isSync ? 0 : kind === "closing" ? 1 : 2);
  await until(
    () => phases.answers(self).late + phases.answers(self).other >= answers,
    "the zombie has answered",
    20_000,
  );
  const { late, other } = phases.answers(self);
  if (late !== answers) broken(`of the zombie's answers ${late} were late and ${other} not; all ${answers} must be`);
  checkLoan(loan, "after the answers of the zombie");
  await after();
  checkLoan(loan, "at the end");
  loan?.release();
  ending = true;
  await until(() => asker.waiting.size === 0, "every request has settled", 30_000);
  if (bus.stats().workersEvicted !== 1) broken(`${bus.stats().workersEvicted} workers were evicted, not 1`);
  say({ is: "evicted", met, late, again: bus.workers.some((worker) => worker.pid === pid) });
  await bus.close();
  if (bus.stats().heldRegions !== 0) broken(`${bus.stats().heldRegions} regions are held`);
  process.exit(0);
}

/** The zombie attaches again as a new worker, or ends; either way the new lives have nothing of the old one. */
async function after(): Promise<void> {
  const comesBack = kind === "async" || isSync;
  if (comesBack)
    await until(() => bus.workers.some((worker) => worker.pid === pid), "the zombie has attached again", 20_000);
  await Promise.all(settling);
  const runs = repeatable < 0 ? 1 : books.runs[repeatable]! % b.REPLIED;
  if (runs !== 1) broken(`an idempotent request ran ${runs} times, and its first worker has not ended`);
  const more = Array.from({ length: 40 }, () => asker.one({ mode: "sync", borrows: false, aborts: false }));
  await Promise.all(more);
  await until(() => bus.diagnostics().slots.every(({ state }) => state === "FREE"), "every slot is free", 20_000);
}

process.on("disconnect", () => process.exit(0));
process.on("message", async ({ do: order }: Order) => {
  if (order !== "go") return;
  bus = await SlotBus.create({ name: name!, slots: SLOTS, payloadBytes: LIMIT });
  asker.bus = bus;
  bus.ref();
  say({ is: "open" });
  await play().catch((error) => broken(error.message));
});
say({ is: "loaded" });
