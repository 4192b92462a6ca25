/**
 * Runs the proofs one after another and adds up their figures, which are the last line. The exit code is 1 if any promise was
 * broken.
 *
 *     npm run prove -- --ci        ten minutes on two processors
 *     npm run prove -- --quick     more of it
 *     npm run prove                the long form
 *     npm run prove -- --ci soak   one of them
 */

import { join } from "node:path";
import { parseArgs } from "node:util";
import { FIGURES, type Figures, figuresLine, readFigures, type Size } from "./figures.ts";

const proofs: Record<string, string> = {
  model: "../model/check.ts",
  mutants: "mutants.ts",
  steps: "steps.ts",
  "fleet-steps": "fleet-steps.ts",
  malformed: "malformed.ts",
  hostile: "hostile.ts",
  endure: "endure.ts",
  stalls: "stalls.ts",
  soak: "soak.ts",
  "fleet-soak": "fleet-soak.ts",
  stdio: "stdio.ts",
};

const { values, positionals } = parseArgs({
  options: { ci: { type: "boolean" }, quick: { type: "boolean" } },
  allowPositionals: true,
});
const size: Size = values.ci ? "ci" : values.quick ? "quick" : "long";
const unknown = positionals.find((name) => !(name in proofs));
if (unknown) throw new Error(`There is no proof "${unknown}". Choose one of: ${Object.keys(proofs).join(", ")}.`);

/** Runs a proof and forwards its output; `null` if it failed. */
async function prove(name: string): Promise<Figures | null> {
  const command = [process.execPath, join(import.meta.dir, proofs[name]!), size];
  const child = Bun.spawn(command, { stdin: "ignore", stdout: "pipe", stderr: "inherit" });
  let text = "";
  const decoder = new TextDecoder();
  for await (const chunk of child.stdout) {
    process.stdout.write(chunk);
    text += decoder.decode(chunk, { stream: true });
  }
  const last = text.trimEnd().split("\n").at(-1) ?? "";
  const figures = readFigures(last);
  if (figures === null) process.stderr.write(`${name}: the last line contains no figures: "${last}"\n`);
  return (await child.exited) === 0 ? figures : null;
}

const sum: Figures = Object.fromEntries(FIGURES.map((name) => [name, 0]));
const times: string[] = [];
let failed = 0;
for (const name of positionals.length > 0 ? positionals : Object.keys(proofs)) {
  process.stdout.write(`\n== ${name}\n`);
  const started = performance.now();
  const figures = await prove(name);
  times.push(`${name} ${((performance.now() - started) / 1000).toFixed(0)} s${figures ? "" : " FAILED"}`);
  if (!figures) failed++;
  for (const figure of FIGURES) sum[figure]! += figures?.[figure] ?? 0;
}
process.stdout.write(`\n${size}: ${times.join(", ")}\n${times.length - failed} passed, ${failed} failed\n`);
process.stdout.write(`${figuresLine(sum)}\n`);
process.exit(failed === 0 ? 0 : 1);
