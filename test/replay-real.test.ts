/** Worlds of the replay above the wire of shared memory, with real processes: the model of the wire does not drift from it. */

import { expect, test } from "bun:test";
import { playWorlds } from "./replay/real/worlds.ts";

const WORLDS = 12;

test(`${WORLDS} worlds with real processes keep every promise, and calls end as in the replay`, async () => {
  const { failures, worlds, calm, kills, calls } = await playWorlds(1, WORLDS, Infinity, 6);
  expect(failures).toEqual([]);
  expect([worlds, calm]).toEqual([WORLDS, WORLDS / 4]);
  expect(kills).toBeGreaterThan(0);
  expect(calls).toBeGreaterThan(30 * WORLDS); // a world whose client dies early has few
}, 120_000);
