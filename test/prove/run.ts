/**
 * Runs the proofs one after another and adds up their figures, which are the last line. The exit code is 1 if any promise was
 * broken.
 *
 *     npm run prove -- --ci            what changed since it was proved, and a sample of the rest
 *     npm run prove -- --ci --all      all of it, in ten minutes on two processors, without what is too long for CI
 *     npm run prove -- --ci --record   writes what passed into `proved.json`; commit it
 *     npm run prove -- --ci soak       one of them, changed or not
 *     npm run prove -- --quick         more of it
 *     npm run prove                    the long form
 */

import { join } from "node:path";
import { parseArgs } from "node:util";
import { forward, linesOf, tell } from "../outcomes.ts";
import { FIGURES, type Figures, figuresLine, readFigures, type Size } from "./figures.ts";
import { proofs } from "./proofs.ts";
import { Inputs, inputsOf, type Proved, ProvedRecord, sample } from "./proved.ts";

const { values, positionals } = parseArgs({
  options: {
    ci: { type: "boolean" },
    quick: { type: "boolean" },
    all: { type: "boolean", default: false },
    record: { type: "boolean", default: false },
  },
  allowPositionals: true,
});
const size: Size = values.ci ? "ci" : values.quick ? "quick" : "long";
const unknown = positionals.find((name) => !(name in proofs));
if (unknown) throw new Error(`There is no proof "${unknown}". Choose one of: ${Object.keys(proofs).join(", ")}.`);
if (values.record && size !== "ci") throw new Error("Only --ci has a record.");

const names =
  positionals.length > 0 ? positionals : Object.keys(proofs).filter((name) => size !== "ci" || !proofs[name]!.isLong);

const record = new ProvedRecord();
const trusts = size === "ci" && !values.all && positionals.length === 0;

/** Hash of what a proof depends on now. */
function hashOf(name: string): string {
  const inputs = new Inputs();
  return inputs.hash(inputsOf(proofs[name]!, inputs), size);
}

/** Runs a proof and forwards its output; `figures` is `null` if it failed. */
async function prove(name: string, options: string[]): Promise<{ figures: Figures | null; lines: string[] }> {
  const command = [process.execPath, join(import.meta.dir, "../..", proofs[name]!.program), size, ...options];
  const { code, stdout, output } = await forward(command);
  const last = linesOf(stdout).at(-1) ?? "";
  const figures = readFigures(last);
  if (figures === null) process.stderr.write(`${name}: the last line contains no figures: "${last}"\n`);
  return { figures: code === 0 ? figures : null, lines: linesOf(output) };
}

/** Lines of a proof's output that say what failed, each with the indented lines below it; else its last lines. */
function complaints(name: string, lines: string[]): string[] {
  let inside = false;
  const found = lines.filter((line) => {
    inside =
      /FAIL|SURVIVED|BROKEN|[Ee]rror:/.test(line) || line.startsWith(`${name}: `) || (inside && line.startsWith("  "));
    return inside;
  });
  return found.length > 0 ? found : lines.slice(-12);
}

/** What was proved for the inputs of today, by name; and of these the proofs that run again. */
const proved = new Map<string, Proved>();
for (const name of trusts ? names : []) {
  const found = record.find(`proof ${name}`, hashOf(name));
  if (found && proofs[name]!.again !== "rules") proved.set(name, found);
}
const again = sample([...proved.keys()].filter((name) => proofs[name]!.again === "whole"));

const sum: Figures = Object.fromEntries(FIGURES.map((name) => [name, 0]));
const times: string[] = [];
let failed = 0;
for (const name of names) {
  process.stdout.write(`\n== ${name}\n`);
  const before = proved.get(name);
  const way = proofs[name]!.again;
  if (before && !again.includes(name)) {
    process.stdout.write(`recorded: proved on ${before.date}: ${before.figures}\n`);
    tell({ name, verdict: "recorded", lines: [`${before.date}: ${before.figures}`] });
    if (way === "whole") continue;
  }
  const isPart = before !== undefined && way === "part";
  const options = [
    isPart && "--sample",
    way === "rules" && trusts && "--trust",
    way === "rules" && values.record && "--record",
  ];
  const hash = hashOf(name);
  const started = performance.now();
  const { figures, lines } = await prove(
    name,
    options.filter((option) => option !== false),
  );
  const seconds = (performance.now() - started) / 1000;
  const shown = before ? `${name}, a sample` : name;
  tell(
    figures ? { name: shown, verdict: "passed" } : { name: shown, verdict: "failed", lines: complaints(name, lines) },
  );
  times.push(`${shown} ${seconds.toFixed(0)} s${figures ? "" : " FAILED"}`);
  if (!figures) failed++;
  for (const figure of FIGURES) sum[figure]! += figures?.[figure] ?? 0;
  if (!values.record || way === "rules") continue;
  if (!figures) record.store([[`proof ${name}`, null]]);
  // An input that changed meanwhile was proved by half.
  else if (!isPart && hash === hashOf(name))
    record.store([[`proof ${name}`, { hash, seconds, figures: figuresLine(figures) }]]);
}
process.stdout.write(`\n${size}: ${times.join("; ")}\n${times.length - failed} passed, ${failed} failed\n`);
process.stdout.write(`${figuresLine(sum)}\n`);
process.exit(failed === 0 ? 0 : 1);
