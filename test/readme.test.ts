/** A new user who has only the README, and one who is called at night and has operations.md: each command, and what it prints. */

import { expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import manifest from "../package.json";
import { SlotBus, SlotWorker } from "../src/index.ts";

const root = resolve(import.meta.dir, "..");
const LIMIT_MS = 60_000;

/** Commands of a page's shell blocks, with what the block below, if there is one, says they print. */
function sessions(page: string): { commands: string[]; output: string | null }[] {
  const text = readFileSync(join(root, page), "utf8");
  const found = [...text.matchAll(/^```sh\n([\s\S]*?)^```\n(?:\n```text\n([\s\S]*?)^```)?/gm)];
  return found.map(([, shell = "", output = null]) => ({
    commands: shell
      .split("\n")
      .map((line) => line.replace(/\s+#.*$/, "").trim())
      .filter((line) => line !== ""),
    output,
  }));
}

/** What was shown, as a pattern: numbers are any numbers, units any units, space any space, `…` anything. */
function pattern(shown: string): RegExp {
  const source = shown
    .trim()
    .split(/\s*…\s*/)
    .map((part) =>
      part
        .replaceAll(/[.*+?^${}()|[\]\\]/g, "\\$&")
        .replaceAll(/\d+(?:\\\.\d+)?(?: ?(?:µs|ms|s)\b)?/g, "\\d[\\d.]*(?: ?(?:µs|ms|s|min))?")
        .replaceAll(/\s+/g, "\\s+"),
    )
    .join("[\\s\\S]*?");
  return new RegExp(source);
}

/** A folder outside of the repository in which slotbus is installed, with a runtime directory of its own. */
class Desk implements Disposable {
  readonly folder = mkdtempSync(join(tmpdir(), "slotbus-readme-"));
  readonly directory = join(this.folder, "run");

  constructor() {
    mkdirSync(this.directory, { mode: 0o700 });
    mkdirSync(join(this.folder, "node_modules/.bin"), { recursive: true });
    symlinkSync(root, join(this.folder, "node_modules/slotbus"));
    symlinkSync(join(root, manifest.bin.slotbus), join(this.folder, "node_modules/.bin/slotbus"));
  }

  async run(command: string): Promise<{ output: string; exitCode: number }> {
    const path = [join(this.folder, "node_modules/.bin"), join(root, "node_modules/.bin"), process.env["PATH"]].join(
      ":",
    );
    const child = Bun.spawn(["sh", "-c", `exec ${command}`], {
      cwd: this.folder,
      env: { ...process.env, PATH: path, SLOTBUS_DIR: this.directory },
      stdio: ["ignore", "pipe", "pipe"],
      timeout: LIMIT_MS,
    });
    const [output, errors] = await Promise.all([child.stdout.text(), child.stderr.text()]);
    return { output: output + errors, exitCode: await child.exited };
  }

  [Symbol.dispose](): void {
    rmSync(this.folder, { recursive: true });
  }
}

/** The bus of the first example, while it is used. */
async function whileInUse(desk: Desk, work: () => Promise<void>): Promise<void> {
  await using bus = await SlotBus.create({ name: "shop", directory: desk.directory });
  await using worker = await SlotWorker.open({ name: "shop", directory: desk.directory });
  worker.serve(({ body }) => body);
  const requests = setInterval(() => void bus.request({ path: "/" }), 5);
  try {
    await work();
  } finally {
    clearInterval(requests);
  }
}

test("the commands of the README, in its order, do and print what it shows", async () => {
  using desk = new Desk();
  const text = readFileSync(join(root, "README.md"), "utf8");
  const [worker = "", client = ""] = [...text.matchAll(/^```ts\n([\s\S]*?)^```/gm)].map((match) => match[1]!);
  const ran: string[] = [];
  for (const { commands, output } of sessions("README.md")) {
    let printed = "";
    const run = async (command: string): Promise<void> => {
      const result = await desk.run(command);
      expect([command, result.exitCode, result.output]).toEqual([command, 0, result.output]);
      printed += result.output;
    };
    for (const command of commands) {
      ran.push(command);
      const script = /^npm (?:run )?(\w+)$/.exec(command)?.[1];
      // Of a checkout; what they do is what `npm test` and the other tests do.
      if (script !== undefined) expect(Object.keys(manifest.scripts)).toContain(script);
      else if (command === "bun add slotbus") {
        writeFileSync(join(desk.folder, "worker.ts"), worker); // from a package: test/system/package.ts
        writeFileSync(join(desk.folder, "client.ts"), client);
      } else if (command.startsWith("bunx slotbus ")) await whileInUse(desk, () => run(command));
      else if (command.startsWith("bun ")) await run(command);
      else throw new Error(`nobody runs: ${command}`);
    }
    if (output !== null) expect(printed).toMatch(pattern(output));
    expect(readdirSync(desk.directory)).toEqual([]);
  }
  expect(ran).toEqual(expect.arrayContaining(["bun add slotbus", "bun client.ts", "bunx slotbus doctor", "npm test"]));
}, 120_000);

test("the commands of operations.md for the night succeed beside a bus that is in use, and leave it in peace", async () => {
  using desk = new Desk();
  const commands = sessions("docs/operations.md").flatMap((session) => session.commands);
  expect(commands.length).toBeGreaterThan(3);
  await whileInUse(desk, async () => {
    for (const command of commands) {
      const { exitCode, output } = await desk.run(command.replace(" NAME", " shop --once"));
      expect([command, exitCode, output]).toEqual([command, 0, output]);
      if (!command.endsWith("doctor")) expect(output).toContain("shop");
    }
  });
}, 120_000);

test("what a page shows must be printed: other words, fewer columns or another order do not match", () => {
  const shown = "NAME  PID  AGE\nshop  4711  2 s\n…\nend 1.5 µs";
  const printed = "NAME PID AGE\nshop 12 13 ms\nanything\nend 900 ms\n";
  expect(printed).toMatch(pattern(shown));
  for (const [from, to] of [
    ["shop", "shed"],
    [" 13 ms", ""],
    ["end", ""],
  ] as const)
    expect(printed.replace(from, to)).not.toMatch(pattern(shown));
});
