/** The worker that a client chooses for its next request. */

import { expect, test } from "bun:test";
import { Choice } from "../src/bus/choice.ts";
import type { Connection } from "../src/bus/wire.ts";

interface Worker {
  load?: number;
  elsewhere?: number;
  pace?: number;
  room?: number;
  isDoubtful?: boolean;
}

/** A choice among workers with the ids 0, 1, … `client`: number of this client; -1: the bus is its own. */
function among(client: number, workers: readonly Worker[], random: () => number = () => 0): Choice {
  const choice = new Choice("shop");
  if (client >= 0) choice.share(client, random);
  const usual = { load: 0, elsewhere: 0, pace: Infinity, room: 32, isDoubtful: false };
  workers.forEach((worker, id) => choice.add({ ...usual, pid: 100 + id, id, ...worker } as unknown as Connection));
  return choice;
}

const pick = (...of: Parameters<typeof among>): number | undefined => among(...of).pick()?.id;

test("an idle worker near the client is chosen", () => {
  expect(pick(-1, [{}, {}, {}])).toBe(0);
  expect(pick(1, [{}, {}, {}])).toBe(1);
  expect(pick(5, [{}, {}, {}])).toBe(2); // 5 % 3
  expect(pick(1, [{}, { load: 1 }, {}])).toBe(2);
  expect(pick(2, [{}, {}, { elsewhere: 1 }])).toBe(0);
});

test("requests wait together behind a fast worker for up to 0.1 ms, before another one is woken", () => {
  const fast = { pace: 0.002 };
  expect(pick(-1, [{ ...fast, load: 49 }, {}])).toBe(0);
  expect(pick(-1, [{ ...fast, load: 50 }, {}])).toBe(1);
  expect(pick(0, [{ ...fast, load: 24, elsewhere: 25 }, {}])).toBe(0);
  expect(pick(0, [{ ...fast, load: 25, elsewhere: 25 }, {}])).toBe(1);
  expect(pick(0, [{ ...fast, load: 32, room: 0 }, { ...fast, load: 5 }, {}])).toBe(1);
});

test("a doubtful worker is not near, however fast it was", () => {
  expect(pick(-1, [{ pace: 0.001, load: 1, isDoubtful: true }, {}])).toBe(1);
  expect(pick(0, [{ isDoubtful: true }, { isDoubtful: true }, { load: 9 }])).toBe(2);
});

test("without a prompt worker near it, an owner chooses the least loaded of all, a client the better of two", () => {
  const slow = [{ load: 3 }, { load: 3 }, { load: 2 }, { load: 1 }];
  expect(pick(-1, slow)).toBe(3);
  const numbers = [0.6, 0]; // of four workers: the third, and the worker after it
  expect(pick(0, slow, () => numbers.shift()!)).toBe(3);
  expect(pick(0, slow, () => 0)).toBe(0); // the first two
});

test("no worker has room", () => {
  for (const client of [-1, 0]) {
    expect(among(client, []).pick()).toBeNull();
    expect(among(client, [{ room: 0 }]).pick()).toBeNull();
    expect(among(client, [{ room: 0 }, { room: 0, load: 4 }]).pick()).toBeNull();
  }
});
