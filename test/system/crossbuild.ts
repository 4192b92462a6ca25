/** The library built for every target. */

import { readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { type Checks, expect, needTool, Place, Program, program, root, run } from "./checks.ts";
import { expectWell, Member } from "./fleet.ts";

const ELF_MACHINES: Record<string, number> = { x86_64: 62, aarch64: 183 };
const MACHO_ARM64 = 0x0100_000c;

function checkElf(triple: string, bytes: Buffer): void {
  expect(bytes.readUInt32BE(0) === 0x7f45_4c46, `${triple}: no ELF file`);
  expect(bytes[4] === 2 && bytes[5] === 1, `${triple}: not 64-bit little-endian`);
  expect(bytes.readUInt16LE(16) === 3, `${triple}: no shared library`);
  const machine = bytes.readUInt16LE(18);
  expect(machine === ELF_MACHINES[triple.split("-")[0]!], `${triple}: built for machine ${machine}`);
  const text = bytes.toString("latin1");
  const versions = [...text.matchAll(/GLIBC_2\.(\d+)/g)].map((match) => Number(match[1]));
  if (triple.includes("musl")) expect(versions.length === 0, `${triple}: wants symbols of glibc`);
  else expect(versions.length > 0 && Math.max(...versions) <= 17, `${triple}: wants glibc 2.${Math.max(...versions)}`);
  for (const symbol of ["sb_hub_open", "sb_fleet_join", "sb_ring_publish", "sb_lease_claim"]) {
    expect(text.includes(`\0${symbol}\0`), `${triple}: exports no ${symbol}`);
  }
  expect(!text.includes("\0fail_with\0"), `${triple}: exports internal functions`);
}

/** It runs beside any C library: it needs none. */
function checkLauncher(triple: string, bytes: Buffer): void {
  expect(bytes.length < 128 * 1024, `${triple}: the launcher's ${bytes.length} bytes are more than 128 KiB`);
  const machine = triple.startsWith("aarch64") ? 183 : 62;
  expect(bytes.readUInt16LE(18) === machine, `${triple}: a launcher for machine ${bytes.readUInt16LE(18)}`);
  expect(!/ld-(linux|musl)/.test(bytes.toString("latin1")), `${triple}: its launcher has an interpreter`);
}

async function crossBuilds(): Promise<void> {
  const folder = join(root, "zig-out/cross");
  rmSync(folder, { recursive: true, force: true });
  await run([needTool("zig"), "build", "cross"]);
  const triples = readdirSync(folder).sort();
  const expected = [
    "aarch64-linux-gnu",
    "aarch64-linux-musl",
    "aarch64-macos",
    "x86_64-linux-gnu",
    "x86_64-linux-musl",
  ];
  const built = triples.map((triple) =>
    triple
      .split("-")
      .slice(0, 3)
      .join("-")
      .replace(/\.[\d.]+$/, ""),
  );
  expect(built.map((triple) => triple.replace("-macos-none", "-macos")).join() === expected.join(), `built ${triples}`);
  for (const triple of triples) {
    const [file = "", launcher, ...more] = readdirSync(join(folder, triple)).sort();
    expect(more.length === 0, `${triple}: also holds ${more}`);
    if (triple.includes("macos")) expect(launcher === undefined, `${triple}: has ${launcher}`);
    else checkLauncher(triple, readFileSync(join(folder, triple, launcher ?? "slotbus-launcher")));
    const bytes = readFileSync(join(folder, triple, file));
    expect(bytes.length < 128 * 1024, `${triple}: ${bytes.length} bytes are more than 128 KiB`);
    if (!triple.includes("macos")) checkElf(triple, bytes);
    else expect(bytes.readUInt32LE(0) === 0xfeed_facf && bytes.readUInt32LE(4) === MACHO_ARM64, `${triple}: not arm64`);
  }
}

async function crossBuildWorks(): Promise<void> {
  const machine = process.arch === "x64" ? "x86_64" : "aarch64";
  const musl = readFileSync("/proc/self/maps", "latin1").includes("ld-musl");
  const folders = readdirSync(join(root, "zig-out/cross"));
  const triple = folders.find((name) => name.startsWith(`${machine}-linux-${musl ? "musl" : "gnu"}`));
  const env = { SLOTBUS_LIB: join(root, "zig-out/cross", triple ?? "none", "libslotbus.so") };
  using place = new Place();
  await using hub = new Program(program("hub", place.directory), env);
  await hub.expectLine("listening");
  await using worker = new Program(program("worker", place.directory), env);
  await worker.expectLine("attached");
  await hub.expectLine("joined");
  await hub.order("go 100");
  await using one = await Member.join(place, "{}", env);
  await using other = await Member.join(place, "{}", env);
  await expectWell(one, other);
}

export const checks: Checks = {
  "each cross build is a small library for its machine and C library": crossBuilds,
  "the cross build for this machine carries requests, events and leases": crossBuildWorks,
};
