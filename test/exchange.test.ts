/** An exchange, and the queue of waiting exchanges. */

import { expect, test } from "bun:test";
import { Head } from "../src/bus/head.ts";
import { Exchange, type ExchangeOwner } from "../src/bus/exchange.ts";
import { ExchangeQueue } from "../src/bus/queue.ts";
import { Turns } from "../src/bus/turns.ts";
import { systemClock } from "../src/clock.ts";
import { type RequestTimeoutError, type StreamedResponse, WorkerDiedError } from "../src/index.ts";
import { rejection } from "./support.ts";

const nothing = (): void => {};

/** An owner whose clock the test sets, and which records its calls. */
class Owner implements ExchangeOwner {
  now = 0;
  over_ = 0;
  readonly clock = { ...systemClock, now: () => this.now };
  readonly turns = new Turns(this.clock);
  readonly counted: string[] = [];
  readonly statistics = { count: (name: string) => this.counted.push(name) } as unknown as ExchangeOwner["statistics"];
  readonly options = { name: "test", payloadBytes: 1_024, headBytes: 1_024 };

  idOf({ serial }: Exchange): string {
    return String(serial);
  }

  closedError(): null {
    return null;
  }

  over(): void {
    this.over_++;
  }

  readonly putBack = nothing;
  readonly retry = nothing;
  readonly died = nothing;
  readonly vacated = nothing;
}

const owner = new Owner();

function make(serial: number, timeoutMs = 1_000, reject: (reason: unknown) => void = nothing): Exchange {
  return new Exchange(owner, { path: "/" }, {}, "copy", serial, timeoutMs, nothing, reject);
}

function serials(queue: ExchangeQueue): number[] {
  const out: number[] = [];
  queue.each(({ serial }) => out.push(serial));
  expect(out.length).toBe(queue.length);
  return out;
}

test("the queue behaves like an array under pushes at both ends and removals anywhere", () => {
  const queue = new ExchangeQueue();
  let model: Exchange[] = [];
  let seed = 42;
  const random = (n: number) => (seed = (seed * 1_103_515_245 + 12_345) & 0x7fffffff) % n;
  for (let i = 0; i < 5_000; i++) {
    const action = random(3);
    if (action === 2 && model.length > 0) {
      const [removed] = model.splice(random(model.length), 1);
      queue.remove(removed!);
      queue.remove(removed!); // a second call does nothing
      expect(removed!.isQueued).toBe(false);
    } else {
      const exchange = make(i);
      if (action === 1) {
        queue.pushFront(exchange);
        model = [exchange, ...model];
      } else {
        queue.pushBack(exchange);
        model.push(exchange);
      }
    }
    if (i % 50 === 0) expect(serials(queue)).toEqual(model.map(({ serial }) => serial));
  }
  expect(serials(queue)).toEqual(model.map(({ serial }) => serial));
  expect(model.length).toBeGreaterThan(100);
});

/** A source that never gives anything, and how often it was closed. */
function silent(): { body: AsyncIterableIterator<Uint8Array>; closed: () => number } {
  let closed = 0;
  const { promise, resolve } = Promise.withResolvers<IteratorResult<Uint8Array>>();
  const body: AsyncIterableIterator<Uint8Array> = {
    next: () => promise,
    return: async () => {
      closed++;
      resolve({ done: true, value: undefined });
      return { done: true, value: undefined };
    },
    [Symbol.asyncIterator]: () => body,
  };
  return { body, closed: () => closed };
}

const answer = Head.decode(new Uint8Array([1, 0, 0, 0, 0]), 1);
const carrier = { pid: 1, withdraw: () => "no" as const, timeLeft: () => 1_000 };

test("a source that no worker has begun to read is closed when the request gets its response", async () => {
  const { body, closed } = silent();
  const exchange = new Exchange(owner, { path: "/", body }, {}, "copy", 1, 1_000, nothing, nothing);
  exchange.beginBody();
  exchange.carrier = carrier;
  expect(exchange.hasSource).toBe(true);
  exchange.answered(200, answer, new Uint8Array(0), null);
  await Promise.resolve();
  expect(closed()).toBe(1);
});

test("a source that waits for room is closed when its request fails", async () => {
  const { body, closed } = silent();
  const exchange = new Exchange(owner, { path: "/", body }, {}, "copy", 1, 1_000, nothing, nothing);
  const outgoing = {
    onClosed: null,
    write: () => 0,
    reserve: async () => true,
    flush: () => true,
    end: nothing,
    close: nothing,
  };
  exchange.beginBody();
  exchange.carrier = carrier;
  exchange.claimed(outgoing);
  await Promise.resolve();
  exchange.fail(new Error("the worker wrote a malformed head"));
  await Promise.resolve();
  expect(closed()).toBe(1);
});

/** A streamed response that is collected, and whose connection has not reported its end; awaits its time limit of 5 ms. */
async function collectLate(end: "open" | "end"): Promise<{ outcome: string[]; withdrawn: number; counted: string[] }> {
  const outcome: string[] = [];
  let withdrawn = 0;
  const mine = new Owner();
  const resolve = (): void => void outcome.push("resolved");
  const reject = (error: unknown): void => void outcome.push((error as Error).name);
  const exchange = new Exchange(mine, { path: "/" }, {}, "copy", 1, 1_000, resolve, reject);
  const withdraw = (): "asked" => (withdrawn++, "asked");
  exchange.carrier = { pid: 1, withdraw, timeLeft: () => 5 };
  exchange.began(200, answer, { onMoved: null, end, read: () => null, errorHead: () => null });
  await Bun.sleep(20);
  return { outcome, withdrawn, counted: mine.counted };
}

test("the time limit of a collected response ends it", async () => {
  const { outcome, withdrawn, counted } = await collectLate("open");
  expect([outcome, withdrawn, counted]).toEqual([["RequestTimeoutError"], 1, ["timeouts"]]);
});

test("a collected response whose end was read, but not reported yet, does not time out", async () => {
  const { outcome, withdrawn, counted } = await collectLate("end");
  expect([outcome, withdrawn, counted]).toEqual([["resolved"], 0, []]);
});

test("a stream whose connection ends before its slot was complete fails, even if its ring has an end", async () => {
  const { promise, resolve } = Promise.withResolvers<unknown>();
  const exchange = new Exchange(owner, { path: "/" }, {}, "stream", 1, 1_000, resolve, nothing);
  exchange.carrier = carrier;
  const bytes = [new TextEncoder().encode("half")];
  exchange.began(200, answer, { onMoved: null, end: "end", read: () => bytes.pop() ?? null, errorHead: () => null });
  exchange.lost("maybe", "was evicted", 1_000);
  const got: string[] = [];
  const reading = (async () => {
    for await (const chunk of ((await promise) as StreamedResponse).chunks()) got.push(chunk.toString());
  })();
  expect(await rejection(reading)).toBeInstanceOf(WorkerDiedError);
  expect(got.length).toBe(1); // what had arrived
});

test("the rest of a timeout counts from the call, is at least 1 ms, and Infinity stays infinite", () => {
  const exchange = make(1);
  expect(exchange.timeLeft()).toBe(1_000); // it never queued
  exchange.extra.startedAt = 100;
  const at = (now: number): number => {
    owner.now = now;
    return exchange.timeLeft();
  };
  expect([at(350), at(5_000)]).toEqual([750, 1]);
  const unlimited = make(2, Infinity);
  unlimited.extra.startedAt = 100;
  expect(unlimited.timeLeft()).toBe(Infinity);
});

test("a timeout says where the time went: never queued, never sent, both", () => {
  const times: [number, number][] = [];
  const keep = (error: unknown): void => {
    const { queuedMs, ranMs } = error as RequestTimeoutError;
    times.push([queuedMs, ranMs]);
  };
  const expire = (exchange: Exchange, now: number): void => {
    owner.now = now;
    exchange.expired("no");
  };
  expire(make(1, 1_000, keep), 9_999);
  const queued = make(2, 1_000, keep);
  queued.extra.startedAt = 100;
  expire(queued, 400);
  const sent = make(3, 1_000, keep);
  sent.extra.startedAt = 100;
  owner.now = 300;
  sent.timeLeft();
  expire(sent, 1_100);
  expect(times).toEqual([
    [0, 1_000],
    [300, 0],
    [200, 800],
  ]);
});

test("an exchange settles once and ends once, and ignores all later events", () => {
  const reasons: unknown[] = [];
  const before = owner.over_;
  const exchange = make(1, 1_000, (reason) => reasons.push(reason));
  exchange.fail("first");
  exchange.fail("second");
  exchange.abort("third");
  exchange.giveUp(() => "fourth");
  expect([reasons, owner.over_ - before, exchange.isSettled]).toEqual([["first"], 1, true]);
});
