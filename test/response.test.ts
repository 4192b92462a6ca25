/** A response: a copy that stays, or a loan that ends. */

import { describe, expect, test } from "bun:test";
import {
  type BorrowedResponse,
  type BusResponse,
  RequestTimeoutError,
  type DeferredAnswer,
  type SlotBus,
} from "../src/index.ts";
import { mappings, pattern, rejection, same, until, Workspace } from "./support.ts";

describe("copies", () => {
  test("a kept response does not change when its slot is used again", async () => {
    await using space = new Workspace();
    const { bus } = await space.pair((request) => ({ headers: { n: request.query }, body: request.body }), {
      slots: 1,
    });
    const kept: BusResponse[] = [];
    const sizes = [10, 1_000, 20_000, 76_533, 500, 300_000, 1];
    for (const [i, bytes] of sizes.entries()) {
      kept.push(await bus.request({ path: "/", query: String(i), body: pattern(bytes) }));
      await bus.request({ path: "/", query: "overwrite", body: new Uint8Array(400_000).fill(i) });
    }
    for (const [i, bytes] of sizes.entries()) {
      expect([kept[i]!.headers.get("n"), same(kept[i]!.body, pattern(bytes))]).toEqual([String(i), true]);
    }
    await bus.close();
    expect(same(kept[3]!.body, pattern(76_533))).toBe(true);
  });

  test("a header that a WHATWG Response rejects is one typed error that says that the handler ran", async () => {
    await using space = new Workspace();
    async function* one() {
      yield "1";
      await new Promise(() => {});
    }
    const { bus } = await space.pair((request) => ({
      headers: { price: request.query === "euro" ? "7 €" : request.query },
      body: request.path === "/stream" ? one() : "1",
    }));
    expect((await bus.fetch("/?7")).headers.get("price")).toBe("7");
    const response = await bus.request({ path: "/", query: "7 €" });
    expect(response.headers.get("price")).toBe("7 €");
    expect(() => response.toResponse()).toThrow(expect.objectContaining({ code: "PROTOCOL" }));
    const error = await rejection(Promise.try(() => response.toResponse()));
    expect(error).toMatchObject({ code: "PROTOCOL", mayHaveExecuted: true });
    for (const path of ["/", "/stream"])
      expect(await rejection(bus.fetch(`${path}?euro`))).toMatchObject({ code: "PROTOCOL" });
    await until(() => bus.diagnostics().slots.every(({ state }) => state !== "STREAMING"), "the stream is cancelled");
  });

  test("`ok` is true for 2xx only, and a status above 299 is an answer, not an error", async () => {
    await using space = new Workspace();
    const { bus } = await space.pair((request) => ({ status: Number(request.query) }));
    const seen: [number, boolean][] = [];
    for (const query of ["200", "204", "299", "300", "404", "599"]) {
      const { status, ok } = await bus.request({ path: "/", query });
      seen.push([status, ok]);
    }
    expect(seen).toEqual([
      [200, true],
      [204, true],
      [299, true],
      [300, false],
      [404, false],
      [599, false],
    ]);
  });

  test("an answer of exactly 16 MiB, the default limit, is identical byte by byte", async () => {
    await using space = new Workspace();
    const { bus } = await space.pair((request) => request.body);
    const body = pattern(bus.options.payloadBytes);
    expect(body.length).toBe(16 * 2 ** 20);
    expect(same((await bus.request({ path: "/", body })).body, body)).toBe(true);
  }, 20_000);
});

describe("loans", () => {
  test("lent responses keep their own slots and bytes while the other slots go on", async () => {
    await using space = new Workspace();
    const { bus } = await space.pair((request) => request.body, { slots: 8 });
    const lent: BorrowedResponse[] = [];
    for (let i = 0; i < 4; i++) lent.push(await bus.borrow({ path: "/", id: `lent ${i}`, body: pattern(8_192 + i) }));
    for (let round = 0; round < 200; round++) {
      const all = await Promise.all(
        Array.from({ length: 8 }, () => bus.request({ path: "/", body: new Uint8Array(8_192).fill(round) })),
      );
      expect(all.every(({ body }) => body.length === 8_192 && body[8_191] === round)).toBe(true);
    }
    const held = bus.diagnostics().slots.filter(({ borrowed }) => borrowed);
    expect(held.map(({ state, requestId }) => [state, requestId]).sort()).toEqual(
      Array.from({ length: 4 }, (_, i) => ["DONE", `lent ${i}`]),
    );
    expect([bus.diagnostics().slots.filter(({ state }) => state === "FREE").length, bus.stats().inFlight]).toEqual([
      4, 4,
    ]);
    for (const [i, response] of lent.entries()) expect(same(response.body, pattern(8_192 + i))).toBe(true);
    for (const response of lent) response.release();
    expect([bus.stats().inFlight, lent.map(({ body }) => body.length)]).toEqual([0, [0, 0, 0, 0]]);
  });

  test("a loan counts against its worker: with all slots lent a request waits, and runs when one is released", async () => {
    await using space = new Workspace();
    const { bus } = await space.pair((request) => request.path, { slots: 2 });
    const first = await bus.borrow({ path: "/1" });
    const second = await bus.borrow({ path: "/2" });
    const error = await rejection<RequestTimeoutError>(bus.request({ path: "/late" }, { timeout: 50 }));
    expect(error).toBeInstanceOf(RequestTimeoutError);
    expect(error.mayHaveExecuted).toBe(false);
    const waiting = bus.request({ path: "/3" });
    second.release();
    expect((await waiting).text()).toBe("/3");
    expect(first.text()).toBe("/1");
    first.release();
  });

  test("a loan outlives the kill of its worker: the bytes stay, and its last release unmaps the region", async () => {
    await using space = new Workspace();
    const { bus, child } = await space.remote("worker.ts");
    const before = mappings();
    const one = await bus.borrow({ path: "/", body: pattern(50_000) });
    const two = await bus.borrow({ path: "/", body: pattern(60_000) });
    expect([one.workerPid, two.workerPid]).toEqual([child.pid, child.pid]);
    await child.kill();
    await until(() => bus.stats().workersDied === 1, "the death is noticed");
    space.child("worker.ts");
    await bus.ready();
    for (let i = 0; i < 50; i++) await bus.request({ path: "/", body: new Uint8Array(60_000).fill(i) });
    expect([same(one.body, pattern(50_000)), same(two.body, pattern(60_000))]).toEqual([true, true]);
    const both = mappings();
    one.release();
    expect([one.body.length, mappings()]).toEqual([0, both]);
    two.release();
    expect([two.body.length, mappings()]).toEqual([0, both - 1]);
    expect(before).toBe(both - 1);
  });

  test("releases of a closed bus in any order crash nothing and leave no mapping", async () => {
    const before = mappings();
    await using space = new Workspace();
    const { bus, worker } = await space.pair((request) => request.body);
    const lent = await Promise.all(Array.from({ length: 6 }, () => bus.borrow({ path: "/", body: pattern(30_000) })));
    await bus.close();
    await worker.close();
    expect(mappings()).toBeGreaterThan(before);
    for (const index of [3, 0, 5, 1, 2, 4]) {
      expect(same(lent[index]!.body, pattern(30_000))).toBe(true);
      lent[index]!.release();
      lent[index]!.release();
    }
    expect(mappings()).toBe(before);
  });

  /** Returns `part` of a loan, and keeps no other reference to the loan. */
  async function lend<T>(bus: SlotBus, part: (response: BorrowedResponse) => T): Promise<T> {
    return part(await bus.borrow({ path: "/", body: pattern(30_000) }));
  }

  /** Collects garbage and uses the free slots until `count` loans were reclaimed. */
  function reclaimed(bus: SlotBus, count: number): Promise<void> {
    const isDone = async (): Promise<boolean> => {
      await bus.request({ path: "/", body: new Uint8Array(30_000) });
      Bun.gc(true);
      return bus.stats().borrowsForgotten >= count;
    };
    return until(isDone, `${count} loans are reclaimed`);
  }

  test("an unreleased loan is reclaimed and counted when nothing can reach its bytes", async () => {
    await using space = new Workspace();
    const { bus } = await space.pair((request) => request.body.slice(), { slots: 4 });
    const held: BorrowedResponse[] = [];
    for (let i = 0; i < 2; i++) await lend(bus, (response) => void held.push(response));
    await lend(bus, (response) => response.release());
    expect(bus.diagnostics().slots.filter(({ borrowed }) => borrowed).length).toBe(2);
    held.length = 0;
    await reclaimed(bus, 2);
    expect(bus.diagnostics().slots.every(({ state }) => state === "FREE")).toBe(true);
    expect(bus.stats()).toMatchObject({ inFlight: 0, borrowsForgotten: 2 }); // not the released one
    expect(bus.metrics()).toContain(`slotbus_borrows_forgotten_total{bus="${bus.name}"} 2`);
  });

  test("a loan whose response was collected stays while its body, a part of it or its buffer is referenced", async () => {
    await using space = new Workspace();
    const { bus } = await space.pair((request) => request.body.slice(), { slots: 8 });
    // In separate functions: a variable of this function could keep its last value.
    const held: (Uint8Array | ArrayBufferLike)[] = [];
    await lend(bus, ({ body }) => void held.push(body));
    await lend(bus, ({ body }) => void held.push(body.subarray(10_000)));
    await lend(bus, ({ body }) => void held.push(body.buffer));
    await lend(bus, ({ body }) => void held.push(new Uint8Array(body.buffer, 20_000)));
    const isWhole = (at: number, start: number): boolean =>
      same(new Uint8Array(held[at] as Uint8Array<ArrayBuffer>), pattern(30_000).subarray(start));
    await lend(bus, () => {});
    await reclaimed(bus, 1); // the fifth: garbage was collected, and the worker has written to its free slots
    for (let i = 0; i < 20; i++) await reclaimed(bus, 1);
    expect([0, 10_000, 0, 20_000].map((start, at) => isWhole(at, start))).toEqual([true, true, true, true]);
    expect(bus.stats()).toMatchObject({ inFlight: 4, borrowsForgotten: 1 });
    held.length = 0;
    await reclaimed(bus, 5);
    expect(bus.stats().inFlight).toBe(0);
  });

  test("a forgotten loan of a dead worker keeps its region until it is reclaimed", async () => {
    await using space = new Workspace();
    const { bus, child: first } = await space.remote("worker.ts");
    const held: Uint8Array[] = [];
    await lend(bus, ({ body }) => void held.push(body));
    await first.kill();
    await until(() => bus.stats().workersDied === 1, "the death is noticed");
    space.child("worker.ts");
    await bus.ready();
    const both = mappings();
    expect(same(held[0]!, pattern(30_000))).toBe(true);
    held.length = 0;
    await reclaimed(bus, 1);
    expect([mappings(), bus.stats().heldRegions]).toEqual([both - 1, 1]);
  });

  test("a loan ends with its block, and an aborted or timed out request was never lent", async () => {
    await using space = new Workspace();
    const kept: DeferredAnswer[] = [];
    const { bus } = await space.pair((request) =>
      request.path === "/hang" ? void kept.push(request.defer()) : "lent",
    );
    let view: Uint8Array;
    {
      using response = await bus.borrow({ path: "/" });
      view = response.body;
      expect([view.length, bus.stats().inFlight]).toEqual([4, 1]);
    }
    expect([view.length, bus.stats().inFlight]).toEqual([0, 0]);
    const controller = new AbortController();
    const aborted = rejection(bus.borrow({ path: "/hang" }, { signal: controller.signal }));
    await until(() => kept.length === 1, "it runs");
    controller.abort(new Error("no loan"));
    expect((await aborted).message).toBe("no loan");
    expect(await rejection(bus.borrow({ path: "/hang" }, { timeout: 30 }))).toBeInstanceOf(RequestTimeoutError);
    await until(() => kept.length === 2, "both ran");
    for (const answer of kept) expect(answer("late")).toBe("late");
    await until(() => bus.stats().inFlight === 0, "the slots are free");
    expect(bus.diagnostics().slots.some(({ borrowed }) => borrowed)).toBe(false);
  });

  test("an idle bus with a loan has no timer ticks", async () => {
    await using space = new Workspace();
    const { bus } = await space.pair((request) => request.body);
    const timers: number[] = [];
    const { setTimeout: original } = globalThis;
    using response = await bus.borrow({ path: "/", body: "lent" });
    const settled = Promise.withResolvers<void>();
    original(settled.resolve, 100); // the last request's tick ends by itself
    await settled.promise;
    globalThis.setTimeout = Object.assign(
      (...args: Parameters<typeof original>) => (timers.push(Number(args[1])), original(...args)),
      original,
    ) as typeof original;
    const wakeups = bus.stats().wakeups;
    const pause = Promise.withResolvers<void>();
    original(pause.resolve, 200);
    await pause.promise;
    globalThis.setTimeout = original;
    expect([timers, bus.stats().wakeups - wakeups, response.text()]).toEqual([[], 0, "lent"]);
  });

  test("a web Response made from a loan is whole after the loan", async () => {
    await using space = new Workspace();
    const { bus, worker } = await space.pair((request) => request.body);
    const body = pattern(100_000);
    const lent = await bus.borrow({ path: "/", body });
    const web = lent.toResponse();
    lent.release();
    await bus.request({ path: "/", body: new Uint8Array(100_000) });
    await worker.close();
    await bus.close();
    expect(same(await web.bytes(), body)).toBe(true);
  });
});

describe("views that outlive their loan", () => {
  const ways = [
    "transfer",
    "structuredClone",
    "a stream",
    "gzip",
    "a write to a pipe",
    "Bun.write",
    "Response",
    "Blob",
  ];
  for (const side of ["client", "worker", "reserve"]) {
    for (const way of ways) {
      test(`${side}: lent bytes kept by ${way} crash nothing, then or after close, and the bus goes on`, async () => {
        await using space = new Workspace();
        space.leftovers = ["out", "pipe"];
        const child = space.child("steal.ts", side, way);
        const exitCode = await child.process.exited;
        await until(() => exitCode !== 0 || child.lines.includes("survived"), "its last line");
        expect(child.lines).toContain("whole true");
        expect(child.lines).toContain("next 200");
        expect(child.lines.filter((line) => line.startsWith("failed"))).toEqual([]);
        expect([exitCode, child.lines.at(-1)]).toEqual([0, "survived"]);
        // Bytes that were taken over, or that a native call still reads, stay addressable and are counted.
        const native = way === "a write to a pipe" || way === "gzip";
        const kept = way === "transfer" || way === "structuredClone" || way === "a write to a pipe";
        if (kept && side === "client") expect(child.lines).toContain("held 1");
        if (!native) expect(child.lines).toContain("view 0");
      }, 20_000);
    }
  }
});
