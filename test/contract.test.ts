/** Typed calls: contracts, their clients and workers, what is checked where, and what each side is told. */

import { describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import fc from "fast-check";
import { z } from "zod";
import { encodeFrame, FRAME, FrameReader } from "../src/contract/frames.ts";
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
  ProtocolError,
  RemoteError,
  RequestTimeoutError,
  rpc,
  type SlotBus,
  type SlotbusError,
  type SlotWorker,
  stream,
  typed,
  ValidationError,
} from "../src/index.ts";
import { pattern, rejection, same, until, Workspace } from "./support.ts";

/** A bus with a worker of the contract, and a client of it. */
async function open<C extends Contract>(
  space: Workspace,
  agreed: C,
  handlers: Handlers<C>,
): Promise<{ bus: SlotBus; worker: SlotWorker; client: Client<C> }> {
  const bus = await space.bus();
  const worker = (await space.worker()).implement(agreed, handlers);
  await bus.ready();
  return { bus, worker, client: bus.client(agreed) };
}

async function all<T>(source: AsyncIterable<T>): Promise<T[]> {
  const out: T[] = [];
  for await (const item of source) out.push(item);
  return out;
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
    expect(await client).toBe(client); // no thenable
  });

  test("any JSON value comes back as it went, as do bytes and undefined", async () => {
    await using space = new Workspace();
    const echo = contract("echo", { echo: rpc<unknown, unknown>(), each: stream<unknown[], unknown>() });
    const { client } = await open(space, echo, { echo: (value) => value, each: (values) => values });
    const values = fc.oneof(fc.jsonValue(), fc.string({ unit: "binary" }));
    await fc.assert(
      fc.asyncProperty(fc.array(values, { maxLength: 5 }), async (list) => {
        const plain = JSON.parse(JSON.stringify(list)) as unknown[]; // -0 and the like
        expect(await client.echo(list)).toEqual(plain);
        expect(await all(client.each(list))).toEqual(plain);
      }),
      { numRuns: 100 },
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

  test("a handler sees signal, deadline, time left, id and headers of its call", async () => {
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

  test("idempotent is the method's unless the call says otherwise", async () => {
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

  test("a handler that throws what is not declared is a RemoteError, as without a contract", async () => {
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

  test("the handlers may be an object with a `this`, and be replaced; serve answers the rest", async () => {
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

  test("a method can be asked for without a client: JSON in, JSON out", async () => {
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

  test("what a generator throws comes behind the items it gave, before the first, after, and at the end", async () => {
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

  test("an endless generator ends when its caller's time is over, and its finally runs", async () => {
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
    const error = await rejection<SlotbusError>(all(client.tick(undefined, { timeout: 100 })));
    expect(error.code).toMatch(/^TIMEOUT$|^REMOTE$/); // whoever looks at the clock first: hub, or worker that collects
    expect(error.mayHaveExecuted).toBe(true);
    await until(() => over, "the generator has ended");
  });

  test("a method takes a sequence of items: array, generator, stream; each item is checked on the way", async () => {
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

describe("checks", () => {
  test("the client refuses an input before it is sent, and says where and what", async () => {
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
    expect(broken.text()).toContain("is no application/json");
    const invalid = await bus.request({ path: "/demo/resize", body: new Uint8Array([0x22, 0xff, 0x22]) });
    expect(invalid.status).toBe(400);
    expect(ran).toBe(0);
  });

  test("the worker refuses its own output, is told, and the client gets none of it", async () => {
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
    await until(() => reported.length === 1, "reported to the worker");
  });

  test("the client refuses an output that its own schema does not pass", async () => {
    await using space = new Workspace();
    const { bus } = await open(space, lax, { resize: () => ({ area: "big" as unknown as number }) });
    const error = await rejection<ValidationError>(bus.client(strict).resize({ width: 1 }));
    expect([error.side, error.part, error.mayHaveExecuted]).toEqual(["client", "output", true]);
  });

  test("schemas that take their time, and that change values, on both sides: each receiver gets what its schema makes", async () => {
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

  test("a value that JSON cannot carry is refused where it is, not sent as something else", async () => {
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
    expect(isContractError(new Error("x"), shop.methods.find)).toBe(false);

    const gone = await rejection(client.find(1));
    expect(isContractError(gone, shop.methods.find, "GONE") && gone.data === undefined).toBe(true);
    const raw = await rejection(client.find(2));
    if (!isContractError(raw, shop.methods.find, "RAW")) throw raw;
    expect(same(raw.data, pattern(50_000))).toBe(true);
    expect(raw.message).toBe("bytes\nin two lines");
    expect(reported).toEqual([]); // no fault of the handler
    expect(bus.stats().inFlight).toBe(0);
  });

  test("data that is not as declared is a ValidationError, an undeclared code a RemoteError", async () => {
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
  });

  test("of a stream come behind its items", async () => {
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
    return rejection(outcome instanceof Promise ? outcome : all(outcome as AsyncIterable<unknown>));
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
    expect(early).toBeInstanceOf(InvalidConfigError); // the client itself finds that 1 is no sequence
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

    const passes = async (served: Contract, called: Contract): Promise<unknown> => {
      await using space = new Workspace();
      const { bus } = await open(space, served, { get: () => 1 } as unknown as Handlers<Contract>);
      return (bus.client(called) as { get(n: number): Promise<unknown> }).get(1);
    };
    const own = { "~standard": { version: 1 as const, vendor: "own", validate: (value: unknown) => ({ value }) } };
    const none = contract("c", { get: rpc<number, number>() });
    expect(await passes(of(z.number()), of(z.number()))).toBe(1);
    expect(await passes(of(z.number()), none)).toBe(1);
    expect(await passes(of(z.number()), contract("c", { get: rpc({ input: own, output: typed<number>() }) }))).toBe(1);
    expect(await passes(of(z.number().min(0), "1"), of(z.number().min(1), "1"))).toBe(1);
    const unshown = z.custom<number>((n) => typeof n === "number");
    expect(await passes(of(unshown), of(z.number()))).toBe(1);
  });

  test("a method or contract the worker does not have is told with the names that come near", async () => {
    const served = contract("demo", { hello: rpc(), help: rpc(), count: stream() });
    const error = await mismatch(served, contract("demo", { helo: rpc() }), "helo");
    expect(told(error)).toEqual(["CONTRACT_MISMATCH", false, "method: helo / has none of this name"]);
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

  test("a worker without the contract, and one whose answers are no outputs", async () => {
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

  test("a malformed failure, and items that are none, are protocol errors, never a hang or a crash", async () => {
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
      expect(await rejection(bus.client(demo).hello({ name: "" }))).toBeInstanceOf(ProtocolError);
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
      expect(await rejection(all(bus.client(demo).count({ to: 1 })))).toBeInstanceOf(ProtocolError);
    }
  });
});

describe("frames", () => {
  const frame = fc.record({
    kind: fc.constantFrom(FRAME.value, FRAME.bytes),
    payload: fc.uint8Array({ maxLength: 300 }),
  });

  test("come out as they went in, however the bytes are cut", () => {
    fc.assert(
      fc.property(fc.array(frame, { maxLength: 20 }), fc.array(fc.nat(), { maxLength: 50 }), (frames, places) => {
        const end = encodeFrame(FRAME.end, "");
        const bytes = Buffer.concat([...frames.map(({ kind, payload }) => encodeFrame(kind, payload)), end]);
        const cuts = [0, ...places.map((n) => n % (bytes.length + 1)).sort((a, b) => a - b), bytes.length];
        const reader = new FrameReader();
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
    );
  });

  test("a stream that is cut anywhere, or goes on behind its end, is an error", () => {
    const bytes = Buffer.concat([encodeFrame(FRAME.value, "12"), encodeFrame(FRAME.end, "")]);
    for (let cut = 0; cut < bytes.length; cut++) {
      const reader = new FrameReader();
      reader.push(bytes.subarray(0, cut));
      while (reader.next());
      expect(() => reader.finish()).toThrow(ProtocolError);
    }
    for (const joined of [true, false]) {
      const reader = new FrameReader();
      const read = () => {
        reader.push(joined ? Buffer.concat([bytes, bytes]) : bytes);
        while (reader.next());
        if (!joined) reader.push(bytes);
      };
      expect(read).toThrow("behind its end");
    }
    const reader = new FrameReader();
    reader.push(Buffer.from([FRAME.value, 0, 0, 0, 0xff]));
    expect(() => reader.next()).toThrow(ProtocolError);
  });

  test("a frame of 4 MiB in chunks of 100 bytes is copied once, not once per chunk", () => {
    const bytes = encodeFrame(FRAME.bytes, pattern(4 * 2 ** 20));
    const reader = new FrameReader();
    const started = performance.now();
    for (let at = 0; at < bytes.length; at += 100) {
      reader.push(bytes.subarray(at, at + 100));
      if (at + 100 < bytes.length) expect(reader.next()).toBeNull();
    }
    expect(same(reader.next()!.payload, pattern(4 * 2 ** 20))).toBe(true);
    expect(performance.now() - started).toBeLessThan(20_000); // once per chunk: 84 GB of copies
  });
});

describe("codecs", () => {
  test("another codec carries inputs, outputs, items and errors; bytes pass it by", async () => {
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
  test("names, methods, schemas, versions and codecs that are none are told when the contract is made", () => {
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
      'contract "demo" has no handler for resize, count.',
    );
    // @ts-expect-error: there is no method of that name
    expect(() => worker.implement(demo, { ...handlers, helo: () => {} })).toThrow("does not have helo");
    expect(await client.hello({ name: "still" })).toEqual({ msg: "hi still" });
    await worker.close();
    expect(() => worker.implement(demo, handlers)).toThrow("closed");
  });

  test("an answer, and a stream, above the payload limit reject with a typed error", async () => {
    await using space = new Workspace();
    const big = contract("big", { get: rpc<number, string>(), many: stream<number, string>() });
    const bus = await space.bus({ payloadLimit: 10_000 });
    (await space.worker()).implement(big, {
      get: (n) => "x".repeat(n),
      *many(n) {
        for (let i = 0; i < n; i++) yield "x".repeat(1_000);
      },
    });
    await bus.ready();
    const client = bus.client(big);
    expect((await rejection<RemoteError>(client.get(20_000))).remoteCode).toBe("PAYLOAD_TOO_LARGE");
    expect((await rejection<RemoteError>(all(client.many(1e9)))).remoteCode).toBe("TIMEOUT");
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
    // @ts-expect-error: a stream is no promise
    await client.count({ to: 1 }).then();
    // @ts-expect-error: items are numbers
    for await (const n of client.count({ to: 1 })) n.toUpperCase();
    // @ts-expect-error: an output of another type
    worker.implement(demo, { ...handlers, hello: () => ({ msg: 7 }) });
    // @ts-expect-error: items of another type
    worker.implement(demo, { ...handlers, count: () => ["a"] });
    // @ts-expect-error: height is there, by its default, and is no text
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

  test("are checked by the compiler, in the lines of this file that expect an error", () => {
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

/** Checks a contract of so many methods with its worker and its client: what the compiler says it took. */
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
