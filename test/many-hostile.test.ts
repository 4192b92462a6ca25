/** Many clients, and one of them is hostile: its session ends, and no other. */

import { expect, test } from "bun:test";
import type { SlotWorker } from "../src/index.ts";
import { C } from "../src/native/abi.ts";
import { RawClient } from "./raw-client.ts";
import { until, Workspace } from "./support.ts";

const echo = ({ body }: { body: Uint8Array }): Uint8Array => body;

/** Returns the messages of the errors with which sessions of `worker` end, past and future. */
function endsOf(worker: SlotWorker): string[] {
  const reasons: string[] = [];
  worker.on("disconnected", ({ message, cause }) => reasons.push(`${message} ${cause ?? ""}`));
  return reasons;
}

/** CANCEL messages of a request that does not run. */
function cancels(count: number): Uint8Array {
  const one = [C.SB_MSG_CANCEL, 8, 0, 0, 0, 0, 9, 0, 0, 0];
  return Uint8Array.from({ length: count * one.length }, (_, i) => one[i % one.length]!);
}

const ways: [what: string, attack: (client: RawClient) => void, reason: RegExp][] = [
  ["20 000 bells", (client) => client.write(new Uint8Array(20_000)), /more than 10000 bells or messages per second/],
  ["11 000 cancels", (client) => client.write(cancels(11_000)), /more than 10000 bells or messages per second/],
  ["an unknown message", (client) => client.write(new Uint8Array([99, 0])), /an unexpected message of type 99/],
  ["a cut CANCEL", (client) => client.write(new Uint8Array([C.SB_MSG_CANCEL, 0])), /an unexpected message of type/],
  ["a request with a wrong length", (client) => client.lie(), /broke the protocol.*invalid length/],
];

for (const [what, attack, reason] of ways) {
  test(`a client that sends ${what} loses its session with the reason, and other clients lose nothing`, async () => {
    await using space = new Workspace();
    await using evil = await RawClient.open(space);
    const bus = await space.client();
    const worker = await space.worker(echo);
    const reasons = endsOf(worker);
    await bus.ready();
    await until(() => evil.workers.length === 1, "it is attached to both");
    const id = bus.workers[0]!.id;
    attack(evil);
    await until(() => reasons.length === 1, "the session has ended", 3_000).catch(() => reasons.push("none ended"));
    expect(reasons[0]).toMatch(reason);
    expect(await (await bus.request({ path: "/", body: "still" })).text()).toBe("still");
    expect(bus.workers[0]!.id).toBe(id);
  });
}

test("bells that announce work end no session, however many", async () => {
  await using space = new Workspace();
  const [bus] = [await space.client({ spin: 0 }), await space.client()];
  const worker = await space.worker(echo, { spin: 0 });
  const reasons = endsOf(worker);
  await bus!.ready();
  for (let i = 0; i < 30_000; i++) await bus!.request({ path: "/", body: "x" });
  expect([reasons, worker.served]).toEqual([[], 30_000]);
  expect(bus!.stats().bells).toBeGreaterThan(10_000);
}, 60_000);

test("a client that breaks the protocol in each session gets sessions ever more rarely, its successor at once", async () => {
  await using space = new Workspace();
  const evil = await RawClient.open(space, (client) => client.write(new Uint8Array([99, 0])));
  const bus = await space.client();
  const worker = await space.worker(echo);
  await bus.ready();
  await until(() => evil.joined.length === 7, "seven sessions"); // the next pause is 320 to 640 ms
  const [first, last] = [evil.joined[0]!, evil.joined[6]!];
  expect(last - first).toBeGreaterThan((10 + 20 + 40 + 80 + 160 + 320) / 2);
  await until(() => evil.workers.length === 0, "the seventh has ended");
  await evil[Symbol.asyncDispose]();
  const next = await space.client(); // takes the same number
  const start = performance.now();
  await next.ready();
  expect(performance.now() - start).toBeLessThan(250);
  expect(worker.connected).toBe(true);
});

test("a blocking worker leaves a client that floods its socket, and serves the others", async () => {
  await using space = new Workspace();
  space.leavesKilled = true;
  await using evil = await RawClient.open(space);
  const bus = await space.client();
  const child = space.child("sync-worker.ts");
  await child.line("serving");
  await bus.ready();
  await until(() => evil.workers.length === 1, "it is attached to both");
  for (let i = 0; evil.joined.length === 1 && i < 200; i++) {
    evil.write(cancels(2_000));
    expect(JSON.parse(await (await bus.request({ path: "/", body: "on" })).text())).toMatchObject({ body: "on" });
  }
  await until(() => evil.joined.length > 1, "it was left, and may attach again");
}, 30_000);
