/** The hub's queue. */

import { expect, test } from "bun:test";
import { Pending, PendingQueue } from "../src/bus/pending.ts";

const nothing = () => {};
const make = (serial: number, timeoutMs = 1_000) =>
  new Pending({ path: "/" }, {}, "copy", serial, timeoutMs, nothing, nothing);

function serials(queue: PendingQueue): number[] {
  const out: number[] = [];
  for (let pending = queue.head; pending; pending = pending.wait.next) out.push(pending.serial);
  expect(out.length).toBe(queue.length);
  return out;
}

test("it behaves as an array under pushes at both ends and removals anywhere", () => {
  const queue = new PendingQueue();
  let model: Pending[] = [];
  let seed = 42;
  const random = (n: number) => (seed = (seed * 1_103_515_245 + 12_345) & 0x7fffffff) % n;
  for (let i = 0; i < 5_000; i++) {
    const action = random(3);
    if (action === 2 && model.length > 0) {
      const [removed] = model.splice(random(model.length), 1);
      queue.remove(removed!);
      queue.remove(removed!); // again does nothing
      expect(removed!.wait.queued).toBe(false);
    } else {
      const pending = make(i);
      if (action === 1) {
        queue.pushFront(pending);
        model = [pending, ...model];
      } else {
        queue.pushBack(pending);
        model.push(pending);
      }
    }
    if (i % 50 === 0) expect(serials(queue)).toEqual(model.map(({ serial }) => serial));
  }
  expect(serials(queue)).toEqual(model.map(({ serial }) => serial));
});

test("what is left of a timeout counts from the call, is at least 1 ms, and 0 stays none", () => {
  const pending = make(1);
  pending.startedAt = 100;
  expect([pending.timeLeft(350), pending.timeLeft(5_000)]).toEqual([750, 1]);
  const unlimited = make(2, 0);
  expect(unlimited.timeLeft(500)).toBe(0);
});

test("how the time was spent: never queued, never published, both", () => {
  const direct = make(1);
  expect(direct.times(9_999)).toEqual({ queuedMs: 0, ranMs: 1_000 });
  const queued = make(2);
  queued.startedAt = 100;
  expect(queued.times(400)).toEqual({ queuedMs: 300, ranMs: 0 });
  queued.timeLeft(300);
  expect(queued.times(1_100)).toEqual({ queuedMs: 200, ranMs: 800 });
});
