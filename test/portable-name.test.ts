/** Names that processes without the C library take: alone, shared, at once, and after a kill; beside processes with the library. */

import { expect, test } from "bun:test";
import { closeSync, existsSync, readdirSync, openSync, rmSync } from "node:fs";
import { join } from "node:path";
import { findLauncher } from "../src/native/find.ts";
import { nodes, versionOf } from "./nodes.ts";
import { Workspace } from "./support.ts";

const ROUNDS = 50;
const fixture = join(import.meta.dir, "fixtures/holder.ts");

/** A process that takes names: how it is started, and with which locks. */
interface Kind {
  readonly what: string;
  readonly command: readonly string[];
  readonly locks: "memory" | "portable";
  readonly env: Record<string, string>;
}

const withLauncher = { SLOTBUS_LAUNCHER: findLauncher()! };
const withoutLauncher = { SLOTBUS_LAUNCHER: "" };
const bun = [process.execPath];
const memory: Kind = { what: "Bun with the library", command: bun, locks: "memory", env: {} };
/** The library locks names on Linux only. */
const libraries = process.platform === "linux" ? [memory] : [];
const plain: Kind = { what: "Bun without the library", command: bun, locks: "portable", env: withLauncher };
const bare: Kind = { what: "Bun without library and launcher", command: bun, locks: "portable", env: withoutLauncher };
const portable: Kind[] = nodes.map((path) => ({
  what: `Node ${versionOf(path)}`,
  command: [path, "--no-warnings"],
  locks: "portable",
  env: withLauncher,
}));

/** A running fixture. Its answers come in the order of the questions. */
class Holder implements AsyncDisposable {
  readonly #process: Bun.Subprocess<"pipe", "pipe", "inherit">;
  readonly #lines: AsyncIterator<string>;

  constructor({ command, locks, env }: Kind, { directory, name }: Workspace) {
    this.#process = Bun.spawn([...command, fixture, locks, directory, name], {
      env: { ...process.env, ...env },
      stdio: ["pipe", "pipe", "inherit"],
    });
    this.#lines = linesOf(this.#process.stdout);
  }

  static async start(kind: Kind, space: Workspace): Promise<Holder> {
    const holder = new Holder(kind, space);
    expect(await holder.line()).toBe("ready");
    return holder;
  }

  async line(): Promise<string> {
    const { value, done } = await this.#lines.next();
    return done ? "the process has ended" : value;
  }

  say(text: string): void {
    this.#process.stdin.write(`${text}\n`);
    this.#process.stdin.flush();
  }

  ask(text: string): Promise<string> {
    this.say(text);
    return this.line();
  }

  async kill(): Promise<void> {
    this.#process.kill("SIGKILL");
    await this.#process.exited;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#process.stdin.end();
    await this.#process.exited;
  }
}

async function* linesOf(stream: ReadableStream<Uint8Array>): AsyncGenerator<string, void> {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const chunk of stream) {
    const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n");
    rest = lines.pop()!;
    yield* lines;
  }
}

const node = portable.slice(0, 1);
const couples: [Kind, Kind][] = [
  ...libraries.map((library): [Kind, Kind] => [plain, library]),
  [bare, bare],
  ...node.flatMap((one) => [...libraries, one].map((other): [Kind, Kind] => [one, other])),
];

for (const [first, second] of couples) {
  test(`of two processes that take a name at once, one gets it, ${ROUNDS} times: ${first.what}, ${second.what}`, async () => {
    await using space = new Workspace();
    await using left = await Holder.start(first, space);
    await using right = await Holder.start(second, space);
    for (let round = 0; round < ROUNDS; round++) {
      for (const holder of round % 2 ? [left, right] : [right, left]) holder.say("take own");
      const [one, other] = await Promise.all([left.line(), right.line()]);
      expect([one, other].filter((said) => said === "taken alone").length).toBe(1);
      expect([one, other].filter((said) => said.startsWith("refused BUS_EXISTS")).length).toBe(1);
      await Promise.all([left.ask("release"), right.ask("release")]);
    }
    expect(readdirSync(space.directory)).toEqual([]);
  }, 60_000);
}

for (const kind of [...libraries, plain, bare, ...node]) {
  const rounds = kind === plain ? ROUNDS : 10;
  test(`the name of a killed owner is taken at once, and its socket is replaced, ${rounds} times: ${kind.what}`, async () => {
    await using space = new Workspace();
    const heirs = [...libraries, plain, ...node];
    const by = await Promise.all(heirs.map((heir) => Holder.start(heir, space)));
    for (let round = 0; round < rounds; round++) {
      const owner = await Holder.start(kind, space);
      expect(await owner.ask("take own")).toBe("taken alone");
      const heir = by[round % by.length]!;
      expect(await heir.ask("take own")).toStartWith("refused BUS_EXISTS");
      await owner.kill();
      expect(existsSync(join(space.directory, `${space.name}.sock`))).toBe(true);
      expect(await heir.ask("take own")).toBe("taken alone");
      await heir.ask("release");
      expect(readdirSync(space.directory)).toEqual([]);
    }
    for (const heir of by) await heir[Symbol.asyncDispose]();
  }, 120_000);
}

test("clients with and without the library share a name: each gets a number of its own, and the last one leaves no file", async () => {
  await using space = new Workspace();
  const kinds = [plain, ...libraries, ...node, ...libraries, plain];
  const clients = await Promise.all(kinds.map((kind) => Holder.start(kind, space)));
  const said = await Promise.all(clients.map((client) => client.ask("take share")));
  expect(said.toSorted()).toEqual(kinds.map((_, number) => `taken ${number}`));
  const owner = await Holder.start(plain, space);
  expect(await owner.ask("take own")).toMatch(/^refused BUS_EXISTS Clients share the bus/);
  await owner[Symbol.asyncDispose]();
  // One is killed; its number is free at once.
  await clients[2]!.kill();
  const next = await Holder.start(plain, space);
  expect(await next.ask("take share")).toBe(said[2]!);
  await Promise.all([...clients.filter((_, n) => n !== 2), next].map((client) => client.ask("release")));
  expect(readdirSync(space.directory)).toEqual([]);
  await Promise.all([...clients, next].map((client) => client[Symbol.asyncDispose]()));
});

test("slotbus-launcher takes a name for a host: each open file is one owner or client, and the 65th client gets none", async () => {
  await using space = new Workspace();
  const launcher = findLauncher()!;
  const files: number[] = [];
  const take = (words: string[], file: number): number =>
    Bun.spawnSync([launcher, ...words], { stdio: ["ignore", "ignore", "ignore", file] }).exitCode;
  const lockFile = (): number => {
    files.push(openSync(join(space.directory, `${space.name}.lock`), "a+"));
    return files.at(-1)!;
  };
  const [owned, shared, full, misused] = [64, 65, 67, 69];
  const owner = lockFile();
  expect(take(["--own"], owner)).toBe(0);
  expect(take(["--own"], lockFile())).toBe(owned);
  expect(take(["--share"], lockFile())).toBe(owned);
  closeSync(files.shift()!);
  const clients = Array.from({ length: 64 }, () => lockFile());
  expect(clients.map((file) => take(["--share"], file))).toEqual(clients.map((_, number) => number));
  expect(take(["--share"], lockFile())).toBe(full);
  expect(take(["--own"], lockFile())).toBe(shared);
  expect(take(["--leave"], clients[0]!)).toBe(shared); // others are there
  for (const words of [["--own", "x"], ["--knock"], ["--fly"]]) expect(take(words, clients[1]!)).not.toBe(0);
  expect(take(["--leave", "x"], clients[1]!)).toBe(misused);
  const directory = openSync(space.directory, "r");
  expect(take(["--knock", "3", `${space.name}@0123456789abcdef.door`, "x".repeat(200)], directory)).toBe(0);
  for (const file of [...files, directory]) closeSync(file);
  rmSync(join(space.directory, `${space.name}.lock`));
});
