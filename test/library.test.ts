/** Finding, loading and verifying the native library. */

import { expect, test } from "bun:test";
import { cpSync, mkdirSync, rmSync, symlinkSync } from "node:fs";
import { join, resolve } from "node:path";
import { Workspace } from "./support.ts";

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

const load = `try { await import("${root}/src/index.ts"); console.log("loaded") } catch (e) { console.log(e.code, e.message) }`;

test("SLOTBUS_LIB that is not there, or no library, is one clear error", async () => {
  expect((await run(load, { SLOTBUS_LIB: "/nowhere/lib.so" })).output).toMatch(
    /^UNSUPPORTED \/nowhere\/lib.so could not be loaded/,
  );
  expect((await run(load, { SLOTBUS_LIB: join(root, "package.json") })).output).toMatch(
    /^UNSUPPORTED .*package.json could not be loaded/,
  );
  const libc = (await Array.fromAsync(new Bun.Glob("/lib/x86_64-linux-gnu/libz.so.*").scan()))[0];
  if (libc)
    expect((await run(load, { SLOTBUS_LIB: libc })).output).toMatch(/^UNSUPPORTED .*could not be loaded: .*sb_/);
});

test("a library of another protocol version is refused with both versions", async () => {
  await using space = new Workspace();
  space.leftovers = ["lib", ".zig-cache"];
  const zig = Bun.which("zig", { PATH: `${root}/node_modules/.bin:${process.env["PATH"]}` })!;
  const build = Bun.spawnSync([zig, "build", "-Dabi=2", "--prefix", space.directory], { cwd: root, stderr: "pipe" });
  expect(build.stderr.toString()).toBe("");
  const { output } = await run(load, { SLOTBUS_LIB: join(space.directory, "lib/libslotbus.so") });
  expect(output).toMatch(/^VERSION_MISMATCH libslotbus speaks protocol version 2; this process speaks 1/);
}, 120_000);

test("an installed package without prebuilt library and without Zig says what is missing", async () => {
  await using space = new Workspace();
  space.leftovers = ["package"];
  const target = join(space.directory, "package");
  mkdirSync(target);
  cpSync(join(root, "src"), join(target, "src"), { recursive: true });
  const program = load.replace(`${root}/src`, `${target}/src`);
  expect((await run(program, {}, target)).output).toMatch(
    /^UNSUPPORTED slotbus has no prebuilt library for linux-\w+-\w+.*SLOTBUS_LIB/s,
  );
  cpSync(join(root, "csrc"), join(target, "csrc"), { recursive: true });
  cpSync(join(root, "build.zig"), join(target, "build.zig"));
  const bare = await run(program, { PATH: "/usr/bin:/bin" }, target);
  expect(bare.output).toMatch(/^UNSUPPORTED libslotbus is not built for .*Zig is not installed.*npm ci/s);
});

test("a library that is older than its sources is built again, a fresh one is not", async () => {
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
