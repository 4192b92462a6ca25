/** Programs for any wire: the types leave out what only shared memory can do. */

import { expect, test } from "bun:test";
import type { PortableBus, PortableWorker, RequestOptions, SlotBusOptions, SlotWorkerOptions } from "../src/index.ts";
import { contract, drainOnSigterm, rpc, SlotBus } from "../src/index.ts";
import { Workspace } from "./support.ts";

const shop = contract("shop", { total: rpc<number[], number>() });

/** A program whose types do not name the wire. */
async function program(bus: PortableBus, worker: PortableWorker): Promise<[number, string, number]> {
  const joined: number[] = [];
  bus.on("joined", ({ pid }) => joined.push(pid));
  worker.implement(shop, { total: (prices) => prices.reduce((sum, price) => sum + price, 0) });
  worker.serve((request) => request.text(), { replace: true });
  await bus.ready({ workers: 1, timeout: Infinity });
  const total = await bus.client(shop).total([1, 2]);
  const text = (await bus.request({ path: "/", body: "x" }, { timeout: 500 })).text();
  return [total, text, bus.workers.length];
}

test("a program of the portable types runs on a bus and a worker, and ends with them", async () => {
  await using space = new Workspace();
  await using bus = await space.bus();
  await using worker = await space.worker();
  expect(await program(bus, worker)).toEqual([3, "x", 1]);
});

/** Compiled, never run: each line must hold for the types. */
export const types = async (bus: PortableBus, worker: PortableWorker): Promise<void> => {
  await using portable = bus;
  portable.closed satisfies boolean;
  await worker.close({ timeout: 0 });
  drainOnSigterm(bus, worker) satisfies () => void;
  // @ts-expect-error: a view of shared memory
  void bus.borrow({ path: "/" });
  // @ts-expect-error: blocks the thread
  bus.requestSync({ path: "/" });
  // @ts-expect-error: slots of shared memory
  bus.diagnostics();
  // @ts-expect-error: ends an attachment
  bus.evict(1, "");
  // @ts-expect-error: blocks the thread
  worker.serveSync(() => "x");
  // @ts-expect-error: bells of shared memory
  worker.wakeups satisfies number;
  // @ts-expect-error: spinning for shared memory
  worker.spinning satisfies string;
  // @ts-expect-error: the reason of a death is text
  bus.on("died", (_, reason: number) => reason);
  // @ts-expect-error: no option of that name
  void bus.request({ path: "/" }, { lateSignal: () => AbortSignal.abort() });
  // @ts-expect-error: no option of that name
  void bus.request({ path: "/" }, { timout: 1 });
  // @ts-expect-error: the limit of a close is a number
  void bus.close({ timeout: "1" });
  // @ts-expect-error: the name must be given
  void SlotBus.create({ slots: 1 });
  // @ts-expect-error: no policy of that name
  void SlotBus.create({ name: "x", queue: { policy: "drop" } });
  // @ts-expect-error: a helper, not an option
  ({ drainOnSigterm: true }) satisfies SlotWorkerOptions;
  // @ts-expect-error: the tracing channels tell the same
  ({ name: "x", instrumentation: () => {} }) satisfies SlotBusOptions;
  ({ timeout: Infinity, signal: undefined, deadline: 1 }) satisfies RequestOptions;
  ({ reconnect: { initial: 1 } }) satisfies SlotWorkerOptions;
};
