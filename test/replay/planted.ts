/**
 * Plants one fault at a time in a copy of the sources, and measures how long the replay takes to find it. The faults are in
 * `planted/`; their author did not know the code of the replay. The exit code is 1 if one was not found in time.
 *
 *     bun test/replay/planted.ts [--seconds 60] [--fault "part of its name"]
 */

import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { findLibrary } from "../../src/native/find.ts";

export interface Planted {
  name: string;
  area: string;
  /** What docs/ promise and the fault breaks. */
  promise: string;
  why: string;
  edits: { file: string; from: string; to: string }[];
}

const root = join(import.meta.dir, "../..");

/** All planted faults, by name. */
export function plantedFaults(): Planted[] {
  const folder = join(import.meta.dir, "planted");
  return readdirSync(folder)
    .toSorted()
    .map((file) => JSON.parse(readFileSync(join(folder, file), "utf8")) as Planted);
}

/** The edits of a fault whose text does not occur exactly once in the checkout. */
export function unfit({ edits }: Planted, checkout = root): string[] {
  return edits
    .filter(({ file, from }) => readFileSync(join(checkout, file), "utf8").split(from).length !== 2)
    .map(({ file, from }) => `${file}: ${from.split("\n")[0]}`);
}

/** Resolves to the first line of the failure, or null if all worlds passed. */
async function search(fault: Planted, folder: string, seconds: number): Promise<{ found: string | null; ms: number }> {
  const copy = join(folder, fault.name);
  mkdirSync(copy);
  for (const name of ["src", "test", "package.json", "tsconfig.json"])
    cpSync(join(root, name), join(copy, name), { recursive: true });
  symlinkSync(join(root, "node_modules"), join(copy, "node_modules"));
  for (const { file, from, to } of fault.edits) {
    const text = readFileSync(join(copy, file), "utf8");
    writeFileSync(
      join(copy, file),
      text.replace(from, () => to),
    );
  }
  const started = performance.now();
  const command = ["bun", "test/replay/run.ts", "--worlds", "100000000", "--seconds", `${seconds}`, "--noshrink"];
  const env = { ...process.env, SLOTBUS_LIB: findLibrary() };
  const child = Bun.spawn(command, { cwd: copy, env, stdin: "ignore", stdout: "pipe", stderr: "pipe" });
  const [out, err] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  const ms = performance.now() - started;
  rmSync(copy, { recursive: true });
  if (child.exitCode === 0) return { found: null, ms };
  const failure = err.split("\n").find((line) => /^seed \d+: /.test(line));
  if (failure === undefined) throw new Error(`${fault.name}: the replay failed without a seed:\n${out}${err}`);
  return { found: failure, ms };
}

if (import.meta.main) {
  const { values } = parseArgs({
    options: { seconds: { type: "string", default: "60" }, fault: { type: "string", default: "" } },
  });
  const folder = mkdtempSync(join(tmpdir(), "slotbus-planted-"));
  const faults = plantedFaults().filter(({ name }) => name.includes(values.fault));
  let missed = 0;
  for (const fault of faults) {
    const wrong = unfit(fault);
    if (wrong.length > 0) {
      missed++;
      console.log(`${fault.name}: no longer fits the sources: ${wrong.join("; ")}`);
      continue;
    }
    const { found, ms } = await search(fault, folder, Number(values.seconds));
    if (found === null) missed++;
    console.log(
      `${fault.name.padEnd(32)} ${found === null ? "NOT FOUND" : "found"} after ${(ms / 1_000).toFixed(1)} s ${found ?? ""}`,
    );
  }
  rmSync(folder, { recursive: true });
  console.log(`${faults.length - missed} of ${faults.length} planted faults were found`);
  process.exitCode = missed === 0 ? 0 : 1;
}
