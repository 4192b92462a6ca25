/** The labels of the Promela models and of the C functions it describes. `test/model/check.ts` runs the models themselves. */

import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { resolve } from "node:path";

const root = resolve(import.meta.dir, "..");

function read(file: string): string {
  return readFileSync(resolve(root, file), "utf8");
}

const code = read("csrc/slot.c") + read("csrc/stream.c") + read("csrc/wait.c");
const models = { bus: read("test/model/bus.pml"), stream: read("test/model/stream.pml") };

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

test("each rule that check.ts removes is in its model, and each rule of a model is removed", () => {
  const rows = read("test/model/check.ts");
  for (const [name, text] of Object.entries(models)) {
    const inModel = labels(text, /#ifn?def NO_([A-Z_]+)/g);
    const removed = labels(rows, new RegExp(`^ {2}\\["${name}", "([A-Z_]+)", "N=`, "gm"));
    expect(removed.length).toBeGreaterThan(7);
    expect(removed).toEqual([...new Set(inModel)]);
  }
});
