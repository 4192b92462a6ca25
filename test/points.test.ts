/**
 * Fault points: none in the library that is loaded, each named once in the sources and met by one proof. `test/prove/points.ts`
 * and `test/prove/fleet-points.ts` use them.
 */

import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { findLibrary } from "../src/native/find.ts";
import { faultsOf, fleetPoints, REFUSALS } from "./prove/fleet/points/labels.ts";
import { FAULTS, LABEL, labelsInSources, labelsOf, points } from "./prove/points/labels.ts";

const labels = labelsInSources().map(({ label }) => label);

test("the library holds no fault point: no label, none of their functions, nothing that reads their page", () => {
  const library = readFileSync(findLibrary(), "latin1");
  expect(library).toContain("sb_slot_publish");
  expect(library).toContain("sb_ring_publish");
  expect(library).toContain("slotbus-stats"); // its strings can be read
  const traces = ["fault_point", "fault_fails", "SLOTBUS_POINTS", ...labels];
  expect(traces.filter((trace) => library.includes(trace))).toEqual([]);
});

test("every label is named side.operation.moment and stands once in the sources", () => {
  expect(labels.length).toBeGreaterThanOrEqual(150);
  expect(labels.filter((label) => !LABEL.test(label))).toEqual([]);
  expect(labels.filter((label, at) => labels.indexOf(label) !== at)).toEqual([]);
});

test("every label of the sources belongs to one plan, that of the bus or that of the fleet", () => {
  const planned = [points(), fleetPoints()].flatMap((plan) => [...new Set(plan.map(({ label }) => label))]);
  expect(planned.toSorted()).toEqual(labels.toSorted());
});

test("both sides, and every file with system calls of its own, have labels; those before a call can fail", () => {
  const files = new Set(labelsOf("bus").map(({ file }) => file));
  for (const file of ["attach.c", "os_linux.c", "region.c", "slot_client.c", "slot_worker.c", "wait.c"])
    expect(files).toContain(file);
  const planned = points();
  expect(new Set(planned.map(({ role }) => role))).toEqual(new Set(["client", "worker", "blocker"] as const));
  expect(planned.filter(({ fails }) => fails).length).toBeGreaterThan(15);
  expect(FAULTS).toContain("error");
});

test("every file of the fleet has labels; where a lock is held a member hangs, and a call that fails has its error", () => {
  const files = new Set(labelsOf("fleet").map(({ file }) => file));
  for (const file of ["fleet.c", "fleet_file.c", "lease.c", "lock.c", "os_linux.c", "ring.c"])
    expect(files).toContain(file);
  const planned = fleetPoints();
  const failing = new Set(planned.filter(({ fails }) => fails).map(({ label }) => label));
  expect([...failing].toSorted()).toEqual(Object.keys(REFUSALS).toSorted());
  const hung = planned.filter((point) => faultsOf(point).includes("hang"));
  for (const side of ["fleet", "lease", "ring"]) expect(hung.some(({ label }) => label.startsWith(side))).toBe(true);
});
