/** The record of the rules: which of them were missed with the sources, tests and tools of today. */

import { filesOf, Inputs, type ProvedRecord, sample } from "../proved.ts";
import type { LibraryRule } from "./library.ts";
import type { Rule } from "./rule.ts";

const HARNESS = ["test/prove/mutants.ts", "test/prove/mutants/rule.ts"];
const LIBRARY = ["csrc", "build.zig", "package-lock.json"];

/** Hash of the rule, and of all that its test runs. */
export function hashRule(inputs: Inputs, rule: Rule | LibraryRule): string {
  const files = filesOf([...HARNESS, ...LIBRARY]);
  const own =
    "suite" in rule
      ? inputs.closure([`test/${rule.suite}.test.ts`, `src/${rule.file}`])
      : inputs.closure(filesOf(["test/native"]));
  return inputs.hash([...files, ...own], JSON.stringify(rule));
}

export function nameOf({ file, rule }: Rule): string {
  return `rule ${file}: ${rule}`;
}

/** The rules that are not recorded, and a random sample of the others. */
export function rulesToRun(rules: readonly Rule[], record: ProvedRecord): Set<Rule> {
  const inputs = new Inputs();
  const isRecorded = (rule: Rule): boolean => record.find(nameOf(rule), hashRule(inputs, rule)) !== undefined;
  const recorded = new Set(rules.filter(isRecorded));
  return new Set([...rules.filter((rule) => !recorded.has(rule)), ...sample([...recorded])]);
}
