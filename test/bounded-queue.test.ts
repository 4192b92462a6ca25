/** Queues with a limit: what each policy keeps, and in which order. */

import { expect, test } from "bun:test";
import { BoundedQueue, type QueuePolicy } from "../src/bounded-queue.ts";

/** Pushes items 1 to `count`, each once accepted. Returns waiting items, and counts of dropped and refused ones. */
function fill(queue: BoundedQueue<number>, count: number): { waiting: number[]; dropped: number; refused: number } {
  let dropped = 0;
  let refused = 0;
  for (let item = 1; item <= count; item++) {
    if (queue.accepts()) dropped += queue.push(item);
    else refused++;
  }
  return { waiting: queue.takeAll(), dropped, refused };
}

const kept: [QueuePolicy, ReturnType<typeof fill>][] = [
  ["drop-newest", { waiting: [1, 2, 3], dropped: 0, refused: 2 }],
  ["drop-oldest", { waiting: [3, 4, 5], dropped: 2, refused: 0 }],
  ["close", { waiting: [1, 2, 3], dropped: 0, refused: 2 }],
  ["block", { waiting: [1, 2, 3, 4, 5], dropped: 0, refused: 0 }],
];
test.each(kept)("%s keeps what it says of five items for three places", (policy, expected) => {
  expect(fill(new BoundedQueue<number>(3, policy), 5)).toEqual(expected);
});

test("a queue is full at its limit, not below; with policy block it takes items above the limit too", () => {
  const queue = new BoundedQueue<number>(2, "block");
  const seen = [queue.isFull];
  for (let item = 0; item < 3; item++) {
    queue.push(item);
    seen.push(queue.isFull);
  }
  for (let item = 0; item < 3; item++) {
    queue.take();
    seen.push(queue.isFull);
  }
  expect(seen).toEqual([false, false, true, true, true, false, false]);
});

test("items come in order after any mix of pushes and takes, and each has its number", () => {
  const queue = new BoundedQueue<number>(1e9, "close");
  let pushed = 0;
  let taken = 0;
  for (let round = 1; round <= 200; round++) {
    for (let i = 0; i < (round * 37) % 101; i++) queue.push(pushed++);
    for (let i = 0; i < (round * 53) % 89 && taken < pushed; i++) {
      expect(queue.first).toBe(taken);
      expect(queue.take()).toBe(taken++);
    }
    expect(queue.length).toBe(pushed - taken);
  }
  expect(pushed - taken).toBeGreaterThan(500); // long enough that places were freed in between
  expect(taken).toBeGreaterThan(5_000);
  expect(queue.takeAll()).toEqual(Array.from({ length: pushed - taken }, (_, i) => taken + i));
  expect([queue.take(), queue.length, queue.first]).toEqual([undefined, 0, pushed]);
});

test("items have sizes of their own, and one that is too large goes into an empty queue", () => {
  const texts = (policy: QueuePolicy) => new BoundedQueue<string>(5, policy, (text) => (text as string).length);
  const queue = texts("drop-newest");
  expect([queue.accepts(9), queue.push("123456789"), queue.accepts(1), queue.take()]).toEqual([
    true,
    0,
    false,
    "123456789",
  ]);
  queue.push("123");
  expect([queue.accepts(2), queue.accepts(3), queue.isFull]).toEqual([true, false, false]);
  const newest = texts("drop-oldest");
  for (const text of ["1", "22", "3"]) expect(newest.push(text)).toBe(0);
  expect([newest.push("4444"), newest.takeAll()]).toEqual([2, ["3", "4444"]]);
  expect([newest.push("55555"), newest.push("666666"), newest.takeAll()]).toEqual([0, 1, ["666666"]]);
});
