/** Fault points: none in the library that is loaded, each named once in the sources. `test/prove/points.ts` uses them. */

import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { findLibrary } from "../src/native/find.ts";
import { FAULTS, LABEL, labelsInSources, points } from "./prove/points/labels.ts";

const labels = labelsInSources().map(({ label }) => label);

test("the library holds no fault point: no label, none of their functions, nothing that reads their page", () => {
  const library = readFileSync(findLibrary(), "latin1");
  expect(library).toContain("sb_slot_publish");
  expect(library).toContain("slotbus-stats"); // its strings can be read
  const traces = ["fault_point", "fault_fails", "SLOTBUS_POINTS", ...labels];
  expect(traces.filter((trace) => library.includes(trace))).toEqual([]);
});

test("every label is named side.operation.moment and stands once in the sources", () => {
  expect(labels.length).toBeGreaterThanOrEqual(40);
  expect(labels.filter((label) => !LABEL.test(label))).toEqual([]);
  expect(labels.filter((label, at) => labels.indexOf(label) !== at)).toEqual([]);
});

test("both sides, and every file with system calls of its own, have labels; those before a call can fail", () => {
  const files = new Set(labelsInSources().map(({ file }) => file));
  for (const file of ["attach.c", "os_linux.c", "region.c", "slot.c", "wait.c"]) expect(files).toContain(file);
  const planned = points();
  expect(new Set(planned.map(({ label }) => label))).toEqual(new Set(labels));
  expect(new Set(planned.map(({ role }) => role))).toEqual(new Set(["hub", "worker", "blocker"] as const));
  expect(planned.filter(({ fails }) => fails).length).toBeGreaterThan(15);
  expect(FAULTS).toContain("error");
});
