/** The labels of the Promela models and of the C functions they describe. `test/model/check.ts` runs the models. */

import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { resolve } from "node:path";

const root = resolve(import.meta.dir, "..");

function read(file: string): string {
  return readFileSync(resolve(root, file), "utf8");
}

const code = ["slot_client", "slot_worker", "stream", "wait"].map((file) => read(`csrc/${file}.c`)).join("");
const models = {
  bus: read("test/model/bus.pml"),
  stream: read("test/model/stream.pml"),
  clients: read("test/model/clients.pml"),
};

/** Functions of a C file: the comment before each, its name and its body. */
function functionsOf(source: string): { comment: string; name: string; body: string }[] {
  const pattern = /((?:\/\*(?:(?!\*\/)[\s\S])*\*\/\n)?)^[a-z][^;{}=\n]*?\b(\w+)\([^;{}]*\)\n\{\n([\s\S]*?)^\}/gm;
  return [...source.matchAll(pattern)].map(([, comment, name, body]) => ({
    comment: comment!,
    name: name!,
    body: body!,
  }));
}

function labels(text: string, pattern: RegExp): string[] {
  return [...text.matchAll(pattern)].map((match) => match[1]!).sort();
}

test("the models have the labels that the C code names, each once, and no others", () => {
  const named = labels(code, /\[model: ([a-z-]+)\]/g);
  expect(named.length).toBeGreaterThan(10);
  expect(new Set(named).size).toBe(named.length);
  const known = labels(models.bus + models.stream, /\/\* label: ([a-z-]+) \*\//g);
  expect([...new Set(known)]).toEqual(named);
});

test("each C function that swaps a slot's word or changes parked names its label", () => {
  const functions = functionsOf(code);
  const changes = /\bswap_word\(|(?:store|exchange)\w*\([^;]*parked,/;
  const changing = functions.filter(({ name, body }) => name !== "swap_word" && changes.test(body));
  expect(changing.length).toBeGreaterThan(9);
  for (const { name, comment } of changing) {
    expect(`${name}: ${/\[model: [a-z-]+\]/.test(comment)}`).toBe(`${name}: true`);
  }
});

/** A step of the fleet, or of clients of one name, named by a comment in the C code and in the model. */
const STEP = /\/\* step: ([a-z.]+) \*\//g;
const steppedCode = {
  clients: read("csrc/name.c") + read("csrc/door.c") + read("csrc/sessions.c"),
  ring: read("csrc/ring.c"),
  lease: read("csrc/lease.c"),
  fleet: read("csrc/lock.c") + read("csrc/fleet.c"),
};
const fleetModels = {
  ring: read("test/model/ring.pml"),
  lease: read("test/model/lease.pml"),
  fleet: read("test/model/fleet.pml"),
};

const steppedModels = { clients: models.clients, ...fleetModels };
const stepped = ["clients", "ring", "lease", "fleet"] as const;

test("the models of the fleet and of clients have each step that the C code names, and no others", () => {
  for (const name of stepped) {
    const named = labels(steppedCode[name], STEP);
    expect(named.length).toBeGreaterThan(7);
    expect(labels(steppedModels[name], STEP)).toEqual(named);
  }
});

test("the steps of each C function are in its model in the same order", () => {
  let compared = 0;
  for (const name of stepped) {
    const order = [...steppedModels[name].matchAll(STEP)].map((match) => match[1]!);
    for (const { body } of functionsOf(steppedCode[name])) {
      const steps = [...body.matchAll(STEP)].map((match) => match[1]!);
      expect(order.filter((step) => steps.includes(step))).toEqual(steps);
      compared += steps.length;
    }
  }
  expect(compared).toBeGreaterThan(50);
});

test("each rule that check.ts removes is in its model, and check.ts removes each rule of a model", () => {
  const rows = read("test/model/check.ts");
  const inModel = (text: string): string[] => labels(text, /\bNO_([A-Z_]+)/g);
  const removed = (name: string): string[] =>
    labels(rows, new RegExp(`^ {2}\\["${name}", "([A-Z_]+)", "[A-Z]+=`, "gm"));
  for (const [name, text] of Object.entries(models)) {
    expect(removed(name).length).toBeGreaterThan(7);
    expect(removed(name)).toEqual([...new Set(labels(text, /#ifn?def NO_([A-Z_]+)/g))]);
  }
  const rules = [...removed("ring"), ...removed("lease")];
  expect(rules.length).toBeGreaterThan(20);
  expect(rules.sort()).toEqual([...new Set(Object.values(fleetModels).flatMap(inModel))].sort());
});
