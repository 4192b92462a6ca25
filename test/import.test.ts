/** What `import "slotbus"` loads: each file takes 0.2 to 0.5 ms, and node:crypto 3 ms. */

import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join, relative } from "node:path";
import { Workspace } from "./support.ts";

const src = join(import.meta.dir, "../src");

/** Files of `src` that a process has loaded after it ran `program`. */
async function loadedBy(space: Workspace, program: string): Promise<string[]> {
  const ends = "process.stdout.write(JSON.stringify(Object.keys(require.cache)));";
  const source = `const { contract, rpc, SlotBus, SlotWorker } = await import("${src}/index.ts");\n${program}\n${ends}`;
  const env = { ...process.env, SLOTBUS_DIR: space.directory };
  const child = Bun.spawn([process.execPath, "-e", source], { env, stdio: ["ignore", "pipe", "inherit"] });
  const [text, code] = await Promise.all([child.stdout.text(), child.exited]);
  expect(code).toBe(0);
  const files = JSON.parse(text) as string[];
  return files.map((file) => relative(src, file)).filter((file) => !file.startsWith("..") && file.endsWith(".ts"));
}

/** Files in these folders are loaded at their first use. */
const later = /^(supervisor|wires\/memory\/(?!open-buses)|native\/(?!abi|statistics))/;

test('import "slotbus" loads neither the memory wire and the C library, the supervisor nor node:crypto', async () => {
  await using space = new Workspace();
  const files = await loadedBy(space, "");
  expect(files).toContain("slotbus.ts");
  expect(files.filter((file) => later.test(file))).toEqual([]);
  const transpiler = new Bun.Transpiler({ loader: "ts" });
  const imports = files.flatMap((file) => transpiler.scanImports(readFileSync(join(src, file))));
  const builtins = imports.filter(({ kind, path }) => kind === "import-statement" && /^(node|bun):/.test(path));
  expect([...new Set(builtins.map(({ path }) => path))].sort()).toEqual([
    "node:buffer",
    "node:diagnostics_channel",
    "node:events",
    "node:fs",
    "node:os",
    "node:path",
  ]);
});

test("lazy modules are loaded at their first use", async () => {
  await using space = new Workspace();
  const files = await loadedBy(
    space,
    `const demo = contract("demo", { hello: rpc() });
    await using bus = await SlotBus.create({ name: "${space.name}" });
    await using worker = await SlotWorker.open({ name: "${space.name}" });
    worker.implement(demo, { hello: () => {} });
    await bus.client(demo).hello();
    bus.metrics();
    await SlotBus.create({ name: "x", workers: { entry: "/nowhere" } }).catch(() => {});`,
  );
  for (const each of ["wires/memory/client", "native/library", "supervisor/supervisor"])
    expect(files).toContain(`${each}.ts`);
  expect(files.filter((file) => later.test(file)).length).toBeGreaterThan(10);
});
