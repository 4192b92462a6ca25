/** Typed calls: contracts, their clients and workers, what is checked where, and which error each side gets. */

import { describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import fc from "fast-check";
import { z } from "zod";
import { FAILURE_TYPE } from "../src/codec.ts";
import { FRAME, FrameReader, FrameWriter } from "../src/contract/frames.ts";
import {
  type Client,
  type Codec,
  type Contract,
  ContractError,
  ContractMismatchError,
  contract,
  type Handlers,
  InvalidConfigError,
  isContractError,
  items,
  PayloadTooLargeError,
  RemoteError,
  RequestTimeoutError,
  rpc,
  type SlotBus,
  type SlotBusOptions,
  type SlotbusError,
  type SlotWorker,
  stream,
  typed,
  ValidationError,
} from "../src/index.ts";
import { flows } from "./fixtures/typed.ts";
import { pattern, rejection, same, until, Workspace } from "./support.ts";

/** A bus with a worker of the contract, and a client of it. */
async function open<C extends Contract>(
  space: Workspace,
  agreed: C,
  handlers: Handlers<C>,
  options: Partial<SlotBusOptions> = {},
): Promise<{ bus: SlotBus; worker: SlotWorker; client: Client<C> }> {
  const bus = await space.bus(options);
  const worker = (await space.worker()).implement(agreed, handlers);
  await bus.ready();
  return { bus, worker, client: bus.client(agreed) };
}

async function all<T>(source: AsyncIterable<T>): Promise<T[]> {
  const out: T[] = [];
  for await (const item of source) out.push(item);
  return out;
}

const LIMIT = 2 ** 24;

/** A copy of a frame. */
function encodeFrame(kind: number, payload: Uint8Array | string): Uint8Array {
  return new FrameWriter(LIMIT).write(kind, payload);
}

const Size = z.object({ width: z.int(), height: z.int().default(7) });

const demo = contract("demo", {
  hello: rpc<{ name: string }, { msg: string }>(),
  ping: rpc(),
  resize: rpc({ input: Size, output: z.object({ area: z.number() }) }),
  count: stream<{ to: number }, number>(),
});

const handlers: Handlers<typeof demo> = {
  hello: ({ name }) => ({ msg: `hi ${name}` }),
  ping: () => {},
  resize: ({ width, height }) => ({ area: width * height }),
  async *count({ to }) {
    for (let i = 0; i < to; i++) yield i;
  },
};

describe("calls", () => {
  test("input and output arrive, with and without an input, one at a time and many at once", async () => {
    await using space = new Workspace();
    const { client } = await open(space, demo, handlers);
    expect(await client.hello({ name: "Ada" })).toEqual({ msg: "hi Ada" });
    expect(await client.ping()).toBeUndefined();
    expect(await client.resize({ width: 3 })).toEqual({ area: 21 });
    const many = await Promise.all(Array.from({ length: 200 }, (_, i) => client.hello({ name: `${i}` })));
    expect(many.map(({ msg }) => msg)).toEqual(Array.from({ length: 200 }, (_, i) => `hi ${i}`));
    expect(Object.keys(client)).toEqual(["hello", "ping", "resize", "count"]);
    expect(await client).toBe(client); // not a thenable
  });

  test("any JSON value comes back as it went, as do bytes and undefined", async () => {
    await using space = new Workspace();
    const echo = contract("echo", { echo: rpc<unknown, unknown>(), each: stream<unknown[], unknown>() });
    const { client } = await open(space, echo, { echo: (value) => value, each: (values) => values });
    const values = fc.oneof(fc.jsonValue(), fc.string({ unit: "binary" }));
    await fc.assert(
      fc.asyncProperty(fc.array(values, { maxLength: 5 }), async (list) => {
        const plain = JSON.parse(JSON.stringify(list)) as unknown[]; // -0 and similar values
        expect(await client.echo(list)).toEqual(plain);
        expect(await all(client.each(list))).toEqual(plain);
      }),
      { numRuns: 100, examples: [[[]], [["", "\0", "\ud800", "\u2028", -0, 1e300]], [[{ ["__proto__"]: [null] }]]] },
    );
    expect(await client.echo(undefined)).toBeUndefined();
    expect(await client.echo(null)).toBeNull();
    expect(await client.echo("")).toBe("");
    for (const bytes of [new Uint8Array(0), pattern(100), pattern(1_000_000)]) {
      const answer = await client.echo(bytes);
      expect(answer).toBeInstanceOf(Uint8Array);
      expect(same(answer as Uint8Array, bytes)).toBe(true);
    }
  }, 30_000);

  test("bytes that a handler keeps do not change when another call has their slot", async () => {
    await using space = new Workspace();
    const kept: Uint8Array[] = [];
    const keeper = contract("keeper", { keep: rpc<Uint8Array, number>() });
    const { client } = await open(space, keeper, { keep: (bytes) => kept.push(bytes) }, { slots: 1 });
    const last = 99_999; // a small body would be copied in any case
    for (const fill of [1, 2, 3]) await client.keep(new Uint8Array(last + 1).fill(fill));
    expect(kept.map((bytes) => [bytes[0], bytes[last]])).toEqual([1, 2, 3].map((n) => [n, n]));
  });

  test("a handler sees signal, deadline, remaining time, id and headers of its call", async () => {
    await using space = new Workspace();
    const seen = contract("seen", { look: rpc<void, unknown>(), wait: rpc() });
    let reason: unknown = null;
    const { client } = await open(space, seen, {
      look: (_, ctx) => {
        const { deadline, timeLeft, requestId, headers } = ctx;
        return [deadline - Date.now(), timeLeft, requestId.length > 0, headers.get("x-trace")];
      },
      wait: (_, { signal }) =>
        new Promise((done) => {
          signal.addEventListener("abort", () => {
            reason = signal.reason;
            done();
          });
        }),
    });
    const [left, timeLeft, hasId, trace] = (await client.look(undefined, {
      timeout: 5_000,
      headers: { "x-trace": "abc" },
    })) as [number, number, boolean, string];
    expect(left).toBeWithin(1, 5_002);
    expect(timeLeft).toBeWithin(1, 5_002);
    expect([hasId, trace]).toEqual([true, "abc"]);
    expect(((await client.look(undefined, { timeout: Infinity })) as unknown[])[1]).toBeNull(); // Infinity in JSON

    const abort = new AbortController();
    const waiting = client.wait(undefined, { signal: abort.signal });
    setTimeout(() => abort.abort(new Error("enough")), 20);
    expect((await rejection(waiting)).message).toBe("enough");
    await until(() => reason !== null, "the handler's signal aborted");
    const late = await rejection<RequestTimeoutError>(client.wait(undefined, { timeout: 30 }));
    expect(late).toBeInstanceOf(RequestTimeoutError);
  });

  test("idempotent is the method's setting unless the call overrides it", async () => {
    await using space = new Workspace();
    const safe = contract("safe", { get: rpc<void, string>({ idempotent: true }), set: rpc<void, string>() });
    const { bus } = await open(space, safe, { get: () => "", set: () => "" });
    const sent: unknown[] = [];
    const spy = { request: (_: unknown, options: unknown) => (sent.push(options), bus.request({ path: "/safe/get" })) };
    const client = bus.client.call(spy as unknown as SlotBus, safe) as Client<typeof safe>;
    await client.get();
    await client.get(undefined, { timeout: 900 });
    await client.get(undefined, { idempotent: false });
    await client.set();
    await client.set(undefined, { idempotent: true });
    expect(sent).toEqual([
      { idempotent: true },
      { timeout: 900, idempotent: true },
      { idempotent: false },
      undefined,
      { idempotent: true },
    ]);
  });

  test("an undeclared error of a handler is a RemoteError, as without a contract", async () => {
    await using space = new Workspace();
    const { client, worker } = await open(space, demo, {
      ...handlers,
      hello: () => {
        throw new RangeError("no such name");
      },
      ping: () => Promise.reject(new TypeError("later")),
    });
    const seen: unknown[] = [];
    worker.on("handlerError", (error, { path }) => seen.push(`${path} ${error}`));
    const thrown = await rejection<RemoteError>(client.hello({ name: "" }));
    expect(thrown).toBeInstanceOf(RemoteError);
    expect([thrown.remoteName, thrown.message, thrown.mayHaveExecuted]).toEqual([
      "RangeError",
      "RangeError: no such name",
      true,
    ]);
    expect((await rejection<RemoteError>(client.ping())).remoteName).toBe("TypeError");
    await until(() => seen.length === 2, "both reported");
    expect(seen[0]).toBe("/demo/hello RangeError: no such name");
  });

  test("the handlers may be an object with a `this`, and may be replaced; serve answers other requests", async () => {
    await using space = new Workspace();
    const other = contract("other", { hello: rpc<void, string>() });
    const { bus, worker, client } = await open(space, demo, handlers);
    class Greeter {
      #word = "hello";
      hello(): string {
        return this.#word;
      }
    }
    worker.implement(other, new Greeter()).serve((request) => `plain ${request.path}`);
    expect(await bus.client(other).hello()).toBe("hello");
    expect(await client.hello({ name: "Ada" })).toEqual({ msg: "hi Ada" });
    expect((await bus.request({ path: "/demos/hello" })).text()).toBe("plain /demos/hello");
    expect(await client.hello({ name: "Ada" })).toEqual({ msg: "hi Ada" });
    worker.implement(demo, { ...handlers, hello: () => ({ msg: "replaced" }) });
    expect(await client.hello({ name: "Ada" })).toEqual({ msg: "replaced" });
    expect(await bus.client(other).hello()).toBe("hello");
    expect((await bus.request({ path: "/" })).text()).toBe("plain /");
  });

  test("a method can be called without a client: JSON in, JSON out", async () => {
    await using space = new Workspace();
    const { bus } = await open(space, demo, handlers);
    const response = await bus.request({ path: "/demo/resize", json: { width: 2 } });
    expect([response.status, response.contentType, response.json()]).toEqual([200, "application/json", { area: 14 }]);
  });
});

describe("streams", () => {
  test("items arrive in order: none, one, many, bytes, undefined, from generators, arrays, promises and streams", async () => {
    await using space = new Workspace();
    const kinds = contract("kinds", { give: stream<string, unknown>() });
    const sources: Record<string, () => AsyncIterable<unknown> | Iterable<unknown> | Promise<Iterable<unknown>>> = {
      none: () => [],
      array: () => [1, undefined, pattern(70_000), "é", null],
      promise: () => Promise.resolve(new Set([1, 2])),
      readable: () => new Response("text").body!,
    };
    const { client } = await open(space, kinds, { give: (what) => sources[what]!() });
    expect(await all(client.give("none"))).toEqual([]);
    expect(await all(client.give("array"))).toEqual([1, undefined, pattern(70_000), "é", null]);
    expect(await all(client.give("promise"))).toEqual([1, 2]);
    expect(Buffer.concat((await all(client.give("readable"))) as Uint8Array[]).toString()).toBe("text");
    const missing = await rejection<RemoteError>(all(client.give("nothing")));
    expect(missing.remoteName).toBe("TypeError");
  });

  test("10 000 items arrive; break ends early and the slot is free again", async () => {
    await using space = new Workspace();
    const { bus, client } = await open(space, demo, handlers);
    expect((await all(client.count({ to: 10_000 }))).length).toBe(10_000);
    for await (const n of client.count({ to: 10_000 })) if (n === 2) break;
    await until(() => bus.stats().inFlight === 0, "nothing in flight");
  });

  test("an error of a generator comes after the items that it yielded: before the first, after it, and at the end", async () => {
    await using space = new Workspace();
    const failing = contract("failing", { give: stream<number, number>() });
    const cleaned: number[] = [];
    const { client, worker } = await open(space, failing, {
      async *give(at) {
        try {
          for (let i = 0; i < at; i++) yield i;
          throw new RangeError(`at ${at}`);
        } finally {
          cleaned.push(at);
        }
      },
    });
    const reported: string[] = [];
    worker.on("handlerError", (error) => reported.push(String(error)));
    for (const at of [0, 1, 5]) {
      const got: number[] = [];
      const reading = (async () => {
        for await (const n of client.give(at)) got.push(n);
      })();
      const error = await rejection<RemoteError>(reading);
      expect(error).toBeInstanceOf(RemoteError);
      expect([error.remoteName, error.message, got.length]).toEqual(["RangeError", `RangeError: at ${at}`, at]);
    }
    expect(cleaned).toEqual([0, 1, 5]);
    await until(() => reported.length === 3, "all reported");
  });

  test("an endless generator ends when its caller times out, and its finally block runs", async () => {
    await using space = new Workspace();
    const endless = contract("endless", { tick: stream<void, number>() });
    let over = false;
    const { client } = await open(space, endless, {
      async *tick() {
        try {
          for (let i = 0; ; i++) {
            await Bun.sleep(1);
            yield i;
          }
        } finally {
          over = true;
        }
      },
    });
    const error = await rejection<SlotbusError>(all(client.tick(undefined, { deadline: 500 })));
    expect([error.code, error.mayHaveExecuted]).toEqual(["STREAM_TIMEOUT", true]);
    await until(() => over, "the generator has ended");
  });

  test("a method takes a sequence of items from an array, a generator or a stream; each item is checked on its way", async () => {
    await using space = new Workspace();
    const sums = contract("sums", {
      sum: rpc({ input: items(z.number()), output: typed<number>() }),
      double: stream({ input: items(typed<number>()), output: z.number() }),
    });
    const { client } = await open(space, sums, {
      async sum(numbers) {
        let sum = 0;
        for await (const n of numbers) sum += n;
        return sum;
      },
      async *double(numbers) {
        for await (const n of numbers) yield 2 * n;
      },
    });
    expect(await client.sum([1, 2, 3])).toBe(6);
    expect(await client.sum([])).toBe(0);
    async function* some() {
      for (let i = 0; i < 100; i++) {
        if (i % 10 === 0) await Bun.sleep(0);
        yield i;
      }
    }
    expect(await client.sum(some())).toBe(4950);
    expect(await all(client.double([1, 2]))).toEqual([2, 4]);
    const refused = await rejection<ValidationError>(client.sum([1, "2" as unknown as number]));
    expect([refused.side, refused.part, refused.method]).toEqual(["client", "input", "sum"]);
    expect(await rejection(client.sum(7 as unknown as number[]))).toBeInstanceOf(InvalidConfigError);
    async function* broken() {
      yield 1;
      throw new RangeError("the source broke");
    }
    expect((await rejection(client.sum(broken()))).message).toBe("the source broke");
    expect(await client.sum([4])).toBe(4);
  });
});

describe("streams as they come", () => {
  const flowing = contract("flowing", {
    give: stream<number, unknown>(),
    take: rpc({ input: items(typed<unknown>()), output: typed<unknown>() }),
    both: stream({ input: items(typed<unknown>()), output: typed<unknown>() }),
  });
  const RING = 262_144;

  function expectAtRest(bus: SlotBus): Promise<void> {
    const free = (): boolean => bus.diagnostics().slots.every(({ state }) => state === "FREE");
    return until(() => free() && bus.stats().inFlight === 0, "every slot is free");
  }

  /** Reads to the end; returns the items before it, and the error. */
  async function readToError<E extends Error = SlotbusError>(
    source: AsyncIterable<unknown>,
  ): Promise<{ got: unknown[]; error: E }> {
    const got: unknown[] = [];
    try {
      for await (const item of source) got.push(item);
    } catch (error) {
      return { got, error: error as E };
    }
    throw new Error(`it ended without an error after ${got.length} items`);
  }

  /** Counts from 0, `to` numbers or without end; records how many it gave and that it was ended. */
  class Counter {
    given = 0;
    ended = false;

    async *items(to = Infinity, make: (n: number) => unknown = (n) => n): AsyncGenerator<unknown> {
      try {
        while (this.given < to) yield make(this.given++);
      } finally {
        this.ended = true;
      }
    }
  }

  const echo: Handlers<typeof flowing> = {
    async *give(to) {
      for (let i = 0; i < to; i++) yield i;
    },
    take: all,
    async *both(given) {
      yield* given;
    },
  };

  test("each item of an output arrives before the next is made", async () => {
    await using space = new Workspace();
    const gates = Array.from({ length: 4 }, () => Promise.withResolvers<void>());
    const { bus, client } = await open(space, flowing, {
      ...echo,
      async *give() {
        for (const [i, gate] of gates.entries()) {
          yield i;
          await gate.promise;
        }
      },
    });
    const reader = client.give(0);
    let next = reader.next();
    for (const [i, gate] of gates.entries()) {
      expect(await next).toEqual({ done: false, value: i });
      next = reader.next();
      await Bun.sleep(2);
      expect(Bun.peek.status(next)).toBe("pending");
      gate.resolve();
    }
    expect(await next).toEqual({ done: true, value: undefined });
    await expectAtRest(bus);
  });

  test("each item of an input arrives before the next is made, also while both sides stream", async () => {
    await using space = new Workspace();
    const seen: unknown[] = [];
    const { bus, client } = await open(space, flowing, {
      ...echo,
      async take(given) {
        for await (const item of given) seen.push(item);
        return seen.length;
      },
    });
    async function* steps(): AsyncGenerator<number> {
      for (let i = 0; i < 20; i++) {
        yield i;
        await until(() => seen.length === i + 1, `the handler has item ${i}`);
      }
    }
    expect(await client.take(steps())).toBe(20);
    const answered: unknown[] = [];
    async function* talk(): AsyncGenerator<number> {
      for (let i = 0; i < 20; i++) {
        yield i;
        await until(() => answered.length === i + 1, `the answer to item ${i}`);
      }
    }
    for await (const item of client.both(talk())) answered.push(item);
    expect(answered).toEqual(Array.from({ length: 20 }, (_, i) => i));
    await expectAtRest(bus);
  });

  test("calls of next that do not wait for each other are answered in order", async () => {
    await using space = new Workspace();
    const { client } = await open(space, flowing, echo);
    const reader = client.give(5);
    const steps = await Promise.all(Array.from({ length: 7 }, () => reader.next()));
    expect(steps.map(({ value }) => value)).toEqual([0, 1, 2, 3, 4, undefined, undefined]);
    expect(steps.map(({ done }) => done)).toEqual([false, false, false, false, false, true, true]);
  });

  test("an endless handler runs ahead of a reader that stops by one ring, an endless input ahead of its handler too", async () => {
    await using space = new Workspace();
    const output = new Counter();
    const input = new Counter();
    const blob = pattern(1_019); // 1024 bytes with its frame
    const gate = Promise.withResolvers<void>();
    const { bus, client } = await open(space, flowing, {
      ...echo,
      give: () => output.items(Infinity, () => blob),
      async take(given) {
        for await (const item of given) {
          await gate.promise;
          return item;
        }
      },
    });
    const reader = client.give(0);
    await reader.next();
    const taking = client.take(input.items(Infinity, () => blob));
    const full = RING / 1024;
    await until(() => output.given >= full && input.given >= full, "both rings are full");
    await Bun.sleep(30);
    expect(output.given).toBeLessThan(full + 65_536 / 1024 + 8); // the reader has a piece of at most 64 KiB
    expect(input.given).toBeLessThan(full + 65_536 / 1024 + 8);
    expect(await all(client.both([1]))).toEqual([1]); // other requests are not delayed
    gate.resolve();
    expect(await taking).toEqual(blob);
    await reader.return();
    await until(() => output.ended && input.ended, "both generators have ended");
    await expectAtRest(bus);
  });

  test("a reader and a writer that never wait leave the event loop its turns", async () => {
    await using space = new Workspace();
    const counter = new Counter();
    const { bus, client } = await open(space, flowing, { ...echo, give: () => counter.items() });
    const error = readToError(client.give(0, { deadline: 500 }));
    for (let i = 0; i < 5; i++) expect(await client.take([i])).toEqual([i]);
    expect((await error).error.code).toBe("STREAM_TIMEOUT");
    await until(() => counter.ended, "the generator has ended");
    await expectAtRest(bus);
  });

  const ways = ["break", "throw", "return", "signal"] as const;
  test("when a caller leaves, at any step and in any way, the handler's generator ends and its signal aborts", async () => {
    await using space = new Workspace();
    const started: AbortSignal[] = [];
    const ends: { aborted: boolean }[] = [];
    const { bus, client } = await open(space, flowing, {
      ...echo,
      async *give(silentAt, { signal }) {
        started.push(signal);
        try {
          for (let given = 0; ; given++) {
            if (given === silentAt) await new Promise((done) => signal.addEventListener("abort", done));
            yield given;
          }
        } finally {
          ends.push({ aborted: signal.aborted });
        }
      },
    });
    let runs = 0;
    for (const way of ways) {
      for (const at of [0, 1, 2, 100, 30_000]) {
        for (const waits of [false, true]) {
          if (waits && way !== "return" && way !== "signal") continue; // a loop can only be left between two items
          const abort = new AbortController();
          const reader = client.give(waits ? at : Infinity, { signal: abort.signal });
          let read = 0;
          const reading = (async () => {
            if (at === 0 && !waits) await reader.next();
            else if (at > 0) {
              for (; read < at; read++) expect((await reader.next()).value).toBe(read);
            }
            if (waits) {
              const next = reader.next();
              await until(() => started.length > runs, "the handler has begun");
              if (way === "return") expect(await reader.return()).toEqual({ done: true, value: undefined });
              else abort.abort(new Error("enough"));
              return next;
            }
            if (way === "break") for await (const _ of reader) break;
            else if (way === "return") await reader.return();
            else if (way === "signal") {
              abort.abort(new Error("enough"));
              for (;;) await reader.next();
            } else {
              for await (const _ of reader) throw new Error("enough");
            }
          })();
          if (way === "throw" || way === "signal") expect((await rejection(reading)).message).toBe("enough");
          else if (waits) expect(await reading).toEqual({ done: true, value: undefined });
          else await reading;
          runs++;
          await until(() => ends.length === runs, `the generator that was left by ${way} at ${at} has ended`);
          expect(await reader.next()).toEqual({ done: true, value: undefined });
        }
      }
    }
    expect([runs, started.length]).toEqual([30, 30]);
    expect(ends.filter(({ aborted }) => !aborted)).toEqual([]);
    expect(started.every(({ aborted }) => aborted)).toBe(true);
    await expectAtRest(bus);
  }, 60_000);

  test("a stream that is never read is not sent; a stream left before its call begins ends when the call does", async () => {
    await using space = new Workspace();
    const gate = Promise.withResolvers<void>();
    const counter = new Counter();
    const { bus, client } = await open(space, flowing, {
      ...echo,
      async give() {
        await gate.promise;
        return counter.items();
      },
    });
    const { requests } = bus.stats();
    const unused = client.give(1);
    let cancelled = false;
    const input = new ReadableStream<unknown>({
      cancel() {
        cancelled = true;
      },
    });
    const unusedBoth = client.both(input as unknown as AsyncIterable<unknown>);
    expect([await unused.return(), await unusedBoth.return()].map(({ done }) => done)).toEqual([true, true]);
    await until(() => cancelled, "the input is cancelled");
    expect([await unused.next(), bus.stats().requests]).toEqual([{ done: true, value: undefined }, requests]);
    const early = client.give(1);
    const first = early.next();
    await early.return();
    gate.resolve();
    expect(await first).toEqual({ done: true, value: undefined });
    await expectAtRest(bus);
    expect(counter.given).toBeLessThan(20_000);
    const left = rejection(client.give(1, { signal: AbortSignal.abort(new Error("before")) }).next());
    expect((await left).message).toBe("before");
  });

  test("timeout lasts until the items begin, deadline until they end, idle between two items", async () => {
    await using space = new Workspace();
    let aborted = 0;
    const { bus, client } = await open(space, flowing, {
      ...echo,
      give(mode, { signal }) {
        signal.addEventListener("abort", () => aborted++);
        if (mode === 0) return new Promise<never>(() => {});
        return (async function* () {
          yield "one";
          await new Promise(() => {});
        })();
      },
    });
    const late = await readToError(client.give(0, { timeout: 500 }));
    expect([late.got, late.error.name]).toEqual([[], "RequestTimeoutError"]);
    for (const options of [{ deadline: 500 }, { idle: 500 }, { deadline: 600, timeout: 500 }]) {
      const { got, error } = await readToError(client.give(1, options));
      expect([got, error.name, error.mayHaveExecuted]).toEqual([["one"], "StreamTimeoutError", true]);
    }
    await until(() => aborted === 4, "every handler's signal has aborted");
    // Their generators wait for ever; only the first has no answer and holds its slot.
    await until(() => bus.diagnostics().slots.filter(({ state }) => state !== "FREE").length <= 1, "slots are free");
  });

  test("a handler that stops reading ends its caller's generator, by returning or by leaving the loop early", async () => {
    await using space = new Workspace();
    const gate = Promise.withResolvers<void>();
    const { bus, client } = await open(space, flowing, {
      ...echo,
      async take(given) {
        for await (const item of given) if (item === 3) return item;
      },
      async *both(given) {
        for await (const item of given) if (item === 3) break;
        yield "enough";
        await gate.promise;
        yield "more";
      },
    });
    const once = new Counter();
    expect(await client.take(once.items())).toBe(3);
    await until(() => once.ended, "the input of the call has ended");
    const many = new Counter();
    const reader = client.both(many.items());
    expect((await reader.next()).value).toBe("enough");
    await until(() => many.ended, "the input of the stream has ended, which has not");
    gate.resolve();
    expect(await all(reader)).toEqual(["more"]);
    const unread = new Counter();
    await using other = new Workspace();
    const { client: deaf } = await open(other, flowing, { ...echo, take: () => 7 });
    expect(await deaf.take(unread.items())).toBe(7);
    await until(() => unread.ended || unread.given === 0, "the input that nobody reads has ended"); // or never began
    await expectAtRest(bus);
  });

  test("a handler's generator error comes typed after the items before it: declared, undeclared, or invalid items", async () => {
    await using space = new Workspace();
    const failing = contract("failing", {
      give: stream({
        input: typed<{ at: number; how: string }>(),
        output: z.number(),
        errors: { FULL: z.object({ at: z.number() }) },
      }),
    });
    const ended: string[] = [];
    const { bus, client, worker } = await open(space, failing, {
      async *give({ at, how }, { errors }) {
        try {
          for (let i = 0; i < at; i++) yield i;
          if (how === "declared") throw errors.FULL({ at });
          if (how === "item") yield "no number" as unknown as number;
          throw new RangeError(`at ${at}`);
        } finally {
          ended.push(`${how} ${at}`);
        }
      },
    });
    const reported: string[] = [];
    worker.on("handlerError", (error) => reported.push((error as Error).name));
    for (const at of [0, 1, 2, 20_000]) {
      const declared = await readToError(client.give({ at, how: "declared" }));
      expect(declared.got.length).toBe(at);
      if (!isContractError(declared.error, failing.methods.give, "FULL")) throw declared.error;
      const place: number = declared.error.data.at;
      expect(place).toBe(at);
      const thrown = await readToError<RemoteError>(client.give({ at, how: "thrown" }));
      expect([thrown.got.length, thrown.error.remoteName, thrown.error.message]).toEqual([
        at,
        "RangeError",
        `RangeError: at ${at}`,
      ]);
      const wrong = await readToError<ValidationError>(client.give({ at, how: "item" }));
      expect([wrong.got.length, wrong.error.name, wrong.error.side, wrong.error.part]).toEqual([
        at,
        "ValidationError",
        "worker",
        "output",
      ]);
    }
    expect(ended).toEqual(
      [0, 1, 2, 20_000].flatMap((at) => ["declared", "thrown", "item"].map((how) => `${how} ${at}`)),
    );
    await until(() => reported.length === 8, "all undeclared errors are reported");
    expect(new Set(reported)).toEqual(new Set(["RangeError", "ValidationError"]));
    await expectAtRest(bus);
  });

  test("an input generator's error reaches the handler after the items before it, and the caller unchanged", async () => {
    await using space = new Workspace();
    const seen: unknown[] = [];
    const { bus, client } = await open(space, flowing, {
      ...echo,
      async take(given) {
        const { got, error } = await readToError<RemoteError>(given);
        seen.push([got.length, error.name, error.remoteName, error.message]);
        return "an answer all the same";
      },
    });
    for (const at of [0, 1, 2, 20_000]) {
      const fault = new RangeError(`input broke at ${at}`);
      async function* broken(): AsyncGenerator<number> {
        for (let i = 0; i < at; i++) yield i;
        throw fault;
      }
      expect(await rejection(client.take(broken()))).toBe(fault);
      expect(seen.pop()).toEqual([at, "RemoteError", "RangeError", `RangeError: input broke at ${at}`]);
      const { got, error } = await readToError(client.both(broken()));
      expect([got.length, error as Error]).toEqual([at, fault]);
    }
    const strict = contract("flowing", {
      both: stream({ input: items(z.number()), output: typed<unknown>() }),
    });
    const wrong = await readToError<ValidationError>(bus.client(strict).both([1, 2, "3" as unknown as number, 4]));
    expect([wrong.got, wrong.error.name, wrong.error.side, wrong.error.part]).toEqual([
      [1, 2],
      "ValidationError",
      "client",
      "input",
    ]);
    await expectAtRest(bus);
  });

  test("a worker dies: the items that it committed arrive, then WorkerDiedError; the input's generator ends", async () => {
    await using space = new Workspace();
    const bus = await space.bus();
    for (const count of [0, 1, 1_000]) {
      const worker = space.child("typed.ts", "serve");
      await worker.line("serving");
      await bus.ready();
      const reader = bus.client(flows).count(count);
      const first = reader.next();
      await worker.line(`gave ${count}`);
      await worker.kill();
      const got: unknown[] = [];
      const error = await rejection(
        (async () => {
          for (let step = await first; !step.done; step = await reader.next()) got.push(step.value);
        })(),
      );
      expect([error.name, (error as SlotbusError).mayHaveExecuted]).toEqual(["WorkerDiedError", true]);
      expect(got).toEqual(Array.from({ length: count }, (_, i) => i));
      await until(() => bus.workers.length === 0, "the worker is gone");
    }
    const worker = space.child("typed.ts", "serve");
    await worker.line("serving");
    await bus.ready();
    const [input, both] = [new Counter(), new Counter()];
    const summing = rejection(bus.client(flows).sum(input.items() as AsyncGenerator<number>));
    const doubling = bus.client(flows).double(both.items() as AsyncGenerator<number>);
    expect((await doubling.next()).value).toBe(0);
    await worker.line("got 10");
    await worker.kill();
    expect((await summing).name).toBe("WorkerDiedError");
    expect((await readToError(doubling)).error.name).toBe("WorkerDiedError");
    await until(() => input.ended && both.ended, "both inputs have ended");
    await until(() => bus.stats().inFlight === 0, "nothing is in flight");
  }, 60_000);

  test("a caller dies: the handler's generator and its input end, and its signal aborts", async () => {
    await using space = new Workspace();
    const caller = space.child("typed.ts", "call");
    const worker = await space.worker();
    let handed = 0;
    const seen: unknown[] = [];
    worker.implement(flows, {
      count: () => [],
      sum: () => 0,
      async *double(numbers, { signal }) {
        try {
          for await (const n of numbers) {
            handed++;
            yield 2 * n;
          }
        } finally {
          seen.push(signal.aborted);
        }
      },
    });
    await caller.line("read 20");
    await caller.kill();
    space.leftovers = [`${space.name}.lock`, `${space.name}.sock`];
    await until(() => seen.length === 1, "the handler's generator has ended");
    expect([seen, handed >= 10, worker.running]).toEqual([[true], true, 0]);
  }, 30_000);

  test("frames that the end of the ring cuts at any byte are joined again, both ways", async () => {
    await using space = new Workspace();
    const { client } = await open(space, flowing, { ...echo, give: () => cut() });
    const cells = new Map<number, number>();
    /** Items sized so that a small item begins 0, 1, 2, … bytes before the ring's end. */
    function* cut(): Generator<Uint8Array> {
      let at = 0;
      for (let before = 0; before <= 12; before++) {
        const filler = RING - (at % RING) - 5 - before;
        yield pattern(filler);
        at += 5 + filler;
        cells.set(RING - (at % RING), (cells.get(RING - (at % RING)) ?? 0) + 1);
        yield pattern(7).fill(before);
        at += 12;
      }
    }
    const expected = [...cut()];
    for (let before = 1; before <= 12; before++) expect(`${before}: ${cells.get(before)}`).toBe(`${before}: 1`);
    const check = (got: unknown[]): void => {
      expect(got.length).toBe(26);
      for (const [i, item] of got.entries()) expect(`${i} ${same(item as Uint8Array, expected[i]!)}`).toBe(`${i} true`);
    };
    check(await all(client.give(0)));
    check(await all(client.both(cut())));
  });

  test("an item may be larger than the ring, up to the payload limit; above it, its sender gets an error", async () => {
    await using space = new Workspace();
    const limit = 3 * 2 ** 20;
    const bus = await space.bus({ payloadBytes: limit });
    (await space.worker()).implement(flowing, {
      ...echo,
      *give(bytes) {
        yield "before";
        yield pattern(bytes);
        yield "é".repeat(bytes / 2 - 1); // the same number of bytes with its quotes
        yield "after";
      },
    });
    await bus.ready();
    const client = bus.client(flowing);
    const [before, bytes, text, after] = await all(client.give(limit));
    expect([before, same(bytes as Uint8Array, pattern(limit)), (text as string).length, after]).toEqual([
      "before",
      true,
      limit / 2 - 1,
      "after",
    ]);
    const above = await readToError<RemoteError>(client.give(limit + 2));
    expect([above.got, above.error.remoteCode]).toEqual([["before"], "PAYLOAD_TOO_LARGE"]);
    const sent = await all(client.both([pattern(limit), 1]));
    expect([same(sent[0] as Uint8Array, pattern(limit)), sent[1]]).toEqual([true, 1]);
    for (const item of [pattern(limit + 1), "é".repeat(limit / 2), "x".repeat(limit)]) {
      const { got, error } = await readToError<PayloadTooLargeError>(client.both([1, item, 2]));
      expect([got, error.name, error.limit, error.bytes > limit]).toEqual([[1], "PayloadTooLargeError", limit, true]);
    }
    await expectAtRest(bus);
  });

  test("a frame whose header claims more than the limit is refused at once, from either side; no bytes are collected", async () => {
    await using space = new Workspace();
    const header = Buffer.from([FRAME.bytes, 0xff, 0xff, 0xff, 0x7f]);
    const flood = async function* (counter: Counter): AsyncGenerator<Uint8Array> {
      yield header;
      yield* counter.items(Infinity, () => new Uint8Array(1_024)) as AsyncGenerator<Uint8Array>;
    };
    const out = new Counter();
    const input = new Counter();
    const { bus, worker } = await open(space, contract("flowing", { take: flowing.methods.take.declaration }), {
      take: all,
    });
    worker.serve(() => ({ contentType: "application/vnd.slotbus.items", body: flood(out) }));
    const other = bus.client(contract("other", { give: stream<void, unknown>() }));
    const { got, error } = await readToError<PayloadTooLargeError>(other.give());
    expect([got, error.name, error.bytes]).toEqual([[], "PayloadTooLargeError", 0x7fff_ffff]);
    const sent = await rejection<RemoteError>(bus.request({ path: "/flowing/take", body: flood(input) }));
    expect(sent.remoteCode).toBe("PAYLOAD_TOO_LARGE");
    await until(() => out.ended && input.ended, "both floods have ended");
    for (const { given } of [out, input]) expect(given).toBeLessThan((2 * RING) / 1_024);
    await expectAtRest(bus);
  });

  test("items of a caller without a client are an ordinary body, and a streamed item has its own memory", async () => {
    await using space = new Workspace();
    const { bus, client } = await open(space, flowing, echo);
    const body = Buffer.concat([
      encodeFrame(FRAME.value, "1"),
      encodeFrame(FRAME.nothing, ""),
      encodeFrame(FRAME.end, ""),
    ]);
    expect((await bus.request({ path: "/flowing/take", body })).json()).toEqual([1, null]);
    const cut = await rejection<RemoteError>(bus.request({ path: "/flowing/take", body: body.subarray(0, 8) }));
    expect(cut.remoteCode).toBe("PROTOCOL");
    const kept = await all(client.both(Array.from({ length: 300 }, (_, i) => new Uint8Array(1_000).fill(i))));
    expect(kept.map((item) => (item as Uint8Array)[999])).toEqual(Array.from({ length: 300 }, (_, i) => i & 255));
    for (const item of kept) expect((item as Uint8Array).buffer.byteLength).toBe(1_000);
  });

  test("an idempotent stream starts again on another worker until its items begin, and not after", async () => {
    await using space = new Workspace();
    const bus = await space.bus();
    const dying = space.child("typed.ts", "serve");
    await dying.line("serving");
    await bus.ready();
    const reader = bus.client(flows).count(2, { idempotent: true });
    expect((await reader.next()).value).toBe(0);
    await dying.line("gave 2");
    const next = space.child("typed.ts", "serve");
    await next.line("serving");
    await bus.ready({ workers: 2 });
    await dying.kill();
    const { got, error } = await readToError(reader);
    expect([got, error.name]).toEqual([[1], "WorkerDiedError"]);
    expect(next.lines).toEqual(["serving"]);
  }, 30_000);
});

describe("checks", () => {
  test("the client refuses an input before it is sent, with the place and the reason", async () => {
    await using space = new Workspace();
    const { bus, client } = await open(space, demo, handlers);
    const before = bus.stats().requests;
    const error = await rejection<ValidationError>(client.resize({ width: "3" as unknown as number, height: 1.5 }));
    expect(error).toBeInstanceOf(ValidationError);
    expect([error.code, error.contract, error.method, error.side, error.part, error.mayHaveExecuted]).toEqual([
      "VALIDATION",
      "demo",
      "resize",
      "client",
      "input",
      false,
    ]);
    expect(error.issues.map(({ path }) => path)).toEqual([["width"], ["height"]]);
    expect(error.issues[0]!.message).toMatch(/number/);
    expect(error.message).toMatch(/^demo\.resize input, checked by the client: width: .*; height: /);
    expect(bus.stats().requests).toBe(before);
  });

  /** The same methods without the schema of `side`. */
  const lax = contract("demo", { resize: rpc<{ width: number }, { area: number }>() });
  const strict = contract("demo", { resize: demo.methods.resize.declaration });

  test("the worker refuses an input before the handler runs", async () => {
    await using space = new Workspace();
    let ran = 0;
    const { bus } = await open(space, strict, { resize: () => ({ area: ++ran }) });
    const client = bus.client(lax);
    for (const bad of [{ width: "3" }, {}, null, [], "text", 7]) {
      const error = await rejection<ValidationError>(client.resize(bad as unknown as { width: number }));
      expect([error.name, error.side, error.part, error.mayHaveExecuted]).toEqual([
        "ValidationError",
        "worker",
        "input",
        false,
      ]);
      expect(error.issues.length).toBeGreaterThan(0);
    }
    const twice = await rejection<ValidationError>(client.resize({} as { width: number }, { idempotent: true }));
    expect(twice.mayHaveExecuted).toBe(true); // a worker that died may have run it
    const broken = await bus.request({ path: "/demo/resize", body: '{"width":' });
    expect([broken.status, broken.contentType]).toEqual([400, "application/vnd.slotbus.failure"]);
    expect(broken.text()).toContain("is not valid application/json");
    const invalid = await bus.request({ path: "/demo/resize", body: new Uint8Array([0x22, 0xff, 0x22]) });
    expect(invalid.status).toBe(400);
    expect(ran).toBe(0);
  });

  test("the worker refuses its own invalid output and reports it, and the client gets none of it", async () => {
    await using space = new Workspace();
    const { bus, worker } = await open(space, strict, { resize: () => ({ secret: 1 }) as unknown as { area: number } });
    const reported: unknown[] = [];
    worker.on("handlerError", (error) => reported.push(error));
    const error = await rejection<ValidationError>(bus.client(lax).resize({ width: 1 }));
    expect([error.side, error.part, error.mayHaveExecuted, error.issues[0]!.path]).toEqual([
      "worker",
      "output",
      true,
      ["area"],
    ]);
    expect(reported).toHaveLength(1);
  });

  test("the client refuses an output that fails its own schema", async () => {
    await using space = new Workspace();
    const { bus } = await open(space, lax, { resize: () => ({ area: "big" as unknown as number }) });
    const error = await rejection<ValidationError>(bus.client(strict).resize({ width: 1 }));
    expect([error.side, error.part, error.mayHaveExecuted]).toEqual(["client", "output", true]);
  });

  test("schemas that are async, and that change values, on both sides: each receiver gets its own schema's result", async () => {
    await using space = new Workspace();
    const Text = z.string().transform(async (text) => text.length);
    const Even = z.number().refine(async (n) => n % 2 === 0, "odd");
    const slow = contract("slow", {
      length: rpc({ input: Text, output: Text }),
      even: rpc({ input: Even, output: Even }),
      evens: stream({ input: Even, output: Even }),
    });
    const { client } = await open(space, slow, {
      length: (length) => "x".repeat(length * 2),
      even: (n) => n + 2,
      evens: (n) => [n, n + 2, n + 3],
    });
    const length: number = await client.length("four");
    expect(length).toBe(8);
    expect(await client.even(2)).toBe(4);
    expect((await rejection<ValidationError>(client.even(3))).issues).toEqual([{ path: [], message: "odd" }]);
    const got: number[] = [];
    const reading = (async () => {
      for await (const n of client.evens(2)) got.push(n);
    })();
    const error = await rejection<ValidationError>(reading);
    expect([error.side, error.part, got]).toEqual(["worker", "output", [2, 4]]);
  });

  test("a value that JSON cannot carry is refused at its sender, not sent as something else", async () => {
    await using space = new Workspace();
    const any = contract("any", {
      echo: rpc<unknown, unknown>(),
      bad: rpc<void, unknown>(),
      many: stream<void, unknown>(),
    });
    const { client } = await open(space, any, { echo: (v) => v, bad: () => 10n, many: () => [1, 10n] });
    const cycle: unknown[] = [];
    cycle.push(cycle);
    for (const value of [10n, cycle, () => {}, Symbol("s")]) {
      const error = await rejection<ValidationError>(client.echo(value));
      expect([error.code, error.side, error.part, error.mayHaveExecuted]).toEqual([
        "VALIDATION",
        "client",
        "input",
        false,
      ]);
    }
    const bad = await rejection<ValidationError>(client.bad());
    expect([bad.side, bad.part, bad.mayHaveExecuted]).toEqual(["worker", "output", true]);
    const many = await rejection<ValidationError>(all(client.many()));
    expect([many.side, many.part]).toEqual(["worker", "output"]);
  });

  test("thousands of issues arrive counted, not listed", async () => {
    await using space = new Workspace();
    const checked = contract("big", { put: rpc({ input: z.array(z.number()) }) });
    const { bus } = await open(space, checked, { put: () => {} });
    const client = bus.client(contract("big", { put: rpc<unknown>() }));
    const error = await rejection<ValidationError>(client.put(Array(5_000).fill("x")));
    expect(error.issues.length).toBe(65);
    expect(error.issues.at(-1)!.message).toBe("and 4936 more issues");
    expect(error.message.length).toBeLessThan(1_000);
  });
});

describe("declared errors", () => {
  const shop = contract("shop", {
    find: rpc({
      input: typed<number>(),
      output: typed<string>(),
      errors: { NOT_FOUND: z.object({ id: z.number() }), GONE: typed<void>(), RAW: typed<Uint8Array>() },
    }),
    list: stream({ input: typed<number>(), output: typed<number>(), errors: { STOPPED: typed<{ at: number }>() } }),
  });
  const shopHandlers: Handlers<typeof shop> = {
    find(id, { errors }) {
      if (id === 1) throw errors.GONE();
      if (id === 2) throw errors.RAW(pattern(50_000), "bytes\nin two lines");
      if (id === 3) throw errors.NOT_FOUND({ id: "3" as unknown as number });
      if (id === 4) throw new ContractError("shop", "find", "UNHEARD_OF", 1);
      if (id === 5) throw new ContractError("other", "find", "GONE", null); // of a call that the handler made
      if (id === 6) throw new ContractError("shop", "list", "GONE", null);
      throw errors.NOT_FOUND({ id });
    },
    async *list(to, { errors }) {
      for (let i = 0; i < to; i++) yield i;
      throw errors.STOPPED({ at: to });
    },
  };

  test("arrive with code, data and message, and the guard narrows them", async () => {
    await using space = new Workspace();
    const { bus, client, worker } = await open(space, shop, shopHandlers);
    const reported: unknown[] = [];
    worker.on("handlerError", (error) => reported.push(error));
    const error: unknown = await rejection(client.find(7));
    expect(error).toBeInstanceOf(ContractError);
    if (!isContractError(error, shop.methods.find, "NOT_FOUND")) throw error;
    const id: number = error.data.id;
    const code: "NOT_FOUND" = error.code;
    expect([id, code, error.mayHaveExecuted, error.message]).toEqual([
      7,
      "NOT_FOUND",
      true,
      "shop.find failed with NOT_FOUND.",
    ]);
    expect(isContractError(error, shop.methods.find)).toBe(true);
    expect(isContractError(error, shop.methods.find, "GONE")).toBe(false);
    expect(isContractError(error, shop.methods.list)).toBe(false);
    const { declaration } = shop.methods.find;
    expect(isContractError(error, contract("other", { find: declaration }).methods.find)).toBe(false);
    expect(isContractError(error, contract("shop", { seek: declaration }).methods.seek)).toBe(false);
    expect(isContractError(new Error("x"), shop.methods.find)).toBe(false);

    const gone = await rejection(client.find(1));
    expect(isContractError(gone, shop.methods.find, "GONE") && gone.data === undefined).toBe(true);
    const raw = await rejection(client.find(2));
    if (!isContractError(raw, shop.methods.find, "RAW")) throw raw;
    expect(same(raw.data, pattern(50_000))).toBe(true);
    expect(raw.message).toBe("bytes\nin two lines");
    expect(reported).toEqual([]); // not a fault of the handler
    expect(bus.stats().inFlight).toBe(0);
  });

  test("data that does not match its declaration is a ValidationError, an undeclared code a RemoteError", async () => {
    await using space = new Workspace();
    const { client } = await open(space, shop, shopHandlers);
    const error = await rejection<ValidationError>(client.find(3));
    expect([error.name, error.side, error.part, error.issues[0]!.path]).toEqual([
      "ValidationError",
      "worker",
      "error NOT_FOUND",
      ["id"],
    ]);
    expect((await rejection<RemoteError>(client.find(4))).remoteCode).toBe("UNHEARD_OF");
    for (const other of [5, 6]) expect(await rejection(client.find(other))).toBeInstanceOf(RemoteError);
  });

  test("of a stream come after its items", async () => {
    await using space = new Workspace();
    const { client } = await open(space, shop, shopHandlers);
    const got: number[] = [];
    try {
      for await (const n of client.list(3)) got.push(n);
      throw new Error("no error came");
    } catch (error) {
      if (!isContractError(error, shop.methods.list)) throw error;
      const at: number = error.data.at;
      expect([at, got]).toEqual([3, [0, 1, 2]]);
    }
  });
});

describe("contracts that differ", () => {
  const mismatch = async (served: Contract, called: Contract, method: string): Promise<ContractMismatchError> => {
    await using space = new Workspace();
    const answers = Object.fromEntries(Object.keys(served.methods).map((name) => [name, () => 1]));
    const { bus } = await open(space, served, answers as Handlers<Contract>);
    const client = bus.client(called) as Record<string, (input?: unknown) => unknown>;
    const outcome = client[method]!(1);
    return await rejection(outcome instanceof Promise ? outcome : all(outcome as AsyncIterable<unknown>));
  };
  const passes = async (served: Contract, called: Contract): Promise<unknown> => {
    await using space = new Workspace();
    const { bus } = await open(space, served, { get: () => 1 } as unknown as Handlers<Contract>);
    return await (bus.client(called) as { get(n: number): Promise<unknown> }).get(1);
  };
  const told = ({ code, differences, mayHaveExecuted }: ContractMismatchError) => [
    code,
    mayHaveExecuted,
    ...differences.map(({ what, client, worker }) => `${what}: ${client} / ${worker}`),
  ];

  test("rpc and stream, both ways", async () => {
    const once = contract("c", { get: rpc() });
    const many = contract("c", { get: stream() });
    expect(told(await mismatch(once, many, "get"))).toEqual(["CONTRACT_MISMATCH", false, "kind: stream / rpc"]);
    const error = await mismatch(many, once, "get");
    expect(told(error)).toEqual(["CONTRACT_MISMATCH", false, "kind: rpc / stream"]);
    expect([error.contract, error.method]).toEqual(["c", "get"]);
    expect(error.message).toContain("c.get differs between client and worker (kind: client rpc, worker stream)");
  });

  test("value and items, versions, codecs", async () => {
    const shout: Codec = { contentType: "text/shout", encode: String, decode: String };
    const plain = contract("c", { get: rpc<number, number>() });
    const sequence = contract("c", { get: rpc({ input: items(typed<number>()), output: typed<number>() }) });
    const early = await mismatch(plain, sequence, "get");
    expect(early).toBeInstanceOf(InvalidConfigError); // the client itself rejects 1, which is not a sequence
    expect(told(await mismatch(sequence, plain, "get"))).toEqual(["CONTRACT_MISMATCH", false, "input: value / items"]);
    const versioned = contract("c", { get: rpc<number, number>() }, { version: "2 α;" });
    expect(told(await mismatch(plain, versioned, "get")).slice(2)).toEqual(["version: 2 α; / none"]);
    const shouted = contract("c", { get: rpc<number, number>({ version: "3" }) }, { codec: shout, version: "2" });
    expect(told(await mismatch(versioned, shouted, "get")).slice(2)).toEqual([
      "codec: text/shout / application/json",
      "version: 3 / 2 α;",
    ]);
  });

  test("schemas of one vendor; not when one side has none, the vendors differ, or a version stands for them", async () => {
    const of = (input: z.ZodType, version?: string) =>
      contract("c", { get: rpc({ input, output: typed<number>(), version }) });
    const differs = await mismatch(of(z.string()), of(z.number()), "get");
    expect(differs.differences.map(({ what }) => what)).toEqual(["input schema"]);
    expect(differs.differences[0]!.client).toMatch(/^zod:[0-9a-f]{16}$/);

    const own = { "~standard": { version: 1 as const, vendor: "own", validate: (value: unknown) => ({ value }) } };
    const none = contract("c", { get: rpc<number, number>() });
    expect(await passes(of(z.number()), of(z.number()))).toBe(1);
    expect(await passes(of(z.number()), none)).toBe(1);
    const digested = { "~standard": { ...own["~standard"], jsonSchema: { input: () => ({ type: "integer" }) } } };
    for (const input of [own, digested])
      expect(await passes(of(z.number()), contract("c", { get: rpc({ input, output: typed<number>() }) }))).toBe(1);
    expect(await passes(of(z.number().min(0), "1"), of(z.number().min(1), "1"))).toBe(1);
    const unshown = z.custom<number>((n) => typeof n === "number");
    expect(await passes(of(unshown), of(z.number()))).toBe(1);
  });

  test("all different methods are named, without digests; methods that only the worker has are not", async () => {
    const served = contract("c", {
      get: rpc({ input: z.string() }),
      put: rpc({ version: "1" }),
      same: rpc({ input: z.number() }),
      extra: rpc(),
    });
    const called = contract("c", {
      get: rpc({ input: z.number() }),
      put: rpc({ version: "2" }),
      same: rpc({ input: z.number() }),
      list: stream(),
      remove: rpc(),
    });
    const error = await mismatch(served, called, "get");
    expect([error.different, error.missing]).toEqual([
      ["get", "put"],
      ["list", "remove"],
    ]);
    expect(error.message).toBe(
      "c.get differs between client and worker (different input schema). Other methods that differ: put. " +
        "Other methods that the worker does not have: list, remove. Run both sides with the same contract.",
    );
    const absent = await mismatch(served, called, "list");
    expect([absent.different, absent.missing]).toEqual([error.different, error.missing]);
    expect(absent.message).toStartWith(
      "c.list differs between client and worker (the worker has no method list). Other methods that differ: get, put. " +
        "Other methods that the worker does not have: remove. ",
    );
    const other = await mismatch(served, contract("d", { get: rpc() }), "get");
    expect([other.different, other.missing]).toEqual([[], []]);
    expect(other.message).toContain("(the worker does not implement contract d; it implements c)");
    const many = Array.from({ length: 20 }, (_, i) => [`m${i}`, rpc()] as const);
    const long = await mismatch(contract("c", { x: rpc() }), contract("c", Object.fromEntries(many)), "m0");
    expect([long.missing.length, long.different]).toEqual([20, []]);
    expect(long.message).toContain("does not have: m1, m2, m3, m4, m5, m6, m7, m8 and 11 more.");
  });

  test("a list of methods that does not fit into an answer is left out, and an invalid list names no method", async () => {
    const many = Array.from({ length: 2_000 }, (_, i) => [`m${i}`, rpc()] as const);
    const called = contract("c", { other: rpc(), more: rpc() });
    for (const [served, payloadBytes] of [
      [contract("c", Object.fromEntries(many)), 16_777_216],
      [contract("c", Object.fromEntries(many.slice(0, 20))), 400],
    ] as const) {
      await using space = new Workspace();
      const handlers = Object.fromEntries(Object.keys(served.methods).map((name) => [name, () => {}]));
      const { bus } = await open(space, served as Contract, handlers as Handlers<Contract>, { payloadBytes });
      const error = await rejection<ContractMismatchError>(bus.client(called).other());
      expect([error.differences[0]!.what, error.missing, error.different]).toEqual(["method", [], []]);
    }
    for (const methods of [null, 7, "x", [], { other: 7 }, { other: null, more: "rpc;value" }]) {
      await using space = new Workspace();
      const told = { kind: "mismatch", differences: [null, { what: 7 }, ...Array(40).fill({})], near: [7], methods };
      const json = Buffer.from(JSON.stringify(told));
      const length = Buffer.alloc(4);
      length.writeUInt32LE(json.length);
      const body = Buffer.concat([length, json]);
      const { bus } = await space.pair(() => ({ status: 409, contentType: FAILURE_TYPE, body }));
      const error = await rejection<ContractMismatchError>(bus.client(called).other());
      expect(error).toBeInstanceOf(ContractMismatchError);
      expect(error.differences.length).toBe(16);
      for (const name of [...error.missing, ...error.different]) expect(["other", "more"]).toContain(name);
    }
  });

  test("declared errors: their codes, and the schemas of their data", async () => {
    const of = (errors: Record<string, z.ZodType>, version?: string) =>
      contract("c", { get: rpc({ input: typed<number>(), output: typed<number>(), errors, version }) });
    const [A, B, C] = [z.object({ a: z.number() }), z.string(), z.custom<number>((n) => typeof n === "number")];
    expect(told(await mismatch(of({ A, B }), of({ A }), "get")).slice(2)).toEqual(["errors: A / A,B"]);
    expect(told(await mismatch(of({}), of({ B }), "get")).slice(2)).toEqual(["errors: B / none"]);
    expect(told(await mismatch(of({ A, B }), of({ A, C: B }), "get")).slice(2)).toEqual(["errors: A,C / A,B"]);
    const differs = await mismatch(of({ A, B }), of({ A, B: A }), "get");
    expect(differs.differences.map(({ what }) => what)).toEqual(["error schemas"]);
    expect(await passes(of({ A, B }), of({ B, A }))).toBe(1);
    expect(await passes(of({ A, B: C }), of({ A, B }))).toBe(1); // C has no JSON Schema
    expect(await passes(of({ A }, "1"), of({ A: B, B }, "1"))).toBe(1);
    expect(() => rpc({ errors: { "NOT FOUND": B } })).toThrow('"NOT FOUND" is not a valid error code.');
  });

  test("for a method or contract that the worker does not have, the error suggests similar names", async () => {
    const served = contract("demo", { hello: rpc(), help: rpc(), count: stream() });
    const error = await mismatch(served, contract("demo", { helo: rpc() }), "helo");
    expect(told(error)).toEqual(["CONTRACT_MISMATCH", false, "method: helo / has no such method"]);
    expect(error.near).toEqual(["hello", "help"]);
    expect(error.message).toEndWith("Did you mean hello or help?");
    const far = await mismatch(served, contract("demo", { zzzzzzzz: rpc() }), "zzzzzzzz");
    expect(far.near.length).toBe(3);
    const other = await mismatch(served, contract("dem", { hello: rpc() }), "hello");
    expect(told(other).slice(2)).toEqual(["contract: dem / implements demo"]);
    expect(other.near).toEqual(["demo"]);
    expect(await mismatch(served, contract("d", { ["x".repeat(64)]: rpc() }), "x".repeat(64))).toBeInstanceOf(
      ContractMismatchError,
    );
  });

  test("a worker without the contract, and a worker whose answers are not valid outputs", async () => {
    for (const answer of [
      "text",
      { status: 404, json: {} },
      { contentType: "a/b", body: "x" },
      { status: 204, body: "x" },
    ]) {
      await using space = new Workspace();
      const { bus } = await space.pair(() => answer);
      const client = bus.client(demo);
      if (typeof answer === "object" && answer.status === 204) continue;
      const error = await rejection<ContractMismatchError>(client.hello({ name: "" }));
      expect([error.name, error.mayHaveExecuted, error.differences[0]!.what]).toEqual([
        "ContractMismatchError",
        true,
        "answer",
      ]);
      expect((await rejection(all(client.count({ to: 1 })))).name).toBe("ContractMismatchError");
    }
  });

  test("a malformed failure and invalid items are protocol errors, never a hang or a crash", async () => {
    const length = (n: number, text: string) =>
      Buffer.concat([new Uint8Array(new Uint32Array([n]).buffer), Buffer.from(text)]);
    const bodies = [
      new Uint8Array(0),
      length(9, "x"),
      length(1, "x"),
      length(4, "null"),
      length(2, "{}"),
      length(13, '{"kind":"odd"}'),
    ];
    for (const body of bodies) {
      await using space = new Workspace();
      const { bus } = await space.pair(() => ({ contentType: "application/vnd.slotbus.failure", body }));
      expect(await rejection(bus.client(demo).hello({ name: "" }))).toMatchObject({ code: "PROTOCOL" });
    }
    const cut = encodeFrame(FRAME.value, "1");
    for (const body of [
      new Uint8Array(0),
      cut,
      cut.subarray(0, 5),
      Buffer.from([9, 0, 0, 0, 0]),
      Buffer.from("garbage"),
    ]) {
      await using space = new Workspace();
      const { bus } = await space.pair(() => ({ contentType: "application/vnd.slotbus.items", body }));
      expect(await rejection(all(bus.client(demo).count({ to: 1 })))).toMatchObject({ code: "PROTOCOL" });
    }
  });
});

test("of a worker's failure the client keeps 16 differences and names, and 8 KiB of a text", async () => {
  await using space = new Workspace();
  const long = "x".repeat(10_000);
  const failure = { kind: "mismatch", differences: Array(99).fill({ what: long }), near: Array(99).fill(long) };
  const text = Buffer.from(JSON.stringify(failure));
  const body = Buffer.concat([new Uint8Array(new Uint32Array([text.length]).buffer), text]);
  const { bus } = await space.pair(() => ({ contentType: "application/vnd.slotbus.failure", body }));
  const { differences, near } = await rejection<ContractMismatchError>(bus.client(demo).hello({ name: "" }));
  const lengths = [...differences.map(({ what }) => what.length), ...near.map((name) => name.length)];
  expect(lengths).toEqual(Array(32).fill(8_192));
});

describe("frames", () => {
  const everywhere = Array.from({ length: 400 }, (_, place) => place);
  const frame = fc.record({
    kind: fc.constantFrom(FRAME.value, FRAME.bytes),
    payload: fc.uint8Array({ maxLength: 300 }),
  });

  test("are decoded as they were encoded, for every cut of the bytes", () => {
    fc.assert(
      fc.property(fc.array(frame, { maxLength: 20 }), fc.array(fc.nat(), { maxLength: 50 }), (frames, places) => {
        const end = encodeFrame(FRAME.end, "");
        const bytes = Buffer.concat([...frames.map(({ kind, payload }) => encodeFrame(kind, payload)), end]);
        const cuts = [0, ...places.map((n) => n % (bytes.length + 1)).sort((a, b) => a - b), bytes.length];
        const reader = new FrameReader(LIMIT);
        const got: { kind: number; payload: Uint8Array }[] = [];
        for (let i = 1; i < cuts.length; i++) {
          reader.push(bytes.subarray(cuts[i - 1], cuts[i]));
          for (let next = reader.next(); next; next = reader.next())
            got.push({ kind: next.kind, payload: next.payload.slice() });
        }
        reader.finish();
        expect(got.pop()!.kind).toBe(FRAME.end);
        expect(got.map(({ kind, payload }) => [kind, Buffer.from(payload).toString("hex")])).toEqual(
          frames.map(({ kind, payload }) => [kind, Buffer.from(payload).toString("hex")]),
        );
      }),
      {
        examples: [
          [[], everywhere],
          [Array(20).fill({ kind: FRAME.value, payload: new Uint8Array(0) }), everywhere],
          [[{ kind: FRAME.bytes, payload: encodeFrame(FRAME.end, "") }], everywhere], // a payload that looks like frames
          [[{ kind: FRAME.value, payload: new Uint8Array(300).fill(255) }], everywhere],
        ],
      },
    );
  });

  test("a stream that is cut anywhere, or continues after its end, is an error", () => {
    const bytes = Buffer.concat([encodeFrame(FRAME.value, "12"), encodeFrame(FRAME.end, "")]);
    const malformed = expect.objectContaining({ code: "PROTOCOL", mayHaveExecuted: true });
    for (let cut = 0; cut < bytes.length; cut++) {
      const reader = new FrameReader(LIMIT);
      reader.push(bytes.subarray(0, cut));
      while (reader.next());
      expect(() => reader.finish()).toThrow(malformed);
    }
    for (const joined of [true, false]) {
      const reader = new FrameReader(LIMIT);
      const read = () => {
        reader.push(joined ? Buffer.concat([bytes, bytes]) : bytes);
        while (reader.next());
        if (!joined) reader.push(bytes);
      };
      expect(read).toThrow("bytes after its last frame");
    }
    const reader = new FrameReader(LIMIT);
    reader.push(Buffer.from([7, 0, 0, 0, 0]));
    expect(() => reader.next()).toThrow(malformed);
  });

  test("a frame that claims more than the limit is refused by its first five bytes; a failure may be larger than a body", () => {
    for (const bytes of [LIMIT, LIMIT + 1, 0xffff_ffff]) {
      const reader = new FrameReader(LIMIT);
      const header = Buffer.alloc(5, FRAME.bytes);
      header.writeUInt32LE(bytes, 1);
      reader.push(header);
      if (bytes === LIMIT) expect(reader.next()).toBeNull();
      else expect(() => reader.next()).toThrow(PayloadTooLargeError);
    }
    for (const kind of [FRAME.value, FRAME.bytes]) {
      expect(() => new FrameWriter(9).write(kind, "x".repeat(10))).toThrow("An item of the stream is 10 bytes");
      expect(() => new FrameWriter(9).write(kind, new Uint8Array(10))).toThrow(PayloadTooLargeError);
    }
    const reader = new FrameReader(9);
    reader.push(new FrameWriter(9).write(FRAME.failure, pattern(2 ** 20)));
    expect(reader.next()!.payload.length).toBe(2 ** 20);
  });

  test("a frame of 4 MiB in chunks of 100 bytes is copied once, not once per chunk", () => {
    const bytes = encodeFrame(FRAME.bytes, pattern(4 * 2 ** 20));
    const reader = new FrameReader(LIMIT);
    const started = performance.now();
    for (let at = 0; at < bytes.length; at += 100) {
      reader.push(bytes.slice(at, at + 100));
      if (at + 100 < bytes.length) expect(reader.next()).toBeNull();
    }
    expect(same(reader.next()!.payload, pattern(4 * 2 ** 20))).toBe(true);
    expect(performance.now() - started).toBeLessThan(20_000); // once per chunk: 84 GB of copies
  });
});

describe("codecs", () => {
  test("a codec may return a view of the bytes; a handler may keep it", async () => {
    await using space = new Workspace();
    const views: Codec = {
      contentType: "application/x-bytes",
      encode: (value) => (value as { bytes: Uint8Array }).bytes,
      decode: (bytes) => ({ bytes }),
    };
    const kept: { bytes: Uint8Array }[] = [];
    const keeper = contract("keeper", { keep: rpc<{ bytes: Uint8Array }, void>() }, { codec: views });
    const { client } = await open(space, keeper, { keep: (value) => void kept.push(value as never) }, { slots: 1 });
    for (const fill of [1, 2, 3]) await client.keep({ bytes: new Uint8Array(100_000).fill(fill) });
    expect(kept.map(({ bytes }) => [bytes[0], bytes[99_999]])).toEqual([1, 2, 3].map((n) => [n, n]));
  });

  test("another codec carries inputs, outputs, items and errors; raw bytes bypass it", async () => {
    await using space = new Workspace();
    let used = 0;
    const reversed: Codec = {
      contentType: "application/x-reversed; v=1",
      encode(value) {
        used++;
        return Buffer.from(JSON.stringify(value)).reverse();
      },
      decode: (bytes) => JSON.parse(Buffer.from(bytes).reverse().toString()),
    };
    const coded = contract(
      "coded",
      {
        echo: rpc({ input: typed<unknown>(), output: typed<unknown>(), errors: { BAD: typed<string>() } }),
        each: stream<unknown[], unknown>(),
      },
      { codec: reversed },
    );
    const { bus, client } = await open(space, coded, {
      echo: (value, { errors }) => {
        if (value === "bad") throw errors.BAD("grün");
        return value;
      },
      each: (values) => values,
    });
    expect(await client.echo({ a: [1, "ü"] })).toEqual({ a: [1, "ü"] });
    expect(await all(client.each([1, { b: 2 }]))).toEqual([1, { b: 2 }]);
    const error = await rejection(client.echo("bad"));
    expect(isContractError(error, coded.methods.echo, "BAD") && error.data).toBe("grün");
    const before = used;
    expect(await client.echo(pattern(9))).toEqual(pattern(9));
    expect(await client.echo(undefined)).toBeUndefined();
    expect(used).toBe(before);
    const response = await bus.request({ path: "/coded/echo", body: Buffer.from("1") });
    expect(response.contentType).toBe("application/x-reversed; v=1");
  });
});

describe("bad contracts", () => {
  test("invalid names, methods, schemas, versions and codecs are refused when the contract is made", () => {
    const bad: (() => unknown)[] = [
      () => contract("", {}),
      () => contract("a/b", {}),
      ...["then", "__proto__"].map((name) => () => contract("a", Object.fromEntries([[name, rpc()]]))),
      () => contract("a", { "a b": rpc() }),
      () => contract("a", { a: {} as unknown as ReturnType<typeof rpc> }),
      () => contract("a", { a: null as unknown as ReturnType<typeof rpc> }),
      () => rpc({ input: {} as unknown as z.ZodType }),
      () => rpc({ errors: { BAD: 7 as unknown as z.ZodType } }),
      () => rpc({ version: "" }),
      () => rpc({ version: "\ud800" }),
      () => contract("a", {}, { version: "x".repeat(65) }),
      () => contract("a", {}, { codec: {} as Codec }),
      ...["", "application/octet-stream", "a\nb", "ä"].map((contentType) => () => {
        contract("a", {}, { codec: { contentType, encode: String, decode: String } });
      }),
    ];
    for (const make of bad) expect(make).toThrow(InvalidConfigError);
  });

  test("handlers that are missing or unknown are named", async () => {
    await using space = new Workspace();
    const { worker, client } = await open(space, demo, handlers);
    // @ts-expect-error: count and resize are missing
    expect(() => worker.implement(demo, { hello: handlers.hello, ping: () => {} })).toThrow(
      'contract "demo": handlers are missing for resize, count.',
    );
    // @ts-expect-error: there is no method of that name
    expect(() => worker.implement(demo, { ...handlers, helo: () => {} })).toThrow("it has no method helo");
    expect(await client.hello({ name: "still" })).toEqual({ msg: "hi still" });
    await worker.close();
    expect(() => worker.implement(demo, handlers)).toThrow("closed");
  });

  test("an answer above the payload limit rejects with a typed error, a stream may be longer", async () => {
    await using space = new Workspace();
    const big = contract("big", { get: rpc<number, string>(), many: stream<number, string>() });
    const bus = await space.bus({ payloadBytes: 10_000 });
    (await space.worker()).implement(big, {
      get: (n) => "x".repeat(n),
      *many(n) {
        for (let i = 0; i < n; i++) yield "x".repeat(1_000);
      },
    });
    await bus.ready();
    const client = bus.client(big);
    expect((await rejection<RemoteError>(client.get(20_000))).remoteCode).toBe("PAYLOAD_TOO_LARGE");
    let items = 0;
    for await (const item of client.many(100)) items += item.length; // all of them are larger than that
    expect(items).toBe(100_000);
    const wide = bus.client(contract("big", { get: rpc<string, string>() }));
    expect(await rejection(wide.get("x".repeat(20_000)))).toBeInstanceOf(PayloadTooLargeError);
  });
});

describe("types", () => {
  /** Never run: the compiler reads it. */
  async function compile(bus: SlotBus, worker: SlotWorker): Promise<void> {
    const client = bus.client(demo);
    const { msg }: { msg: string } = await client.hello({ name: "Ada" });
    const area: number = (await client.resize({ width: 1 })).area; // height has a default
    for await (const n of client.count({ to: 1 })) n.toFixed();
    // @ts-expect-error: an input of another type
    await client.hello({ name: 7 });
    // @ts-expect-error: an input with a key too many
    await client.hello({ name: "", age: 7 });
    // @ts-expect-error: no input
    await client.hello();
    // @ts-expect-error: no such method
    await client.helo({ name: "" });
    // @ts-expect-error: the output has no such key
    (await client.hello({ name: "" })).message.at(0);
    // @ts-expect-error: a method without input
    await client.ping(7);
    // @ts-expect-error: no such option
    await client.ping(undefined, { timeOut: 5 });
    // @ts-expect-error: errors need `typed` beside them, or they would have no type
    rpc<string, string>({ errors: { A: typed<string>() } });
    // @ts-expect-error: a stream is not a promise
    await client.count({ to: 1 }).then();
    // @ts-expect-error: items are numbers
    for await (const n of client.count({ to: 1 })) n.toUpperCase();
    // @ts-expect-error: an output of another type
    worker.implement(demo, { ...handlers, hello: () => ({ msg: 7 }) });
    // @ts-expect-error: items of another type
    worker.implement(demo, { ...handlers, count: () => ["a"] });
    // @ts-expect-error: height has a default, so it is a number
    worker.implement(demo, { ...handlers, resize: ({ height }) => ({ area: height.length }) });
    // @ts-expect-error: no declared errors
    worker.implement(demo, { ...handlers, ping: (_, { errors }) => void errors.ANY });
    const shop = contract("shop", { find: rpc({ errors: { A: typed<{ id: number }>(), B: typed<string>() } }) });
    worker.implement(shop, {
      find(_, { errors }) {
        // @ts-expect-error: data of another type
        if (msg) throw errors.A({ id: "7" });
        // @ts-expect-error: data is missing
        if (area) throw errors.B();
        // @ts-expect-error: no such error
        throw errors.C();
      },
    });
    const error: unknown = null;
    // @ts-expect-error: no such code
    isContractError(error, shop.methods.find, "C");
    if (isContractError(error, shop.methods.find)) {
      if (error.code === "A") error.data.id.toFixed();
      else error.data.toUpperCase();
      // @ts-expect-error: which of the two is not known
      error.data.id.toFixed();
    }
  }

  test("are checked by the compiler, on the lines of this file that expect an error", () => {
    expect(compile).toBeFunction();
  });

  test("a contract of 200 methods is quick to check", () => {
    const directory = mkdtempSync(join(tmpdir(), "slotbus-types-"));
    try {
      const empty = compileContract(directory, 0);
      const full = compileContract(directory, 200);
      expect(full.instantiations - empty.instantiations).toBeLessThan(200_000);
      expect(full.seconds - empty.seconds).toBeLessThan(5);
    } finally {
      rmSync(directory, { recursive: true });
    }
  }, 60_000);
});

/** Compiles a contract with `methods` methods, its worker and its client; returns what the compiler reports as its cost. */
function compileContract(directory: string, methods: number): { instantiations: number; seconds: number } {
  const root = resolve(import.meta.dir, "..");
  const folder = join(directory, String(methods));
  mkdirSync(folder);
  symlinkSync(join(root, "node_modules"), join(folder, "node_modules"));
  const numbers = Array.from({ length: methods }, (_, i) => i);
  const lines = (line: (i: number) => string): string => numbers.map(line).join("\n");
  const input = (i: number): string => `{ id: number; name${i}: string; tags?: string[] }`;
  const declare = (i: number): string => {
    if (i % 4 === 0) return `m${i}: rpc<${input(i)}, { out${i}: number }>(),`;
    if (i % 4 === 1) return `m${i}: stream<${input(i)}, { out${i}: number }>(),`;
    const schema = `z.object({ id: z.number(), name${i}: z.string(), tags: z.array(z.string()).optional() })`;
    const output = `z.object({ out${i}: z.number() })`;
    const kind = i % 4 === 2 ? "rpc" : "stream";
    return `m${i}: ${kind}({ input: ${schema}, output: ${output}, errors: { E${i}: typed<{ at: number }>() } }),`;
  };
  const call = (i: number): string => {
    const args = `{ id: 1, name${i}: "x" }`;
    const used =
      i % 2 === 0 ? `(await client.m${i}(${args})).out${i}` : `for await (const n of client.m${i}(${args})) n.out${i}`;
    return `${used}${i % 2 === 0 ? ".toFixed()" : ".toFixed()"};`;
  };
  const handle = (i: number): string =>
    i % 2 === 0 ? `m${i}: ({ id }) => ({ out${i}: id }),` : `async *m${i}({ id }) { yield { out${i}: id }; },`;
  writeFileSync(
    join(folder, "contract.ts"),
    `import { contract, rpc, type SlotBus, type SlotWorker, stream, typed } from "slotbus";
import { z } from "zod";
export const unused = [rpc, stream, typed, z];
export const big = contract("big", {
${lines(declare)}
});
export async function call(bus: SlotBus): Promise<void> {
  const client = bus.client(big);
  void client;
${lines(call)}
}
export function answer(worker: SlotWorker): void {
  worker.implement(big, {
${lines(handle)}
  });
}
`,
  );
  const base = join(root, "tsconfig.json");
  const compilerOptions = {
    paths: { slotbus: [join(root, "src/index.ts")] },
    typeRoots: [join(root, "node_modules/@types")],
  };
  writeFileSync(join(folder, "tsconfig.json"), JSON.stringify({ extends: base, compilerOptions, include: ["*.ts"] }));
  const compiler = join(root, "node_modules/.bin/tsc");
  const run = Bun.spawnSync([compiler, "--noEmit", "--extendedDiagnostics", "-p", folder], { stderr: "inherit" });
  const text = run.stdout.toString();
  if (run.exitCode !== 0) throw new Error(text.slice(0, 3_000));
  const figure = (name: string): number => Number(new RegExp(`^${name}:\\s+([\\d.]+)`, "m").exec(text)![1]);
  return { instantiations: figure("Instantiations"), seconds: figure("Check time") };
}
