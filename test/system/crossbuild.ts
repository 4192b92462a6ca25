/** The library for every target. */

import { existsSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { SlotBus } from "../../src/index.ts";
import { type Checks, expect, Lacking, needTool, note, Place, Program, program, root, run } from "./checks.ts";
import { expectWell, Member } from "./fleet.ts";

const ELF_MACHINES: Record<string, number> = { x86_64: 62, aarch64: 183 };
const MACHO_MACHINES: Record<string, number> = { x86_64: 0x0100_0007, aarch64: 0x0100_000c };

function checkElf(triple: string, bytes: Buffer): void {
  expect(bytes.readUInt32BE(0) === 0x7f45_4c46, `${triple}: not an ELF file`);
  expect(bytes[4] === 2 && bytes[5] === 1, `${triple}: not 64-bit little-endian`);
  expect(bytes.readUInt16LE(16) === 3, `${triple}: not a shared library`);
  const machine = bytes.readUInt16LE(18);
  expect(machine === ELF_MACHINES[triple.split("-")[0]!], `${triple}: built for machine ${machine}`);
  const text = bytes.toString("latin1");
  const versions = [...text.matchAll(/GLIBC_2\.(\d+)/g)].map((match) => Number(match[1]));
  if (triple.includes("musl")) expect(versions.length === 0, `${triple}: needs symbols of glibc`);
  else expect(versions.length > 0 && Math.max(...versions) <= 17, `${triple}: needs glibc 2.${Math.max(...versions)}`);
  for (const symbol of ["sb_client_open", "sb_fleet_join", "sb_ring_publish", "sb_lease_claim"]) {
    expect(text.includes(`\0${symbol}\0`), `${triple}: does not export ${symbol}`);
  }
  expect(!text.includes("\0fail_with\0"), `${triple}: exports internal functions`);
}

/** The launcher needs no C library, so it runs with any. */
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
    "x86_64-macos",
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
    expect(bytes.length < 160 * 1024, `${triple}: ${bytes.length} bytes are more than 160 KiB`);
    if (!triple.includes("macos")) {
      checkElf(triple, bytes);
      continue;
    }
    const isMachO = bytes.readUInt32LE(0) === 0xfeed_facf;
    expect(isMachO && bytes.readUInt32LE(4) === MACHO_MACHINES[triple.split("-")[0]!], `${triple}: of another machine`);
  }
}

async function crossBuildWorks(): Promise<void> {
  const machine = process.arch === "x64" ? "x86_64" : "aarch64";
  const musl = readFileSync("/proc/self/maps", "latin1").includes("ld-musl");
  const folders = readdirSync(join(root, "zig-out/cross"));
  const triple = folders.find((name) => name.startsWith(`${machine}-linux-${musl ? "musl" : "gnu"}`));
  const env = { SLOTBUS_LIB: join(root, "zig-out/cross", triple ?? "none", "libslotbus.so") };
  using place = new Place();
  await using client = new Program(program("client", place.directory), env);
  await client.expectLine("listening");
  await using worker = new Program(program("worker", place.directory), env);
  await worker.expectLine("attached");
  await client.expectLine("joined");
  await client.order("go 100");
  await using one = await Member.join(place, "{}", env);
  await using other = await Member.join(place, "{}", env);
  await expectWell(one, other);
}

// ---- the other C library and the other machine ------------------------------------------------------------------

/** Parts of the names of native tests that need something that qemu-user lacks. */
const NOT_UNDER_QEMU = [
  // No ptrace(2), so no single steps.
  "single instruction",
  "whichever of its instructions",
  "while its maker is about to put it",
  "never looks like the member that was killed",
  "wakes nobody before its leases",
  "woken before its flag",
  // madvise(2) succeeds without effect: MADV_DONTFORK, MADV_REMOVE, MADV_POPULATE_WRITE.
  "a forked child does not inherit",
  "trim gives",
  "trim leaves",
  "trim also",
  "the inline bytes of the first",
  "warms regions up to",
  "a dropped region is freed",
  "a dropped region keeps the lines alone",
  // RLIMIT_AS has no effect, and a fault in a mapped file that shrank raises no SIGBUS.
  "an address space limit",
  "that a resource limit forbids",
  "a fleet in memory behaves the same",
  // When eight descriptors are sent at once, the ones that do not fit stay open.
  "a HELLO needs one descriptor",
  // A later load-acquire may pass a store-release, which arm64 forbids: qemu keeps the x86 store buffer.
  "parks at the moment",
  "holders and contenders of leases killed",
  // These take a minute or more.
  "under random withdrawals",
  "a bridge closes at once",
];

async function buildFor(target: string, step: string, folder: string): Promise<void> {
  await run([needTool("zig"), "build", step, `-Dtarget=${target}`, "--prefix", folder]);
}

function needFile(path: string): void {
  if (!existsSync(path)) throw new Lacking(`there is no ${path}`);
}

function expectPassed(output: string, atLeast: number): void {
  const passed = Number(/^(\d+) passed, 0 failed$/m.exec(output)?.[1]);
  note(`${passed} native tests`);
  expect(passed >= atLeast, `too few tests ran:\n${output.slice(-2000)}`);
}

async function withMusl(): Promise<void> {
  if (process.arch !== "x64") throw new Lacking("this machine is not x64");
  needFile("/lib/ld-musl-x86_64.so.1");
  using place = new Place();
  await buildFor("x86_64-linux-musl", "test-program", place.folder);
  expectPassed(await run([join(place.folder, "bin/test-native")]), 200);
}

const qemu = () => [needTool("qemu-aarch64"), "-L", "/usr/aarch64-linux-gnu"];

async function onArm64(): Promise<void> {
  needFile("/usr/aarch64-linux-gnu/lib/ld-linux-aarch64.so.1");
  using place = new Place();
  await buildFor("aarch64-linux-gnu.2.28", "test-program", place.folder);
  expectPassed(await run([...qemu(), join(place.folder, "bin/test-native"), "", ...NOT_UNDER_QEMU]), 180);
}

/** A client in Bun on this machine, workers in C for another C library or machine. */
async function otherWorkers(): Promise<void> {
  needFile("/lib/ld-musl-x86_64.so.1");
  needFile("/usr/aarch64-linux-gnu/lib/ld-linux-aarch64.so.1");
  const kinds: [string, string[]][] = [
    ["x86_64-linux-musl", []],
    ["aarch64-linux-gnu.2.28", qemu()],
  ];
  for (const [target, loader] of kinds) {
    using place = new Place();
    await buildFor(target, "c-worker", place.folder);
    await using bus = await SlotBus.create({ name: "other", directory: place.directory });
    const command = [...loader, join(place.folder, "bin/c-worker"), "other"];
    const worker = Bun.spawn(command, {
      env: { ...process.env, SLOTBUS_DIR: place.directory },
      stdio: ["ignore", "pipe", "pipe"],
      timeout: 60_000,
    });
    await bus.ready({ signal: AbortSignal.timeout(30_000) });
    for (let i = 0; i < 1000; i++) {
      const body = `number ${i} ${"x".repeat((i * 97) % 50_000)}`;
      const echo = await bus.request({ method: "POST", path: "/echo", body });
      expect(echo.text() === body, `${target}: request ${i} got another body back`);
    }
    await bus.close();
    expect(
      (await worker.exited) === 0,
      `${target}: the worker ended with ${worker.exitCode}: ${await worker.stderr.text()}`,
    );
  }
}

export const checks: Checks = {
  "each cross build is a small library for its machine and C library": crossBuilds,
  "the cross build for this machine carries requests, events and leases": crossBuildWorks,
  "the native tests pass with musl and its own loader": withMusl,
  "the native tests pass on arm64 under qemu-user, except tests of what qemu-user lacks": onArm64,
  "workers in C with musl, and on arm64 under qemu-user, serve a client in Bun": otherWorkers,
};
