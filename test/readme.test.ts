/** The commands of README.md, getting-started.md, deployment.md and operations.md print what the pages show. */

import { expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import manifest from "../package.json";
import { SlotBus, SlotWorker } from "../src/index.ts";
import { type Block, blocksOf, commandsOf, fileOf, root } from "./docs-blocks.ts";

const LIMIT_MS = 60_000;

/** Shown output as a pattern: numbers match any number, units any unit, space any space, `…` anything. */
function pattern(shown: string): RegExp {
  const source = shown
    .trim()
    .split(/\s*…\s*/)
    .map(
      (part) =>
        part
          .replaceAll(/[.*+?^${}()|[\]\\]/g, "\\$&")
          .replaceAll(/\d+(?:\\\.\d+)?(?: ?(?:µs|ms|s)\b)?/g, "\\d[\\d.]*(?: ?(?:µs|ms|s|min))?")
          .replaceAll(/\s+/g, "\\s+")
          .replace("FREE", "FREE(?:\\s+\\d+\\s+[A-Z]+)*"), // a request may be under way when `top` counts the slots
    )
    .join("[\\s\\S]*?");
  return new RegExp(source);
}

/** A folder outside the repository with slotbus installed, and its own runtime directory. */
class Desk implements Disposable {
  readonly folder = mkdtempSync(join(tmpdir(), "slotbus-readme-"));
  readonly directory = join(this.folder, "run");

  constructor() {
    mkdirSync(this.directory, { mode: 0o700 });
    mkdirSync(join(this.folder, "node_modules/.bin"), { recursive: true });
    symlinkSync(root, join(this.folder, "node_modules/slotbus"));
    symlinkSync(join(root, "node_modules/zod"), join(this.folder, "node_modules/zod"));
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

/** The bus of the first example, in use. */
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

/** Programs of the README by the file name that the text above them gives. */
const README_FILES = ["worker.ts", "client.ts"];

/** Follows a page: saves its programs, runs its commands. Returns the commands. */
async function follow(page: string, nameOf: (block: Block, index: number) => string | null): Promise<string[]> {
  using desk = new Desk();
  const blocks = blocksOf(page);
  for (const [index, block] of blocks.filter(({ language }) => language === "ts").entries()) {
    const name = nameOf(block, index);
    if (name !== null) writeFileSync(join(desk.folder, name), block.code);
  }
  const ran: string[] = [];
  for (const block of blocks.filter(({ language }) => language === "sh")) {
    let printed = "";
    const run = async (command: string): Promise<void> => {
      const result = await desk.run(command);
      expect([page, command, result.exitCode, result.output]).toEqual([page, command, 0, result.output]);
      printed += result.output;
    };
    for (const command of commandsOf(block)) {
      ran.push(command);
      if (/^bun (?!add |init )/.test(command)) await run(command);
      else if (/^(bunx )?slotbus /.test(command)) await whileInUse(desk, () => run(command));
      // `bun init` needs a registry; `bun add` from a package: test/system/package.ts; options of Docker: docs.test.ts; npm: .ci/run.
      else if (!/^(bun add|bun init|docker run|npm) /.test(command))
        throw new Error(`${page}: no test runs ${command}`);
    }
    if (block.output !== null) expect(printed).toMatch(pattern(block.output));
    expect(readdirSync(desk.directory)).toEqual([]);
  }
  return ran;
}

test("the commands of the README print what it shows", async () => {
  const ran = await follow("README.md", (_block, index) => README_FILES[index] ?? null);
  expect(ran).toEqual(["bun add slotbus", "bun client.ts", "npm start", "npm test"]);
  expect(manifest.scripts).toMatchObject({ start: expect.any(String), test: expect.any(String) });
}, 120_000);

test("each step of getting-started.md runs and prints what the page shows", async () => {
  const ran = await follow("docs/getting-started.md", fileOf);
  expect(ran.filter((command) => command.startsWith("bun "))).toEqual([
    "bun init -y",
    "bun add slotbus zod",
    "bun hello.ts",
    "bun main.ts",
    "bun service.ts",
    "bun test shop.test.ts",
  ]);
  expect(ran).toContain("bunx slotbus top --once");
}, 120_000);

test("the commands of deployment.md succeed while the bus is in use", async () => {
  const ran = await follow("docs/deployment.md", () => null);
  expect(ran).toEqual(expect.arrayContaining(["slotbus stats shop", "bunx slotbus doctor"]));
}, 120_000);

test("`slotbus stats` of a bus that does not exist exits with 3, as deployment.md says", async () => {
  using desk = new Desk();
  expect((await desk.run("slotbus stats shop")).exitCode).toBe(3);
});

test("the commands of operations.md for troubleshooting succeed beside a bus that is in use", async () => {
  using desk = new Desk();
  const commands = blocksOf("docs/operations.md")
    .filter(({ language }) => language === "sh")
    .flatMap(commandsOf)
    .filter((command) => !command.startsWith("slotbus run ")); // it does not end: cli-run.test.ts
  expect(commands.length).toBeGreaterThan(3);
  await whileInUse(desk, async () => {
    for (const command of commands) {
      const { exitCode, output } = await desk.run(command.replace(" NAME", " shop --once"));
      expect([command, exitCode, output]).toEqual([command, 0, output]);
      if (!command.endsWith("doctor")) expect(output).toContain("shop");
    }
  });
}, 120_000);

test("what a page shows must match the output: other words, fewer columns or another order fail", () => {
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
