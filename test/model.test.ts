/** The labels of the Promela model and of the C functions it describes. `test/model/check.ts` runs the model itself. */

import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { resolve } from "node:path";

const root = resolve(import.meta.dir, "..");

function read(file: string): string {
  return readFileSync(resolve(root, file), "utf8");
}

const code = read("csrc/slot.c") + read("csrc/wait.c");
const model = read("test/model/bus.pml");

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

test("the model has the labels that the C code names, each once, and no others", () => {
  const named = labels(code, /\[model: ([a-z-]+)\]/g);
  expect(named.length).toBeGreaterThan(10);
  expect(new Set(named).size).toBe(named.length);
  const known = labels(model, /\/\* label: ([a-z-]+) \*\//g);
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

test("each rule that check.ts removes is in the model, and each rule of the model is removed", () => {
  const inModel = labels(model, /#ifn?def NO_([A-Z_]+)/g);
  const removed = labels(read("test/model/check.ts"), /^ {2}\["([A-Z_]+)", "N=/gm);
  expect(removed.length).toBeGreaterThan(7);
  expect(removed).toEqual([...new Set(inModel)]);
});
