/**
 * `hostile/client.ts NAME BOOKS SEED`: the client that is attacked. It sends requests at a steady rate, checks every
 * response, and measures the delay of its own timer, the time of honest responses, and the number of its descriptors.
 */

import { readFileSync } from "node:fs";
import {
  type BusResponse,
  PayloadTooLargeError,
  RequestTimeoutError,
  SlotBus,
  SlotbusError,
  WorkerDiedError,
} from "../../../src/index.ts";
import { descriptors, mappings, until } from "../../support.ts";
import type { Common } from "../actor.ts";
import * as flows from "../flows.ts";
import { BEGAN, Random, REPLIED } from "../soak/request-books.ts";
import type { Outcome } from "./attacks.ts";
import { answerTo, AttackBooks, PAYLOAD, PREFIX, question } from "./attack-books.ts";

/** What the supervisor says. */
export type Order =
  | { do: "open"; honest: number[] }
  /** `streams`: a third of the requests. */
  | { do: "load"; streams: boolean }
  | { do: "rest" | "end" }
  /** One more honest worker. */
  | { do: "trust"; pid: number }
  /** Begins a phase; the report is of the one that ends. */
  | { do: "phase" }
  /** What became of a process that was attached `lives` times and has ended. */
  | { do: "fate"; pid: number; lives: number; expects: readonly Outcome[]; also: readonly Outcome[] }
  | { do: "quiet"; workers: number };

export interface Phase {
  /** Of honest answers, in ms. */
  latencies: number[];
  /** How late the timer of the client was at most, in ms. */
  gap: number;
  /** The same without the time in which the client could have run and had no processor. */
  blocked: number;
  /** Most descriptors that it had. */
  fds: number;
}

export interface Tally {
  requests: number;
  /** Responses of honest workers, and responses of attackers. */
  answers: number;
  forged: number;
  /** Streams of honest workers. */
  streams: number;
  errors: number;
  lost: number;
  doubled: number;
  misdelivered: number;
}

/** Messages of the client. */
export type Report =
  | Common
  | { is: "open" }
  | ({ is: "phase" } & Phase)
  | { is: "fate"; outcomes: Outcome[]; reasons: string[]; wholeStreams: number }
  | { is: "quiet"; leaks: string[]; rss: number; tally: Tally };

const SLOTS = 16;
/** Most requests in flight: two honest workers have room for them. */
const MOST = 28;
const BURST = 16;
/** Timeout of a request, long enough on a busy machine; no honest request may come near it. */
const TIMEOUT_MS = 30_000;
/** Timeout of one request in 16, so short that timing out is not the worker's fault. */
const SHORT_MS = 60;
/** Time after which the client gives up three in four of an attacker's requests. */
const PATIENCE_MS = 30;
const BEAT_MS = 5;
/** Record of a stream's handler. */
const RAN = BEGAN + REPLIED;

const [name, directory, seed] = process.argv.slice(2);
const books = new AttackBooks(directory!);
const random = new Random(Number(seed));
const noise = new Uint8Array(4 * PAYLOAD).map(() => random.next());
const gaveUp = new Error("the supervisor's client gave it up");
const honest = new Set<number>();
const tally: Tally = {
  requests: 0,
  answers: 0,
  forged: 0,
  streams: 0,
  errors: 0,
  lost: 0,
  doubled: 0,
  misdelivered: 0,
};
let bus: SlotBus;
let loading = false;
let streaming = false;
let baseline: { fds: number; maps: number } | null = null;

interface Asked {
  /** `null`: it streams. */
  body: Uint8Array | null;
  at: number;
  timeoutMs: number;
  /** It was sent to an attacker. */
  exposed: boolean;
  abort: AbortController;
}
type Whole = Asked & { body: Uint8Array };
const waiting = new Map<number, Asked>();
let nextId = 0;

function say(report: Report): void {
  process.send!(report);
}

function broken(what: string): void {
  say({ is: "broken", what });
}

// ---- the load -------------------------------------------------------------------------------------------------------

/** Returns the id of an attacker: a worker that leaves requests unclaimed gets only what is for no other worker. */
function attackerThere(): number | undefined {
  return bus.workers.find((worker) => !honest.has(worker.pid))?.id;
}

function ask(): void {
  const id = nextId++;
  if (streaming && id % 3 === 0) return void askStream(id);
  const bytes = random.size(PAYLOAD / 4) * 4;
  const from = random.below(3 * PAYLOAD);
  const body = question(id, random.next(), noise.subarray(from, from + bytes));
  const timeoutMs = id % 16 === 5 ? SHORT_MS : TIMEOUT_MS;
  // A new worker gets requests of its own too: the others may be fast enough for all.
  const worker = id % 4 === 1 ? attackerThere() : id % 8 === 7 ? bus.workers.at(-1)?.id : undefined;
  const exposed = worker !== undefined;
  const asked: Whole = { body, at: performance.now(), timeoutMs, exposed, abort: new AbortController() };
  waiting.set(id, asked);
  tally.requests++;
  const idempotent = id % 8 === 3;
  const options = { timeout: timeoutMs, signal: asked.abort.signal, idempotent, worker };
  void bus.request({ path: "/ask", id: String(id), body }, options).then(
    (response) => answered(id, asked, response),
    (reason) => failed(id, asked, reason),
  );
}

/** One that streams both ways, or one: an honest worker sends every byte, an attacker only bytes of its own arena. */
async function askStream(id: number): Promise<void> {
  const nonce = random.next();
  const kind = random.pick(["upload", "download", "echo"] as const);
  const length = random.size(random.chance(0.1) ? 8 * PAYLOAD : 2_000);
  const [requestBytes, responseBytes] = [kind === "download" ? 0 : length, kind === "upload" ? 0 : length];
  const abort = new AbortController();
  const worker = id % 2 === 0 ? attackerThere() : undefined;
  const exposed = worker !== undefined;
  const asked: Asked = { body: null, at: performance.now(), timeoutMs: TIMEOUT_MS, exposed, abort };
  waiting.set(id, asked);
  tally.requests++;
  const query = flows.writeOrder({ id, nonce, requestBytes, responseBytes, pace: 0, failAt: -1, leaveAt: -1 });
  const source = flows.generate({ nonce, length, pace: 0, failAt: -1, error: null });
  const request = { path: kind, id: String(id), query, body: kind === "download" ? undefined : source };
  const arrival = new flows.Arrival(flows.answerNonce(nonce), kind === "upload" ? 16 : length);
  try {
    const response = await bus.stream(request, { timeout: TIMEOUT_MS, signal: abort.signal, worker });
    const isHonest = honest.has(response.workerPid);
    for await (const chunk of response.chunks()) {
      const foreign = isHonest ? -1 : chunk.findIndex((byte) => byte !== 0xee);
      if (isHonest && kind !== "upload") arrival.add(chunk);
      else if (foreign >= 0) arrival.wrong ??= `byte ${foreign} of an attacker's stream is not its own`;
    }
    if (isHonest && kind !== "upload" && arrival.bytes !== length) arrival.wrong ??= "it ended too soon";
    if (isHonest && books.runs[id] !== RAN) arrival.wrong ??= `it ran ${books.runs[id]} times`;
    close(id);
    if (isHonest) tally.streams++;
    else {
      tally.forged++;
      if (kind !== "upload") fateOf(response.workerPid).wholeStreams++;
    }
  } catch (error) {
    failed(id, asked, error);
  }
  if (arrival.wrong) {
    tally.misdelivered++;
    broken(`stream ${id} (${kind}, ${length} bytes): ${arrival.wrong}`);
  }
}

function burst(): void {
  if (!loading) return;
  setTimeout(burst, 1 + random.below(5));
  for (let n = 1 + random.below(BURST); n > 0 && waiting.size < MOST; n--) ask();
  place();
}

/** Which requests a dishonest worker has: their errors and delays are its own. */
function place(): void {
  const now = performance.now();
  for (const { requestId, workerPid } of bus.diagnostics().slots) {
    if (requestId === null || honest.has(workerPid)) continue;
    const asked = waiting.get(Number(requestId));
    if (!asked) continue;
    asked.exposed = true;
    if ((Number(requestId) % 4 !== 0 || !asked.body) && now - asked.at > PATIENCE_MS) asked.abort.abort(gaveUp);
  }
}

function close(id: number): void {
  if (!waiting.delete(id)) {
    tally.doubled++;
    broken(`request ${id} settled twice`);
  }
}

function answered(id: number, asked: Whole, response: BusResponse): void {
  close(id);
  if (!honest.has(response.workerPid)) return judgeForged(id, asked, response);
  const right = Buffer.compare(response.body, answerTo(asked.body)) === 0;
  tally.answers++;
  if (!asked.exposed) latencies.push(performance.now() - asked.at);
  if (!right) {
    tally.misdelivered++;
    broken(`request ${id} got wrong bytes from honest worker ${response.workerPid}`);
  }
  if (books.runs[id] === 1) return;
  if (books.runs[id]! > 1) tally.doubled++;
  broken(`request ${id} was answered and ran ${books.runs[id]} times`);
}

/** An attacker may say what it likes, but only from its own arena, which it has filled with marks. */
function judgeForged(id: number, asked: Whole, response: BusResponse): void {
  tally.forged++;
  if (books.runs[id]! > 0) broken(`request ${id} ran, and was answered by pid ${response.workerPid}`);
  const { status, body, contentType, headers } = response;
  if (status < 200 || status > 599) broken(`an attacker's answer has status ${status}`);
  if (body.length > PAYLOAD + PREFIX) broken(`an attacker's answer has ${body.length} bytes`);
  if (typeof contentType !== "string" || [...headers].length > 65_535) broken("an attacker's head cannot be read");
  if (body.length === asked.body.length && body[0] === asked.body[0]) return; // as an honest one would, or nearly
  const foreign = body.findIndex((byte, at) => at >= 64 && byte !== 0xee && byte !== 0);
  if (foreign >= 0) tally.misdelivered++;
  if (foreign >= 0) broken(`byte ${foreign} of an attacker's answer to ${id} (${body.length} bytes) is not its own`);
}

function failed(id: number, asked: Asked, reason: unknown): void {
  close(id);
  if (reason === gaveUp) return;
  tally.errors++;
  if (!(reason instanceof SlotbusError)) return broken(`request ${id} failed with ${reason}`);
  if (!reason.mayHaveExecuted && books.runs[id]! > 0) broken(`request ${id} ran, and its error denies it: ${reason}`);
  const late = reason instanceof RequestTimeoutError && performance.now() - asked.at >= asked.timeoutMs - 1;
  if (late && (asked.exposed || asked.timeoutMs === SHORT_MS)) return;
  // What an attacker had when a burst made the client evict it is settled before this program could see it there.
  const isNamed = reason instanceof WorkerDiedError || (reason as SlotbusError).code === "REGION_CORRUPT";
  const pid = Number(/\bworker pid (\d+)/i.exec(reason.message)?.[1]);
  if (isNamed && !honest.has(pid) && books.runs[id] === 0) return;
  if (asked.exposed && ["REMOTE", "NO_WORKER", "BUS_OVERLOADED"].includes(reason.code)) return; // it has gone or is full
  // Of a stream the error says what, not who; no honest handler ran.
  const isForeign = (reason as SlotbusError).code === "REGION_CORRUPT" || reason.code === "REMOTE";
  if (!asked.body && isForeign && books.runs[id] === 0) return;
  if (reason instanceof PayloadTooLargeError && books.runs[id] === 0) return; // whole, and longer than is taken
  tally.lost++;
  broken(`request ${id}, ${asked.exposed ? "of an attacker" : "honest"}, failed with ${reason}`);
}

// ---- phases ---------------------------------------------------------------------------------------------------------

let latencies: number[] = [];
let gap = 0;
let blocked = 0;
let mostFds = 0;
let beats = 0;
let due = 0;
let waited = 0;
let heart: ReturnType<typeof setInterval> | null = null;

/** For how long this thread has waited for a processor, in ms. */
function waitedMs(): number {
  return Number(readFileSync(`/proc/self/task/${process.pid}/schedstat`, "latin1").split(" ")[1]) / 1e6;
}

function beat(): void {
  const now = performance.now();
  const nowWaited = waitedMs();
  gap = Math.max(gap, now - due);
  blocked = Math.max(blocked, now - due - (nowWaited - waited));
  due = now + BEAT_MS;
  waited = nowWaited;
  if (++beats % 4 === 0) mostFds = Math.max(mostFds, descriptors());
}

function phase(): void {
  beat();
  say({ is: "phase", latencies, gap, blocked, fds: mostFds });
  latencies = [];
  gap = blocked = mostFds = 0;
}

/** At rest there is no timer of this program. */
function setHeart(on: boolean): void {
  if (heart) clearInterval(heart);
  due = performance.now() + BEAT_MS;
  waited = waitedMs();
  heart = on ? setInterval(beat, BEAT_MS) : null;
}

// ---- what became of attackers ---------------------------------------------------------------------------------------

interface Fate {
  ended: number;
  /** Streams of its own that ended without an error. */
  wholeStreams: number;
  outcomes: Set<Outcome>;
  reasons: string[];
}
const fates = new Map<number, Fate>();

function fateOf(pid: number): Fate {
  let fate = fates.get(pid);
  if (!fate) fates.set(pid, (fate = { ended: 0, wholeStreams: 0, outcomes: new Set(), reasons: [] }));
  return fate;
}

async function tellFate({ pid, lives, expects, also }: Extract<Order, { do: "fate" }>): Promise<void> {
  const fate = fateOf(pid);
  const settled = (): boolean =>
    !bus.workers.some((worker) => worker.pid === pid) &&
    fate.ended >= lives &&
    (!expects.includes("refused") || fate.outcomes.has("refused"));
  await until(settled, `the client reports the end of pid ${pid}`, 5_000).catch((error) => {
    if (also.length === 0) broken(error.message);
  });
  if (fate.outcomes.size === 0) fate.outcomes.add("survived");
  const { wholeStreams, reasons } = fate;
  say({ is: "fate", outcomes: [...fate.outcomes], reasons, wholeStreams });
  fates.delete(pid);
}

// ---- quiet points ---------------------------------------------------------------------------------------------------

/** Nothing under way: nothing lost, nothing held. */
async function quiet(workers: number): Promise<void> {
  const leaks: string[] = [];
  const reach = (condition: () => boolean, what: string): Promise<void> =>
    until(condition, what, 10_000).catch((error) => void leaks.push(error.message));
  await reach(() => waiting.size === 0, "every request has settled");
  tally.lost += waiting.size;
  waiting.clear();
  await reach(() => bus.workers.length === workers, `only ${workers} workers are attached`);
  const left = bus.diagnostics();
  for (const { slot, state, workerPid } of left.slots)
    if (state !== "FREE") leaks.push(`slot ${slot} of worker ${workerPid} is ${state}`);
  if (left.queued.length > 0) leaks.push(`${left.queued.length} requests wait`);
  if (bus.stats().inFlight !== 0) leaks.push(`${bus.stats().inFlight} requests are in flight`);
  baseline ??= { fds: descriptors(), maps: mappings() };
  const { fds, maps } = baseline;
  await reach(() => descriptors() <= fds, `no more than ${fds} descriptors (now ${descriptors()})`);
  await reach(() => mappings() <= maps, `no more than ${maps} mappings (now ${mappings()})`);
  Bun.gc(true);
  const rss = Number(/^RssAnon:\s+(\d+)/m.exec(readFileSync("/proc/self/status", "latin1"))![1]) / 1024;
  say({ is: "quiet", leaks, rss, tally });
}

async function open(workers: number[]): Promise<void> {
  for (const pid of workers) honest.add(pid);
  bus = await SlotBus.create({ name: name!, slots: SLOTS, payloadBytes: PAYLOAD + PREFIX, headBytes: 4096 });
  bus.ref();
  bus.on("left", ({ pid }) => void fateOf(pid).ended++);
  bus.on("died", ({ pid }, reason) => {
    if (honest.has(pid)) return broken(`honest worker ${pid} ${reason}`);
    const fate = fateOf(pid);
    fate.ended++;
    fate.reasons.push(reason);
    fate.outcomes.add(reason.startsWith("was evicted") ? "evicted" : "survived");
  });
  bus.on("refused", ({ pid }, reason) => {
    if (honest.has(pid)) return broken(`honest worker ${pid} was refused: ${reason}`);
    fateOf(pid).reasons.push(reason);
    fateOf(pid).outcomes.add("refused");
  });
  say({ is: "open" });
}

process.on("disconnect", () => process.exit(0));
process.on("message", async (order: Order) => {
  if (order.do === "open") await open(order.honest);
  else if (order.do === "load" || order.do === "rest") {
    loading = order.do === "load";
    if (order.do === "load") streaming = order.streams;
    setHeart(loading);
    burst();
  } else if (order.do === "trust") honest.add(order.pid);
  else if (order.do === "phase") phase();
  else if (order.do === "fate") await tellFate(order);
  else if (order.do === "quiet") await quiet(order.workers);
  else if (order.do === "end") {
    await bus.close();
    process.exit(0);
  }
});
say({ is: "loaded" });
