/** `bun --hot`: the module runs again in the same process, and its older self still holds the name. */

import { expect, test } from "bun:test";
import { appendFileSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";

const program = `
import { SlotBus } from ${JSON.stringify(resolve(import.meta.dir, "../src/index.ts"))};
const bus = await SlotBus.create({ name: "hot" });
bus.ref();
process.stdout.write("ready " + process.pid + "\\n");
`;

test("after a hot reload the same process gets its name again", async () => {
  const directory = mkdtempSync(join(tmpdir(), "slotbus-hot-"));
  const file = join(directory, "program.ts");
  writeFileSync(file, program);
  const child = Bun.spawn([process.execPath, "--hot", file], {
    env: { ...process.env, SLOTBUS_DIR: directory },
    stdout: "pipe",
    stderr: "inherit",
  });
  const lines: string[] = [];
  const reader = child.stdout.getReader();
  const nextLine = async (): Promise<string> => {
    const { value } = await reader.read();
    lines.push(new TextDecoder().decode(value).trim());
    return lines.at(-1)!;
  };
  const first = await nextLine();
  expect(first).toBe(`ready ${child.pid}`);
  appendFileSync(file, "// changed\n");
  expect(await nextLine()).toBe(first); // evaluated twice, by one process
  child.kill("SIGKILL");
  await child.exited;
  expect(readdirSync(directory).sort()).toEqual(["hot.lock", "hot.sock", "program.ts"]);
  rmSync(directory, { recursive: true });
}, 20_000);
