/** The rivals of the bench outside of the package. */

import { existsSync } from "node:fs";
import { join } from "node:path";
import { hasCargo } from "../../bench/rivals/rust.ts";
import { type Checks, expect, needTool, note, path, root } from "./checks.ts";

interface Result {
  rows: { system: string; case: string; in_flight: number; p50_us: number; requests_per_second: number }[];
}

/** Runs the bench with 64 B, and resolves to the systems of its rows and to its notes. */
async function measured(inFlight: string, PATH: string): Promise<{ systems: string[]; notes: string }> {
  needTool("npm");
  const program = join(root, "bench/rivals/run.ts");
  const child = Bun.spawn([process.execPath, program, "--short", "--json", "--in-flight", inFlight], {
    env: { ...process.env, PATH },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const [out, notes, code] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  expect(code === 0, `the bench ended with ${code}:\n${notes}`);
  const { rows } = JSON.parse(out) as Result;
  for (const row of rows) expect(row.p50_us > 0 && row.requests_per_second > 0, `a row is empty: ${Bun.inspect(row)}`);
  return { systems: rows.map(({ system, in_flight }) => `${system} ${in_flight}`), notes };
}

const IN_RUST = ["iceoryx2-polling", "iceoryx2-events", "slotbus-rust"];

async function without(): Promise<void> {
  const rest = path.split(":").filter((folder) => !existsSync(join(folder, "cargo")));
  const { systems, notes } = await measured("1", rest.join(":"));
  expect(notes.includes("cargo is not installed") && IN_RUST.every((name) => notes.includes(name)), `notes: ${notes}`);
  for (const name of ["slotbus", "unix-socket", "grpc-unix"])
    expect(systems.includes(`${name} 1`), `${name} is missing`);
  expect(!IN_RUST.some((name) => systems.includes(`${name} 1`)), `the systems are ${systems}`);
}

async function inRust(): Promise<void> {
  if (!hasCargo(path)) return note("not tried: cargo is not installed");
  const { systems, notes } = await measured("1,8", path);
  note(`${systems.length} rows`);
  for (const name of IN_RUST) expect(systems.includes(`${name} 1`), `${name} is missing: ${notes}`);
  for (const name of IN_RUST.slice(0, 2)) expect(systems.includes(`${name} 8`), `${name} is missing with 8 in flight`);
}

export const checks: Checks = {
  "the bench of rivals names those in Rust that it skips without cargo, and measures the others": without,
  "rivals in Rust return every byte of every body to clients of their own": inRust,
};
