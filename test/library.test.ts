/** Finding, loading and verifying the native library. */

import { expect, test } from "bun:test";
import { cpSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { VersionMismatchError } from "../src/index.ts";
import { rejection, Workspace } from "./support.ts";

const root = resolve(import.meta.dir, "..");

async function run(
  program: string,
  env: Record<string, string>,
  cwd = root,
): Promise<{ output: string; exitCode: number }> {
  const child = Bun.spawn([process.execPath, "-e", program], {
    cwd,
    env: { ...process.env, ...env },
    stdout: "pipe",
    stderr: "pipe",
  });
  const [out, err] = await Promise.all([child.stdout.text(), child.stderr.text()]);
  return { output: out + err, exitCode: await child.exited };
}

const load = `try { await import("${root}/src/wires/memory/index.ts"); console.log("loaded") } catch (e) { console.log(e.code, e.message) }`;

/** A library of another protocol version, in `prefix`/lib. */
function buildVersion(abi: number, prefix: string, cwd = root): void {
  const zig = Bun.which("zig", { PATH: `${root}/node_modules/.bin:${process.env["PATH"]}` })!;
  const build = Bun.spawnSync([zig, "build", `-Dabi=${abi}`, "--prefix", prefix], { cwd, stderr: "pipe" });
  expect(build.stderr.toString()).toBe("");
}

test("a SLOTBUS_LIB that does not exist, or is not a library, is one clear error", async () => {
  expect((await run(load, { SLOTBUS_LIB: "/nowhere/lib.so" })).output).toMatch(
    /^UNSUPPORTED Cannot load \/nowhere\/lib.so/,
  );
  expect((await run(load, { SLOTBUS_LIB: join(root, "package.json") })).output).toMatch(
    /^UNSUPPORTED Cannot load .*package.json/,
  );
  await using space = new Workspace();
  space.leftovers = ["other.so"];
  const other = join(space.directory, "other.so");
  Bun.spawnSync(["gcc", "-shared", "-x", "c", "/dev/null", "-o", other]);
  expect((await run(load, { SLOTBUS_LIB: other })).output).toMatch(/^UNSUPPORTED Cannot load .*sb_/);
});

test("a library of another protocol version is refused with both versions", async () => {
  await using space = new Workspace();
  space.leftovers = ["bin", "lib", ".zig-cache"];
  buildVersion(3, space.directory);
  const { output } = await run(load, { SLOTBUS_LIB: join(space.directory, "lib/libslotbus.so") });
  expect(output).toMatch(/^VERSION_MISMATCH libslotbus speaks protocol version 3; this process speaks 2/);
}, 120_000);

test("two installations of different versions refuse each other at the socket, each naming both", async () => {
  await using space = new Workspace();
  space.leftovers = ["other"];
  const other = join(space.directory, "other");
  mkdirSync(other);
  for (const part of ["src", "csrc"]) cpSync(join(root, part), join(other, part), { recursive: true });
  buildVersion(3, other);
  const library = { SLOTBUS_LIB: join(other, "lib/libslotbus.so"), SLOTBUS_DIR: space.directory };
  const generate = Bun.spawnSync([process.execPath, join(other, "src/native/generate.ts")], {
    env: { ...process.env, ...library },
  });
  expect(generate.exitCode).toBe(0);
  expect(readFileSync(join(other, "src/native/abi.ts"), "utf8")).toContain("SB_ABI: 3,");

  const open = (what: string, then: string, options = ""): string => `
    const { SlotBus, SlotWorker } = await import("${other}/src/index.ts");
    try { const opened = await ${what}({ name: "${space.name}"${options} }); ${then} }
    catch (e) { console.log(e.code, e.message) }`;
  const bus = await space.bus();
  const reasons: string[] = [];
  bus.on("refused", (_, reason) => reasons.push(reason));
  const { output } = await run(open("SlotWorker.open", "", ", timeout: 0"), library);
  expect(output).toMatch(/^VERSION_MISMATCH .* speaks protocol version 2; this process speaks 3/);
  expect(reasons).toEqual(["it speaks protocol 3 to 3, this bus speaks 2"]);
  await bus.close();

  const asked = run(
    open("SlotBus.create", `opened.on("refused", (peer, why) => (console.log(why), opened.close())); opened.ref();`),
    library,
  );
  const error = await rejection(space.worker(() => "x", { timeout: 10_000 }));
  expect(error).toBeInstanceOf(VersionMismatchError);
  expect(error.message).toContain("speaks protocol version 3; this process speaks 2");
  expect((await asked).output).toBe("it speaks protocol 2 to 2, this bus speaks 3\n");
}, 120_000);

test("a library of the same version with another layout is refused, and the first difference is named", async () => {
  await using space = new Workspace();
  space.leftovers = ["other"];
  const other = join(space.directory, "other");
  mkdirSync(other);
  for (const part of ["csrc", "build.zig"]) cpSync(join(root, part), join(other, part), { recursive: true });
  const header = readFileSync(join(other, "csrc/slotbus.h"), "utf8");
  expect(header).toContain("X(SB_WARM_SLOTS, 4,");
  writeFileSync(join(other, "csrc/slotbus.h"), header.replace("X(SB_WARM_SLOTS, 4,", "X(SB_WARM_SLOTS, 5,"));
  buildVersion(2, other, other);
  expect((await run(load, { SLOTBUS_LIB: join(other, "lib/libslotbus.so") })).output).toMatch(
    /^UNSUPPORTED libslotbus and abi.ts differ: SB_WARM_SLOTS is 5, expected 4\. .*zig build/,
  );
}, 120_000);

test("an installed package without a prebuilt library and without Zig says what is missing", async () => {
  await using space = new Workspace();
  space.leftovers = ["package"];
  const target = join(space.directory, "package");
  mkdirSync(target);
  cpSync(join(root, "src"), join(target, "src"), { recursive: true });
  const program = load.replace(`${root}/src`, `${target}/src`);
  expect((await run(program, {}, target)).output).toMatch(
    /^UNSUPPORTED Cannot find the prebuilt library for linux-\w+-\w+.*SLOTBUS_LIB/s,
  );
  cpSync(join(root, "csrc"), join(target, "csrc"), { recursive: true });
  cpSync(join(root, "build.zig"), join(target, "build.zig"));
  const bare = await run(program, { PATH: "/usr/bin:/bin" }, target);
  expect(bare.output).toMatch(/^UNSUPPORTED Cannot build libslotbus for .*Zig is not installed.*npm install/s);
});

test("a library older than its sources is built again, a fresh one is not", async () => {
  await using space = new Workspace();
  space.leftovers = ["package"];
  const target = join(space.directory, "package");
  mkdirSync(target);
  for (const part of ["src", "csrc", "build.zig"]) cpSync(join(root, part), join(target, part), { recursive: true });
  symlinkSync(join(root, "node_modules"), join(target, "node_modules"));
  const program = load.replace(`${root}/src`, `${target}/src`);
  expect((await run(program, {}, target)).output).toBe("loaded\n");
  const library = Bun.file(join(target, "zig-out/lib/libslotbus.so"));
  const built = library.lastModified;
  expect((await run(program, {}, target)).output).toBe("loaded\n");
  expect(Bun.file(library.name!).lastModified).toBe(built);
  rmSync(join(target, "zig-out"), { recursive: true });
  expect((await run(program, {}, target)).output).toBe("loaded\n");
}, 120_000);
