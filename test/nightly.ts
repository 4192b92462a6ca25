/**
 * What takes too long for CI, in parts of at most half an hour. A part that passed for the files of today is not run again, so a
 * night that was interrupted continues where it ended; `nightly.json` has what passed. Prints a line for each part; the last line
 * is "N passed, N failed".
 *
 *     npm run nightly                 what is left of all parts
 *     npm run nightly -- PART ...     these parts, whether they passed or not
 *     npm run nightly -- --list       the parts, and which of them passed
 */

import { join } from "node:path";
import { parseArgs } from "node:util";
import { forward, linesOf } from "./outcomes.ts";
import { filesOf, Inputs, inputsOf, LIBRARY, PROVED, type Proved, ProvedRecord } from "./prove/proved.ts";
import { proofs } from "./prove/proofs.ts";

/** Longest time of a part, in seconds. It fails after that. */
const LIMIT = 30 * 60;

const prove = (program: string): string => `bun test/prove/${program}`;

/** Each part and its command. Sizes are the long ones, unless only less fits into half an hour. */
export const parts: { [part: string]: string } = {
  lint: "npm run -s lint",
  types: "npm run -s check",
  tests: "npm test",
  "tests-again": "npm test", // in another order
  tools: "sh test/system/install.sh",
  system: "bun test/system/run.ts --all --record", // musl, qemu, sanitizers, Chromium, other versions
  "model-bus": "bun test/model/check.ts long bus",
  "model-stream": "bun test/model/check.ts long stream",
  "model-clients": "bun test/model/check.ts long clients",
  "model-ring": "bun test/model/check.ts long ring",
  "model-lease": "bun test/model/check.ts long lease",
  mutants: prove("mutants.ts"),
  steps: prove("steps.ts long"), // every instruction
  "fleet-steps": prove("fleet-steps.ts long"),
  malformed: prove("malformed.ts quick"),
  hostile: prove("hostile.ts long --minutes 12"),
  endure: prove("endure.ts quick"),
  stalls: prove("stalls.ts long --stalls 10000"),
  soak: prove("soak.ts long --kills 2500"),
  many: prove("many.ts quick"),
  "fleet-soak": prove("fleet-soak.ts long"),
  hub: prove("hub.ts quick"),
  hubs: prove("hubs.ts quick"),
  stdio: prove("stdio.ts quick"),
  together: prove("together.ts long"),
  "together-planted": prove("together.ts quick --plant all"), // each of its processes leaks 20 bytes per request
  worlds: "bun test/replay/run.ts --worlds 1000000000 --seconds 600",
  "real-worlds": "bun test/replay/real/run.ts --worlds 1000000 --seconds 600",
  "planted-faults": "bun test/replay/planted.ts",
  "coverage-src": "bun test/coverage/run.ts",
};

const root = join(import.meta.dir, "..");
const RECORD = "test/nightly.json";

/** Hash of what a part depends on: for a proof, a model or worlds their own files and the library, for other parts all files. */
function hashOf(part: string, inputs: Inputs): string {
  const program = /test\/(?:prove|model|replay)\/\S+\.ts/.exec(parts[part]!)?.[0];
  const known = Object.values(proofs).find((proof) => proof.program === program);
  if (program) return inputs.hash(inputsOf(known ?? { program, folders: ["test/replay"] }, inputs), parts[part]!);
  const all = filesOf([...LIBRARY, "test", "bench", "docs", "examples", "pack.ts", "README.md"]);
  return inputs.hash(
    all.filter((file) => file !== PROVED && file !== RECORD),
    parts[part]!,
  );
}

function lineOf(part: string, { date, seconds, figures }: Proved): string {
  return `passed ${part} on ${date} in ${Math.ceil(seconds / 60)} min: ${figures}`;
}

async function main(): Promise<void> {
  process.chdir(root);
  process.env["PATH"] = `${join(root, "node_modules/.bin")}:${process.env["PATH"]}`;
  const { values, positionals } = parseArgs({ options: { list: { type: "boolean" } }, allowPositionals: true });
  const unknown = positionals.find((part) => !(part in parts));
  if (unknown) throw new Error(`There is no part "${unknown}". Choose from: ${Object.keys(parts).join(", ")}.`);
  const inputs = new Inputs();
  const hashes = Object.fromEntries(Object.keys(parts).map((part) => [part, hashOf(part, inputs)]));
  const record = new ProvedRecord(join(root, RECORD));
  if (values.list) {
    for (const [part, command] of Object.entries(parts)) {
      const passed = record.find(part, hashes[part]!);
      process.stdout.write(`${passed ? lineOf(part, passed) : `left   ${part}: ${command}`}\n`);
    }
    return;
  }
  const end: string[] = [];
  let failed = 0;
  for (const part of positionals.length > 0
    ? positionals
    : Object.keys(parts).filter((one) => !record.find(one, hashes[one]!))) {
    process.stdout.write(`\n== ${part}: ${parts[part]}\n`);
    const hash = hashes[part]!;
    const started = performance.now();
    const { code, stdout, output } = await forward(["timeout", "-k", "10", String(LIMIT), ...parts[part]!.split(" ")]);
    const seconds = (performance.now() - started) / 1000;
    record.store([[part, code === 0 ? { hash, seconds, figures: linesOf(stdout).at(-1) ?? "" } : null]]);
    if (code !== 0) failed++;
    const why = code === 124 ? `it takes longer than ${LIMIT / 60} min` : `exit code ${code}`;
    const last = linesOf(output).slice(-12).join("\n    ");
    end.push(code === 0 ? lineOf(part, record.find(part, hash)!) : `FAILED ${part}: ${why}\n    ${last}`);
  }
  process.stdout.write(
    `\n${end.join("\n")}${end.length > 0 ? "\n" : ""}${end.length - failed} passed, ${failed} failed\n`,
  );
  process.exit(failed === 0 ? 0 : 1);
}

if (import.meta.main) await main();
