/** `points/client.ts NAME BOOKS SEED`: waits for "go", then asks what each act needs; checks and writes down every answer. */

import {
  ClosedError,
  BusOverloadedError,
  type BusResponse,
  NoWorkerError,
  PayloadTooLargeError,
  RemoteError,
  RequestTimeoutError,
  SlotBus,
  SlotbusError,
  WorkerDiedError,
} from "../../../src/index.ts";
import { same, until } from "../../support.ts";
import * as b from "../soak/books.ts";
import type { Act } from "./labels.ts";
import { broken, LIMIT, type Mode, type Order, say } from "./talk.ts";

const SLOTS = 8;
/** Longer than a fault lasts, and than a busy machine keeps a process waiting: what runs out of it was lost by somebody. */
const TIMEOUT_MS = 60_000;
/** A request is overdue when it has not settled so many turns of our own timer after its timeout. */
const OVERDUE_TURNS = 10;
const TURN_MS = 100;
/** Sent by each act of mixed traffic; up to 64 KiB. */
const REQUESTS = 12;
const BODY = 2 ** 16;
/** More than 64 MiB of one worker's memory are touched by so many answers at the far end of their arenas. */
const FAR = 12;

const [name, directory, seed] = process.argv.slice(2);
const books = new b.Books(directory!);
const random = new b.Random(Number(seed));
const pool = new Uint8Array(LIMIT + 4096);
new Uint32Array(pool.buffer, 0, BODY / 2).forEach((_, i, words) => (words[i] = random.next()));
const gaveUp = new Error("the caller gave up");
/** Errors that a request may end with; a RemoteError only when it asked for one. */
const EXPECTED = [ClosedError, BusOverloadedError, NoWorkerError, PayloadTooLargeError, WorkerDiedError];

let bus: SlotBus;
/** By id: when its time is over, and the turns since. */
const waiting = new Map<number, { end: number; turns: number }>();
/** Requests that were lost with their worker since the last proof. */
let died = 0;

interface How {
  bytes?: number;
  timeout?: number;
  waitMs?: number;
  borrow?: boolean;
  abort?: AbortController;
}

// ---- asking ---------------------------------------------------------------------------------------------------------

interface Ask {
  id: number;
  nonce: number;
  mode: Mode;
  body: Uint8Array;
  timeout: number;
  abort: AbortController | null;
}

function makeAsk(mode: Mode, { bytes = random.size(BODY), timeout = TIMEOUT_MS, abort }: How): Ask {
  const id = books.next;
  books.outcome[id] = b.ISSUED;
  books.next = id + 1;
  waiting.set(id, { end: performance.now() + timeout, turns: 0 });
  const start = bytes > BODY ? 0 : random.below((BODY - bytes) / 4 + 1) * 4;
  return { id, nonce: random.next(), mode, body: pool.subarray(start, start + bytes), timeout, abort: abort ?? null };
}

function requestOf({ id, nonce, mode, body }: Ask, waitMs: number) {
  const sum = body.length > BODY ? 0 : b.checksum(body, nonce);
  return { path: mode, id: String(id), query: `${id}.${nonce}.${sum}.${body.length}.${waitMs}`, body };
}

/** Asks and waits; never rejects. Resolves to the worker that answered, or 0. */
async function ask(mode: Mode, how: How = {}): Promise<number> {
  const asked = makeAsk(mode, how);
  const request = requestOf(asked, how.waitMs ?? 0);
  const options = { timeout: asked.timeout, signal: asked.abort?.signal };
  try {
    if (!how.borrow) return check(asked, await bus.request(request, options));
    using loan = await bus.borrow(request, options);
    return check(asked, loan);
  } catch (error) {
    failed(asked, error);
    return 0;
  }
}

/** Longer than both rings, so that each side waits for the other. */
const STREAM = 700_000;

/** Streams a body there and back; its reader stalls at first. Never rejects. */
async function askStream(mode: "pipe" | "broken"): Promise<void> {
  const asked = makeAsk(mode, { bytes: 0 });
  async function* source(): AsyncGenerator<Uint8Array> {
    for (let sent = 0; sent < STREAM; sent += BODY) {
      yield pool.subarray(0, Math.min(BODY, STREAM - sent));
      if (sent === 0) await Bun.sleep(1);
    }
  }
  const request = { ...requestOf(asked, 0), body: source() };
  try {
    const response = await bus.stream(request, { timeout: asked.timeout, idle: TIMEOUT_MS });
    await Bun.sleep(25); // both rings are full by then
    const bytes = await response.bytes();
    settle(asked.id, b.ANSWERED);
    if (mode === "broken") return wrong(asked, "did not fail");
    if (response.headers.get("tag") !== `${asked.id}.${asked.nonce}`) return wrong(asked, "has another's tag");
    if (bytes.length !== STREAM) return wrong(asked, `streamed ${bytes.length} bytes`);
    const key = asked.nonce & 255;
    if (bytes.some((byte, n) => byte !== (pool[n % BODY]! ^ key))) wrong(asked, "streamed other bytes");
  } catch (error) {
    failed(asked, error);
  }
}

function askSync(mode: Mode, how: How): void {
  const asked = makeAsk(mode, how);
  try {
    check(asked, bus.requestSync(requestOf(asked, how.waitMs ?? 0), { timeout: asked.timeout }));
  } catch (error) {
    failed(asked, error);
  }
}

function settle(id: number, bit: number): void {
  const before = books.outcome[id]!;
  books.outcome[id] = before | bit | (before & b.SETTLED ? b.TWICE : 0);
  waiting.delete(id);
}

function wrong(asked: Ask, what: string): void {
  books.outcome[asked.id]! |= b.WRONG;
  broken(`request ${asked.id} (${asked.mode}, ${asked.body.length} bytes): ${what}`);
}

function check(asked: Ask, response: BusResponse): number {
  const { id, nonce, body } = asked;
  settle(id, b.ANSWERED);
  const right = new Uint8Array(body.length);
  b.transform(body, nonce, right);
  const tag = response.headers.get("tag");
  if (tag !== `${id}.${nonce}`) wrong(asked, `answered with ${tag}`);
  else if (!same(response.body, right)) wrong(asked, "answered with other bytes");
  return response.workerPid;
}

function failed(asked: Ask, error: unknown): void {
  if (asked.abort?.signal.aborted && error === gaveUp) return settle(asked.id, b.ABORTED);
  if (!(error instanceof SlotbusError)) {
    settle(asked.id, b.FAILED);
    return wrong(asked, `failed with ${Bun.inspect(error)}`);
  }
  settle(asked.id, error.mayHaveExecuted ? b.FAILED : b.REFUSED);
  if (error instanceof WorkerDiedError) died++;
  if (error instanceof RemoteError) {
    const may = ["throw", "broken", "pipe"].includes(asked.mode); // a worker that blocks refuses streams
    const meant = may && error.message.endsWith(`refused ${asked.id}.${asked.nonce}`);
    if (!meant) wrong(asked, `failed with ${error.message}`);
  } else if (error instanceof RequestTimeoutError) {
    if (asked.timeout === TIMEOUT_MS) wrong(asked, `nobody was stopped as long, and yet ${error.message}`);
  } else if (!EXPECTED.some((kind) => error instanceof kind)) {
    wrong(asked, `failed with ${Bun.inspect(error)}`);
  }
}

/** Asks, and gives up when `when` resolves. */
async function askUntil(mode: Mode, when: (id: number) => Promise<void> | null): Promise<void> {
  const abort = new AbortController();
  const asked = ask(mode, { bytes: 100, abort });
  const later = when(books.next - 1);
  if (later) await later;
  abort.abort(gaveUp);
  await asked;
}

/** Blocks the thread until the request is answered and the answer not yet taken, or 100 ms. */
function answered(id: number): null {
  const isDone = (): boolean =>
    bus.diagnostics().slots.some(({ requestId, state }) => requestId === String(id) && state === "DONE");
  for (const end = performance.now() + 100; performance.now() < end && !isDone(););
  return null;
}

// ---- acts -----------------------------------------------------------------------------------------------------------

function many(count: number, one: (n: number) => Promise<unknown>): Promise<unknown> {
  return Promise.all(Array.from({ length: count }, (_, n) => one(n)));
}

async function mixed(): Promise<void> {
  const tooLarge = ask("now", { bytes: LIMIT + 1 });
  const borrowed = ask("now", { borrow: true });
  const modes: readonly Mode[] = ["now", "reserve", "later", "throw"];
  await many(REQUESTS, () => ask(random.pick(modes), { waitMs: random.below(3) }));
  await Promise.all([tooLarge, borrowed]);
  for (let n = 0; n < 4; n++) {
    await Bun.sleep(2); // both sides park
    await many(2, () => ask("now"));
  }
}

async function streams(): Promise<void> {
  await many(6, () => askStream("pipe"));
  await Promise.all([askStream("broken"), ask("now")]);
}

async function giveUp(): Promise<void> {
  for (let n = 0; n < 3; n++) await askUntil("now", answered);
  await many(4, () => askUntil("now", () => null));
  await many(2, () => askUntil("late", () => Bun.sleep(8)));
  const busy = many(2, () => ask("block", { waitMs: 60, bytes: 10 }));
  await Bun.sleep(4);
  await many(4, () => ask("now", { timeout: 25, bytes: 200 })); // no worker takes them
  await busy;
  await many(2, () => ask("late", { timeout: 25, bytes: 200, waitMs: 5 }));
  await Bun.sleep(45);
}

async function blocking(): Promise<void> {
  for (let n = 0; n < 2; n++) {
    const other = ask("later", { waitMs: 15, bytes: 10 }); // its worker is not asked now
    askSync("now", {});
    askSync("block", { waitMs: 4 });
    await other;
    askSync("block", { waitMs: 4 });
  }
  askSync("block", { waitMs: 50, timeout: 25 });
  await Bun.sleep(60);
}

async function cold(): Promise<void> {
  for (let n = 0; n < 2; n++) {
    await Bun.sleep(40); // a blocking worker sleeps on its socket now
    await many(2, () => ask("now"));
  }
}

async function far(): Promise<void> {
  await many(FAR, () => ask("far", { bytes: 64 }));
  await Bun.sleep(50); // the tick that finds nothing gives the memory back
}

async function reopen(): Promise<void> {
  const asked = many(6, (n) => ask("later", { waitMs: n * 10, bytes: 100 }));
  await bus.close({ timeout: 25 });
  await asked;
  await open();
  await mixed();
}

const acts: Record<Act, () => Promise<void>> = {
  mixed,
  streams,
  giveup: giveUp,
  sync: blocking,
  cold,
  far,
  attach: mixed,
  reopen,
};

// ---- proof ----------------------------------------------------------------------------------------------------------

/** Everybody works, nothing is under way, nothing is held. */
async function prove(workers: number): Promise<void> {
  const faults: string[] = [];
  const reach = (condition: () => boolean, what: string): Promise<void> =>
    until(condition, what, TIMEOUT_MS).catch((error) => void faults.push(error.message));
  await reach(() => waiting.size === 0, "every request has settled");
  const lost = waiting.size;
  await reach(() => bus.workers.length === workers, `${workers} workers are attached`);
  if (bus.workers.length !== workers) faults.push(`attached are ${bus.workers.map(({ pid }) => pid).join()}`);
  const heard = new Set<number>();
  for (let n = 0; n < 200 && heard.size < workers; n++) {
    const round = Array.from({ length: 2 * workers }, () => ask("now", { bytes: 1000 }));
    for (const pid of await Promise.all(round)) if (pid > 0) heard.add(pid);
    if (heard.size < workers) await Bun.sleep(5);
  }
  if (heard.size < workers) faults.push(`of ${workers} workers only ${[...heard].join()} answers`);
  await reach(() => bus.diagnostics().slots.every(({ state }) => state === "FREE"), "every slot is free");
  const { inFlight, queued, workersEvicted } = bus.stats();
  if (inFlight + queued + workersEvicted > 0)
    faults.push(`stats(): inFlight ${inFlight}, queued ${queued}, workersEvicted ${workersEvicted}`);
  say({ is: "proved", faults, lost, died });
  died = 0;
}

/** A start that fails has failed with one typed error, and the next one succeeds. */
async function open(): Promise<void> {
  for (let attempt = 0; ; attempt++) {
    try {
      bus = await SlotBus.create({ name: name!, slots: SLOTS, payloadBytes: LIMIT });
      bus.ref();
      return;
    } catch (error) {
      if (attempt > 0 || !(error instanceof SlotbusError)) throw error;
      say({ is: "refused", code: error.code });
    }
  }
}

function overdue(): void {
  const now = performance.now();
  for (const [id, item] of waiting) {
    if (now < item.end || ++item.turns !== OVERDUE_TURNS) continue;
    broken(`request ${id} has not settled ${OVERDUE_TURNS * TURN_MS} ms after its timeout`);
  }
}

async function obey(order: Order): Promise<void> {
  if (order.do === "go") {
    await open();
    setInterval(overdue, TURN_MS);
    say({ is: "open" });
  } else if (order.do === "act") {
    await acts[order.act]();
    say({ is: "acted" });
  } else if (order.do === "prove") {
    await prove(order.workers);
  } else {
    await bus.close();
    process.exit(0);
  }
}

process.on("disconnect", () => process.exit(0));
process.on("message", (order: Order) => {
  obey(order).catch((error) => broken(`the client, told to ${order.do}: ${Bun.inspect(error)}`));
});
say({ is: "loaded" });
