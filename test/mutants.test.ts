/** The rules of `test/prove/mutants.ts` fit these sources. */

import { expect, test } from "bun:test";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { attackedRules } from "./prove/mutants/native.ts";
import { type Edits, mutate } from "./prove/mutants/rule.ts";
import { rulesInC, rulesInTypeScript } from "./prove/mutants/tables.ts";

const root = join(import.meta.dir, "..");

const tables: [folder: string, rules: readonly Edits[]][] = [
  ["src", rulesInTypeScript],
  ["csrc", [...rulesInC, ...attackedRules]],
];

/** Why a rule does not fit its file; `""` when it does. */
function misfit(folder: string, rule: Edits): string {
  const file = join(root, folder, rule.file);
  if (!existsSync(file)) return `"${rule.rule}": there is no ${folder}/${rule.file}`;
  try {
    mutate(readFileSync(file, "utf8"), rule);
    return "";
  } catch (error) {
    return `${folder}/${rule.file}: ${(error as Error).message}`;
  }
}

test("every rule's text occurs exactly once in its file", () => {
  const misfits = tables.flatMap(([folder, rules]) => rules.map((rule) => misfit(folder, rule)));
  expect(misfits.filter((why) => why !== "")).toEqual([]);
});

test("every rule's test exists", () => {
  const read = (file: string): string => readFileSync(join(root, "test", file), "utf8");
  const sources = readdirSync(join(root, "test/native")).filter((file) => file.endsWith(".c"));
  const native = sources.map((file) => read(`native/${file}`));
  const lost = [
    ...rulesInTypeScript.filter(({ suite, test: name }) => !read(`${suite}.test.ts`).includes(name)),
    ...rulesInC.filter(({ test: name }) => !native.some((text) => text.includes(name))),
  ];
  expect(lost.map(({ rule, test: name }) => `"${rule}": there is no test "${name}"`)).toEqual([]);
});

test("rules have different names, by which `mutants.ts --rule` finds them", () => {
  const names = [...rulesInTypeScript, ...rulesInC].map(({ rule }) => rule);
  expect(names.filter((name, at) => names.indexOf(name) !== at)).toEqual([]);
});
