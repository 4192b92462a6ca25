/** Worlds of the replay wire: those that failed once, and new ones of fixed seeds. */

import { expect, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { Cells } from "./replay/cells.ts";
import { type Chosen, Choices } from "./replay/choices.ts";
import { Runner } from "./replay/runner.ts";
import { plantedFaults, unfit } from "./replay/planted.ts";
import { runWorld } from "./replay/worlds.ts";

const SEEDS = 300;
const kept = join(import.meta.dir, "replay/worlds");

test("every world that failed once passes", async () => {
  const files = readdirSync(kept).filter((file) => file.endsWith(".json"));
  expect(files.length).toBeGreaterThan(0);
  for (const file of files) {
    const { choices } = JSON.parse(readFileSync(join(kept, file), "utf8")) as { choices: Chosen[] };
    const world = await runWorld(Choices.ofList(choices));
    expect(`${file}: ${world.failure}`).toBe(`${file}: null`);
    expect(world.calls.length).toBeGreaterThan(0);
  }
});

test(`${SEEDS} worlds keep every promise`, async () => {
  const cells = new Cells();
  let calls = 0;
  for (let seed = 1; seed <= SEEDS; seed++) {
    const world = await runWorld(Choices.ofSeed(seed), cells);
    expect(`seed ${seed}: ${world.failure}`).toBe(`seed ${seed}: null`);
    expect(world.faults).toBeGreaterThan(0);
    calls += world.calls.length;
  }
  expect(calls).toBeGreaterThan(50 * SEEDS); // a world whose client dies early has fewer
  expect([...cells.exchange.wrong, ...cells.connection.wrong]).toEqual([]);
}, 180_000);

test("the same seed gives the same world, and so does the list of its choices", async () => {
  const recorded = Choices.ofSeed(11, true);
  const first = await runWorld(recorded);
  const second = await runWorld(Choices.ofSeed(11));
  const third = await runWorld(Choices.ofList(recorded.taken));
  expect(first.reports).toBeGreaterThan(100);
  for (const other of [second, third]) {
    expect(other.reports).toBe(first.reports);
    expect(other.time.now).toBe(first.time.now);
    expect(other.time.steps).toBe(first.time.steps);
  }
});

test("a world that never ends is ended and fails, and other worlds run after it", async () => {
  const runner = new Runner();
  try {
    const endless = await runner.world({ choices: [{ name: "world never ends", value: 1 }] }, 300);
    expect(endless.failure).toStartWith("the world never ends");
    const { worlds, calls, failed } = await runner.seeds(1, 3);
    expect({ worlds, failed }).toEqual({ worlds: 3, failed: null });
    expect(calls).toBeGreaterThan(0);
  } finally {
    await runner.close();
  }
}, 180_000);

test("every planted fault fits the sources", () => {
  expect(plantedFaults().length).toBeGreaterThan(9);
  expect(plantedFaults().flatMap((fault) => unfit(fault))).toEqual([]);
});
