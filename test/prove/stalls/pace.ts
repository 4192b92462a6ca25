/**
 * `stalls/pace.ts NAME BOOKS SEED [PART]`: waits for "go", then sends requests at a steady rate and measures each phase. With
 * `PART`, it shares its bus with other clients and writes to that part of the books.
 */

import { SlotBus } from "../../../src/index.ts";
import { until } from "../../support.ts";
import type { Common } from "../actor.ts";
import { Asker, LIMIT } from "../asker.ts";
import * as flows from "../flows.ts";
import * as b from "../soak/request-books.ts";
import { Times } from "../soak/times.ts";

/**
 * A phase of `ms`; responses of worker `pid` do not count. `cost`: counts for `ms` what worker `pid` does not answer,
 * with at most `waiting` requests in flight. `stall`: stops in the middle of a stream; `read-on`: continues.
 */
export type Order =
  | { do: "go"; workers: number }
  | { do: "phase"; ms: number; pid: number }
  | { do: "cost"; ms: number; pid: number; waiting: number }
  | { do: "quiet" | "stall" | "read-on" };

/**
 * `p90`: in µs, of the workers other than the one named in the order; `most`: pid of the worker that answered most. `cost`: requests that the worker named in the order had and
 * did not answer. `answers`: of all workers.
 */
export type Report =
  | Common
  | { is: "open" }
  | { is: "stalled"; pid: number; read: number }
  | { is: "ended" }
  | { is: "phase"; p90: number; most: number }
  | { is: "cost"; cost: number; given: number; answers: number }
  | { is: "quiet"; lost: number };

/** Requests a second. */
const RATE = 1_000;
/** Shorter than a long stop, so that the stopped worker becomes suspect. */
const TIMEOUT_MS = 150;
/** Timeout of a request while the cost of a stop is counted. A stop is ten times as long: a client that trusted the stopped worker again would lose more. */
const COST_TIMEOUT_MS = 300;

const [name, directory, seed, part] = process.argv.slice(2);
const isShared = part !== undefined;
const books = new b.RequestBooks(directory!, Number(part ?? 0));
const say = (report: Report): void => void process.send!(report);
const asker = new Asker(books, new Times(directory!), Number(seed), (what) => say({ is: "broken", what }));

async function measure(ms: number, pid: number): Promise<void> {
  const latencies: number[] = [];
  const answers = new Map<number, number>();
  asker.onAnswer = (workerPid, taken) => {
    answers.set(workerPid, (answers.get(workerPid) ?? 0) + 1);
    if (workerPid !== pid) latencies.push(taken * 1000);
  };
  const started = performance.now();
  let asked = 0;
  for (let elapsed = 0; elapsed < ms; elapsed = performance.now() - started) {
    for (; asked < (elapsed * RATE) / 1000; asked++) {
      void asker.one({ mode: "sync", size: 64, timeout: TIMEOUT_MS, borrows: false, aborts: false });
    }
    await Bun.sleep(1);
  }
  await until(() => asker.waiting.size === 0, "every request of the phase has settled", 20_000);
  latencies.sort((x, y) => x - y);
  const p90 = latencies[Math.floor(0.9 * latencies.length)] ?? Infinity;
  const [most = 0] = [...answers].toSorted(([, x], [, y]) => y - x)[0] ?? [];
  say({ is: "phase", p90, most });
}

async function countCost({ ms, pid, waiting }: Extract<Order, { do: "cost" }>): Promise<void> {
  const given = new Set<number>();
  const before = asker.own.answers;
  for (const end = performance.now() + ms; performance.now() < end; await Bun.sleep(1)) {
    while (asker.waiting.size < waiting)
      void asker.one({ mode: "sync", size: 64, timeout: COST_TIMEOUT_MS, borrows: false, aborts: false });
    for (const { requestId, workerPid } of asker.bus.diagnostics().slots)
      if (workerPid === pid && requestId !== null) given.add(Number(requestId));
  }
  await until(() => asker.waiting.size === 0, "every request has settled", 20_000);
  const lost = [...given].filter((id) => (books.outcome[id]! & b.ANSWERED) === 0);
  say({ is: "cost", cost: lost.length, given: given.size, answers: asker.own.answers - before });
}

/** Starts a stream of the largest size whose reader stops after the first chunk, until the order `read-on`. */
async function stall(): Promise<void> {
  const id = books.next++;
  const nonce = 35 * id + 1; // the answer is a generator
  const responseBytes = flows.LONGEST;
  const query = flows.writeOrder({ id, nonce, requestBytes: 0, responseBytes, pace: 0, failAt: -1, leaveAt: -1 });
  books.outcome[id] = b.ISSUED;
  const response = await asker.bus.stream({ path: "download", id: String(id), query }, { timeout: 20_000 });
  const arrival = new flows.Arrival(flows.answerNonce(nonce), responseBytes);
  for await (const chunk of response.chunks()) {
    arrival.add(chunk);
    if (arrival.bytes > chunk.length) continue;
    say({ is: "stalled", pid: response.workerPid, read: arrival.bytes });
    await readOn.promise;
  }
  if (arrival.bytes !== responseBytes) arrival.wrong ??= `it ended after ${arrival.bytes} bytes of ${responseBytes}`;
  if (arrival.wrong) asker.wrong(id, `a stream that had stalled: ${arrival.wrong}`);
  books.outcome[id]! |= b.ANSWERED;
  books.countStream(arrival.bytes);
  say({ is: "ended" });
}
let readOn = Promise.withResolvers<void>();

process.on("disconnect", () => process.exit(0));
process.on("message", async (order: Order) => {
  if (order.do === "go") {
    const options = { name: name!, slots: 16, payloadBytes: LIMIT };
    const bus = isShared ? await SlotBus.connect(options) : await SlotBus.create(options);
    asker.bus = bus;
    bus.ref();
    bus.on("died", ({ pid }, reason) => say({ is: "broken", what: `pid ${pid} was only stopped: ${reason}` }));
    say({ is: "open" });
    await bus.ready({ workers: order.workers });
  } else if (order.do === "phase") await measure(order.ms, order.pid);
  else if (order.do === "cost") await countCost(order);
  else if (order.do === "stall") {
    readOn = Promise.withResolvers<void>();
    await stall();
  } else if (order.do === "read-on") readOn.resolve();
  else {
    await until(() => asker.waiting.size === 0, "every request has settled", 20_000).catch(() => {});
    say({ is: "quiet", lost: asker.waiting.size });
  }
});
say({ is: "loaded" });
