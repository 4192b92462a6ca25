/** What holds for a worker on every transport: a link in memory, stdio and a bus. */

import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { RequestTimeoutError, RpcError } from "../src/errors.ts";
import { callBus } from "../src/serve.ts";
import { fixture, FakeSupervisor, running } from "./stdio-stage.ts";
import { rejection, until } from "./wait.ts";

interface Options {
  key?: string;
  timeout?: number;
  signal?: AbortSignal;
  onProgress?: (value: unknown) => unknown;
}

/** A host with one worker that serves the fixture's handlers. */
interface Host extends AsyncDisposable {
  call(method: string, params?: unknown, options?: Options): Promise<unknown>;
  /** Notifications of `ctx.notify` so far. */
  readonly told: { method: string; params: unknown }[];
}

async function overStdio(fake: boolean, framing: "ndjson" | "length" | "content-length" = "ndjson"): Promise<Host> {
  const pools = [fixture("stdio-worker.ts", { ready: true, framing })];
  const bus = await running({ pools }, {}, fake ? (...args) => new FakeSupervisor(...args) : undefined);
  const told: Host["told"] = [];
  const reading = (async () => {
    for await (const { method, params } of bus.subscribe()) told.push({ method, params });
  })();
  return {
    told,
    call: (method, params, options) => bus.request(method, params, options),
    async [Symbol.asyncDispose]() {
      await bus.close();
      await reading;
    },
  };
}

async function overBus(): Promise<Host> {
  const { Workspace } = await import("./support.ts"); // the others need no C library
  const workspace = new Workspace();
  const bus = await workspace.bus();
  const env = { ...process.env, SLOTBUS_NAME: workspace.name, SLOTBUS_DIR: workspace.directory };
  const worker = Bun.spawn([process.execPath, join(import.meta.dir, "fixtures/stdio-worker.ts")], {
    env,
    stdio: ["ignore", "inherit", "inherit"],
  });
  await bus.ready();
  const told: Host["told"] = [];
  const onNotify = (method: string, params: unknown): void => void told.push({ method, params });
  return {
    told,
    call: (method, params, options) => callBus(bus, method, params, { ...options, onNotify }),
    async [Symbol.asyncDispose]() {
      worker.kill("SIGTERM");
      expect(await worker.exited).toBe(0);
      await workspace[Symbol.asyncDispose]();
    },
  };
}

const hosts: Record<string, () => Promise<Host>> = {
  "a link in memory": () => overStdio(true),
  stdio: () => overStdio(false),
  "stdio, length": () => overStdio(false, "length"),
  "stdio, content-length": () => overStdio(false, "content-length"),
  "a bus": overBus,
};

for (const [name, open] of Object.entries(hosts)) {
  describe(name, () => {
    test("values come back as they were sent", async () => {
      await using host = await open();
      const values = [
        0,
        -1.5,
        "",
        'ä€😀\n\r\u2028\0"\\',
        true,
        null,
        [],
        {},
        { a: [{ b: null }], "": { ü: 1 } },
        [[["x"]]],
      ];
      for (const value of values) expect(await host.call("echo", value)).toEqual(value);
      expect(await host.call("nothing")).toBeNull();
    });

    test("a value of a megabyte comes back whole, between small ones", async () => {
      await using host = await open();
      const large = Array.from({ length: 100_000 }, (_, i) => `${i}ä€`);
      const answers = await Promise.all([host.call("echo", 1), host.call("echo", large), host.call("echo", 2)]);
      expect(answers).toEqual([1, large, 2]);
    });

    test("each of several calls at once gets its own answer", async () => {
      await using host = await open();
      const answers = await Promise.all(
        Array.from({ length: 500 }, (_, i) => host.call(i % 5 === 0 ? "late" : "echo", i % 7)),
      );
      expect(answers).toEqual(Array.from({ length: 500 }, (_, i) => i % 7));
    }, 20_000);

    test("a handler's error arrives with its code, message and data, and is not retryable", async () => {
      await using host = await open();
      const error = await rejection<RpcError>(host.call("fail", [1, { a: 2 }]));
      expect(error).toBeInstanceOf(RpcError);
      expect([error.rpcCode, error.rpcMessage, error.data]).toEqual([4242, "it said no", { params: [1, { a: 2 }] }]);
      expect([error.retryable, error.mayHaveExecuted]).toEqual([false, true]);
    });

    test("any other error of a handler is an internal error with its message; so is a result without JSON", async () => {
      await using host = await open();
      const thrown = await rejection<RpcError>(host.call("throw"));
      expect([thrown.rpcCode, thrown.rpcMessage]).toEqual([-32_603, "it broke"]);
      const cycle = await rejection<RpcError>(host.call("cycle"));
      expect(cycle).toBeInstanceOf(RpcError);
      expect(await host.call("echo", "still here")).toBe("still here");
    });

    test("an unknown method is -32601, even a method that every object has", async () => {
      await using host = await open();
      for (const method of ["nope", "toString", "__proto__", "a/b c?d"]) {
        expect((await rejection<RpcError>(host.call(method))).rpcCode).toBe(-32_601);
      }
    });

    test("progress comes in order, before the answer, and only to its own call", async () => {
      await using host = await open();
      const seen: number[][] = [[], [], []];
      const calls = seen.map((mine, index) =>
        host.call("count", 50 + index, { onProgress: (value) => mine.push((value as { i: number }).i) }),
      );
      expect(await Promise.all(calls)).toEqual([50, 51, 52]);
      for (const [index, mine] of seen.entries()) {
        expect(mine).toEqual(Array.from({ length: 50 + index }, (_, i) => i + 1));
      }
    });

    test("each yield of an async generator is progress, its return value is the answer, and an abort ends it", async () => {
      await using host = await open();
      const seen: unknown[] = [];
      expect(await host.call("steps", 30, { onProgress: (value) => seen.push(value) })).toBe("end");
      expect(seen).toEqual(Array.from({ length: 30 }, (_, i) => i + 1));
      const controller = new AbortController();
      const before = (await host.call("ends")) as number;
      const onProgress = (): void => controller.abort(7);
      expect(await rejection(host.call("steps", Infinity, { signal: controller.signal, onProgress }))).toBe(
        7 as unknown as Error,
      );
      let after = before;
      for (const end = performance.now() + 5_000; after === before && performance.now() < end;) {
        after = (await host.call("ends")) as number;
      }
      expect(after).toBe(before + 1);
    });

    test("while a promise of onProgress is pending, the next progress is not delivered", async () => {
      await using host = await open();
      let running = 0;
      let most = 0;
      const onProgress = async (): Promise<void> => {
        most = Math.max(most, ++running);
        await Bun.sleep(1);
        running--;
      };
      expect(await host.call("count", 20, { onProgress })).toBe(20);
      expect([most, running]).toEqual([1, 0]);
    });

    test("an onProgress that throws fails its call and no other", async () => {
      await using host = await open();
      const error = new Error("no more");
      const refuse = (): never => {
        throw error;
      };
      const refused = rejection(host.call("count", 20, { onProgress: refuse }));
      const later = rejection(host.call("count", 20, { onProgress: async () => refuse() }));
      expect([await refused, await later]).toEqual([error, error]);
      expect(await host.call("echo", 1)).toBe(1);
    });

    test("a handler whose caller cancels between two pieces of progress does not wait forever", async () => {
      await using host = await open();
      const controller = new AbortController();
      const before = (await host.call("ends")) as number;
      const aborted = rejection(
        host.call("endless", 0, { signal: controller.signal, onProgress: () => controller.abort(7) }),
      );
      const refused = rejection(
        host.call("endless", 0, {
          onProgress() {
            throw new Error("no more");
          },
        }),
      );
      expect(await aborted).toBe(7 as unknown as Error);
      expect((await refused).message).toBe("no more");
      let after = before;
      for (const end = performance.now() + 5_000; after < before + 2 && performance.now() < end;) {
        after = (await host.call("ends")) as number;
      }
      expect(after).toBe(before + 2);
    });

    test("a handler's notifications reach the host, and its answer too", async () => {
      await using host = await open();
      expect(await host.call("tell", { a: 1 })).toBe("ok");
      await until(() => host.told.length === 1, "the notification");
      expect(host.told).toEqual([{ method: "told", params: { a: 1 } }]);
    });

    test("the handler gets the key of its call", async () => {
      await using host = await open();
      expect(await host.call("key", 0, { key: "user 7" })).toBe("user 7");
      expect(await host.call("key")).toBeNull();
    });

    test("an abort rejects with its reason at once, and the handler's signal aborts", async () => {
      await using host = await open();
      const before = (await host.call("aborts")) as number;
      const controller = new AbortController();
      const reason = new Error("changed my mind");
      const call = rejection(host.call("wait", 0, { signal: controller.signal }));
      await host.call("echo", 1); // the worker has the request now
      controller.abort(reason);
      expect(await call).toBe(reason);
      let after = before;
      for (const end = performance.now() + 5_000; after === before && performance.now() < end;) {
        after = (await host.call("aborts")) as number;
      }
      expect(after).toBe(before + 1);
    });

    test("a call whose signal is already aborted is not sent", async () => {
      await using host = await open();
      const reason = new Error("never");
      expect(await rejection(host.call("tell", 1, { signal: AbortSignal.abort(reason) }))).toBe(reason);
      await host.call("echo", 1);
      expect(host.told).toEqual([]);
    });

    test("a call that times out rejects in time, and its late response goes to no other call", async () => {
      await using host = await open();
      const start = performance.now();
      const error = await rejection<RequestTimeoutError>(host.call("late", 1_000, { timeout: 500 }));
      expect(error).toBeInstanceOf(RequestTimeoutError);
      expect(error.mayHaveExecuted).toBe(true);
      expect(performance.now() - start).toBeGreaterThan(499);
      // The late response comes while half of these calls wait.
      const answers = await Promise.all(Array.from({ length: 25 }, (_, i) => host.call("late", 50 * i)));
      expect(answers).toEqual(Array.from({ length: 25 }, (_, i) => 50 * i));
    });
  });
}
