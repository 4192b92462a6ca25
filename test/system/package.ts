/** The package as users get it: packed, installed in another folder, used from there. */

import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { homedir, tmpdir } from "node:os";
import { SourceMap } from "node:module";
import { dirname, join } from "node:path";
import manifest from "../../package.json";
import { pack } from "../../pack.ts";
import { PLATFORMS, platformName } from "../../src/native/find.ts";
import { nodes } from "../nodes.ts";
import { shows } from "../examples.ts";
import { type Checks, expect, needTool, note, path, Program, root } from "./checks.ts";

/** Upper limit of the tarball's size, in bytes. */
const LIMIT = 1_490_000; // of these, documents and examples take 150 000
const bun = process.execPath;

let packing: Promise<string> | null = null;

/** Resolves to the path of the tarball, which is packed once. */
function tarball(): Promise<string> {
  if (!packing) {
    const folder = mkdtempSync(join(tmpdir(), "slotbus-system-"));
    process.once("exit", () => rmSync(folder, { recursive: true }));
    packing = pack(folder);
  }
  return packing;
}

/** Resolves to a private package cache for Bun; the user's cache is not touched. */
async function cache(): Promise<string> {
  return join(dirname(await tarball()), "cache");
}

/** Resolves to the output and exit code of a command. */
export async function outcome(command: string[], cwd: string, env: Record<string, string | undefined> = {}) {
  const child = Bun.spawn(command, {
    cwd,
    env: { ...process.env, PATH: path, SLOTBUS_LIB: undefined, SLOTBUS_DIR: join(cwd, "bus"), ...env },
    stdio: ["ignore", "pipe", "pipe"],
    timeout: 120_000,
  });
  const [out, err, code] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  return { output: out + err, code };
}

async function succeed(command: string[], cwd: string, env: Record<string, string | undefined> = {}): Promise<string> {
  const { output, code } = await outcome(command, cwd, env);
  expect(code === 0, `${command.join(" ")} ended with ${code}:\n${output}`);
  return output;
}

/** A folder outside the repository without node_modules above it. */
export class Consumer implements Disposable {
  readonly folder = mkdtempSync(join(tmpdir(), "slotbus-user-"));
  readonly package = join(this.folder, "node_modules/slotbus");

  constructor() {
    for (let above = dirname(this.folder); above !== "/"; above = dirname(above)) {
      expect(!existsSync(join(above, "node_modules")), `${above} has node_modules`);
    }
    this.write("package.json", '{ "name": "user", "type": "module", "private": true }\n');
  }

  static async installed(...more: string[]): Promise<Consumer> {
    const consumer = new Consumer();
    await succeed([bun, "add", await tarball(), ...more], consumer.folder, { BUN_INSTALL_CACHE_DIR: await cache() });
    return consumer;
  }

  static async installedByNpm(): Promise<Consumer> {
    const consumer = new Consumer();
    const said = await consumer.run(needTool("npm"), "install", "--no-audit", "--no-fund", await tarball());
    expect(!/install script|postinstall/.test(said), `npm says: ${said}`);
    return consumer;
  }

  write(file: string, text: string): void {
    writeFileSync(join(this.folder, file), text);
  }

  run(...command: string[]): Promise<string> {
    return succeed(command, this.folder);
  }

  /** Starts a Bun program, whose output is read line by line. */
  start(file: string, env: Record<string, string> = {}, ...args: string[]): Program {
    const SLOTBUS_DIR = join(this.folder, "bus");
    return new Program([bun, join(this.folder, file), ...args], { SLOTBUS_LIB: "", SLOTBUS_DIR, ...env });
  }

  /** Resolves to the output of the program; an error that it throws is printed as `CODE message`. */
  async eval(program: string, env: Record<string, string | undefined> = {}): Promise<string> {
    const guarded = `try { ${program} } catch (e) { console.log(e.code, e.message) }`;
    return (await outcome([bun, "-e", guarded], this.folder, env)).output.trim();
  }

  [Symbol.dispose](): void {
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/** Returns the optional peer dependencies in the versions that are pinned here. */
function peers(): string[] {
  const pinned: Record<string, string> = manifest.devDependencies;
  return Object.keys(manifest.peerDependencies).map((name) => `${name}@${pinned[name]}`);
}

/** Writes the README's first two programs, verbatim. */
function addHello(consumer: Consumer): void {
  const readme = readFileSync(join(consumer.package, "README.md"), "utf8");
  const [worker = "", client = ""] = [...readme.matchAll(/```ts\n([\s\S]*?)```/g)].map((match) => match[1]!);
  consumer.write("worker.ts", worker);
  consumer.write("client.ts", client);
}

async function expectHello(consumer: Consumer): Promise<void> {
  addHello(consumer);
  const said = await consumer.run(bun, "client.ts");
  expect(/process \d+ received: hello Ada, from process \d+/.test(said), `hello world said: ${said}`);
}

/** A program that sends requests to itself and prints the library that it loaded. */
const APP = `import { readFileSync } from "node:fs";
import { contract, rpc, SlotBus, SlotWorker } from "slotbus";
import { EventBus } from "slotbus/events";
await using bus = await SlotBus.create({ name: "app" });
await using worker = await SlotWorker.open({ name: "app" });
worker.serve((request) => \`heard \${request.text()} \${typeof EventBus}\`);
const demo = contract("demo", { double: rpc<number, number>() });
worker.implement(demo, { double: (n) => 2 * n });
if ((await bus.client(demo).double(21)) !== 42 || !bus.metrics().includes("slotbus_workers")) throw new Error("wrong");
const maps = readFileSync("/proc/self/maps", "latin1");
console.log((await bus.request({ path: "/", body: "Ada" })).text(), /\\S*libslotbus\\S*/.exec(maps)?.[0]);
`;

/** Expects that the source map leads from the line of a class in `dist` to its line in `src`. */
function expectMapped(consumer: Consumer, files: string[]): void {
  const line = "class SlotBus extends Closing {";
  const linesOf = (file: string): string[] => readFileSync(file, "utf8").split("\n");
  const file = files.find((one) => one.endsWith(".js") && linesOf(one).includes(line));
  expect(file !== undefined, `no file has the line "${line}"`);
  const map = new SourceMap(JSON.parse(readFileSync(`${file}.map`, "utf8")));
  const entry = map.findEntry(linesOf(file!).indexOf(line), 0) as { originalSource: string; originalLine: number };
  const source = join(dirname(file!), entry.originalSource);
  expect(source === join(consumer.package, "src/slotbus.ts"), `the source map leads to ${source}`);
  const original = linesOf(source)[entry.originalLine];
  expect(original === "export class SlotBus extends Closing<SlotBusEvents> {", `the source map leads to "${original}"`);
}

async function contents(): Promise<void> {
  const file = await tarball();
  const bytes = Bun.file(file).size;
  note(`${bytes} bytes`);
  expect(bytes < LIMIT, `the tarball has ${bytes} bytes`);
  using consumer = await Consumer.installed();
  const all = readdirSync(consumer.package, { recursive: true, encoding: "utf8", withFileTypes: true });
  const files = all.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name));
  expect(files.length > 100, `the package has ${files.length} files`);
  let seen = 0;
  for (const name of files) {
    const text = readFileSync(name, "latin1").replaceAll("$bunfs/root/", ""); // of compiled programs
    for (const local of [`${root}/`, `${homedir()}/`, ".zig-cache"]) {
      expect(!text.includes(local), `${name} names ${local}`);
    }
    const sources = name.endsWith(".map") ? (JSON.parse(text) as { sources: string[] }).sources : [];
    const links = name.endsWith(".md") ? text.matchAll(/\]\((?![a-z]+:)([^)\s#]+)[^)\s]*\)/g) : [];
    for (const target of [...sources, ...[...links].map(([, link]) => link!)]) {
      seen++;
      expect(existsSync(join(dirname(name), target)), `${name} leads to ${target}, which does not exist`);
    }
  }
  expect(seen > 200, `only ${seen} links were checked`);
  expectMapped(consumer, files);
  const sums = await succeed([needTool("sha256sum"), "-c", "SHA256SUMS"], join(consumer.package, "native"));
  expect(sums.match(/: OK$/gm)?.length === PLATFORMS.length + 2, `sha256sum says: ${sums}`); // the libraries and two launchers
  const packed = JSON.parse(readFileSync(join(consumer.package, "package.json"), "utf8")) as typeof manifest;
  expect(!("scripts" in packed) && !("devDependencies" in packed), "the package has scripts or devDependencies");
  expect(Object.keys(packed.exports).join() === Object.keys(manifest.exports).join(), "entries are missing");
}

async function linters(): Promise<void> {
  const file = await tarball();
  const publint = await succeed([needTool("publint"), "run", file, "--strict", "--level", "warning"], root); // its suggestions would leave out an example
  expect(publint.includes("All good!"), publint);
  // Bun does not resolve like Node 10, and its CommonJS can load ES modules.
  await succeed([needTool("attw"), file, "--profile", "esm-only"], root);
}

async function withBun(): Promise<void> {
  using consumer = await Consumer.installed();
  await expectHello(consumer);
  consumer.write("app.ts", APP);
  const said = await consumer.run(bun, "app.ts");
  const library = join(consumer.package, "native", platformName(), "libslotbus.so");
  expect(said === `heard Ada function ${library}\n`, `the program said: ${said}`);
}

/** Prints each class whose name differs from its export, and each error class that differs between entries. */
const CLASSES = `const seen = new Map();
for (const entry of process.argv.slice(2)) {
  for (const [name, value] of Object.entries(await import("slotbus" + entry))) {
    if (!/^class\\b/.test(String(value))) continue;
    const other = name.endsWith("Error") && seen.has(name) && seen.get(name) !== value;
    if (value.name !== name || other) console.log(entry, name, value.name);
    seen.set(name, value);
  }
}
const { SlotBus, InvalidConfigError } = await import("slotbus");
const error = await SlotBus.create({ name: "x", workers: { entry: 1 } }).catch((error) => error);
console.log(seen.size > 50, error instanceof InvalidConfigError, error.name);
`;

async function classes(): Promise<void> {
  using consumer = await Consumer.installed(...peers());
  consumer.write("classes.ts", CLASSES);
  const entries = Object.keys(manifest.exports).filter((entry) => !entry.endsWith(".json"));
  const said = await consumer.run(bun, "classes.ts", ...entries.map((entry) => entry.slice(1)));
  expect(said === "true true InvalidConfigError\n", `the program printed: ${said}`);
}

async function withNpm(): Promise<void> {
  using consumer = await Consumer.installedByNpm();
  await expectHello(consumer);
}

/** Moves the built files elsewhere and removes the packages. */
function moveAway(consumer: Consumer, built: string): string {
  const elsewhere = join(consumer.folder, "elsewhere");
  renameSync(join(consumer.folder, built), elsewhere);
  rmSync(join(consumer.folder, "node_modules"), { recursive: true });
  return elsewhere;
}

async function bundled(): Promise<void> {
  using consumer = await Consumer.installed();
  consumer.write("app.ts", APP);
  await consumer.run(bun, "build", "--target=bun", "--minify", "--sourcemap=linked", "app.ts", "--outdir", "out");
  const folder = moveAway(consumer, "out");
  const said = await succeed([bun, join(folder, "app.js")], "/", { SLOTBUS_DIR: join(consumer.folder, "bus") });
  expect(said.startsWith(`heard Ada function ${folder}/libslotbus-`), `the bundle said: ${said}`);
  rmSync(/(\S+\.so)/.exec(said)![1]!);
  const without = await outcome([bun, join(folder, "app.js")], "/");
  const says = /^heard Ada[^]*SlotbusWarning: Cannot load \S+\.so: [^]*The bus uses a socket, which is slower\./;
  expect(says.test(without.output), `without its library the bundle said: ${without.output}`);
}

/** Returns the machine numbers of all ELF files inside a file. */
function elfMachines(bytes: Buffer): number[] {
  const magic = Buffer.from([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
  const machines: number[] = [];
  for (let at = bytes.indexOf(magic); at >= 0; at = bytes.indexOf(magic, at + 1)) {
    if ([2, 3].includes(bytes.readUInt16LE(at + 16))) machines.push(bytes.readUInt16LE(at + 18));
  }
  return machines;
}

async function compiled(): Promise<void> {
  for (const options of [[], ["--minify", "--bytecode"]]) {
    using consumer = await Consumer.installed();
    const app = options.length === 0 ? APP : `async function main() { ${APP.replace(/^import.*$/gm, "")} }\nmain();\n`;
    const imports = APP.match(/^import.*$/gm)!.join("\n");
    consumer.write("app.ts", options.length === 0 ? app : `${imports}\n${app}`);
    await consumer.run(bun, "build", "--compile", ...options, "app.ts", "--outfile", "bin/app");
    const folder = moveAway(consumer, "bin");
    expect(readdirSync(folder).join() === "app", `the build wrote ${readdirSync(folder)}`);
    const said = await succeed([join(folder, "app")], "/", { SLOTBUS_DIR: join(consumer.folder, "bus") });
    expect(said.startsWith("heard Ada function"), `the program said: ${said}`);
    const machines = elfMachines(readFileSync(join(folder, "app")));
    const other = process.arch === "x64" ? 183 : 62;
    expect(machines.length >= 3 && !machines.includes(other), `it contains programs for the machines ${machines}`);
  }
}

async function compiledWorkers(): Promise<void> {
  using consumer = await Consumer.installed();
  addHello(consumer);
  consumer.write(
    "main.ts",
    `import { SlotBus } from "slotbus";
await using bus = await SlotBus.create({ name: "shop", workers: { entry: import.meta.resolve("./worker.ts"), max: 2 } });
process.kill(bus.workers[0]!.pid, "SIGKILL");
console.log((await bus.request({ path: "/hello", body: "Ada" }, { idempotent: true })).text());
`,
  );
  await consumer.run(bun, "build", "--compile", "main.ts", "worker.ts", "--outfile", "bin/app");
  const program = join(moveAway(consumer, "bin"), "app");
  const said = await succeed([program], "/", { SLOTBUS_DIR: join(consumer.folder, "bus") });
  expect(/^(.*no slotbus-launcher.*\n)?hello Ada, from process \d+\n/m.test(said), `the program said: ${said}`);
}

async function types(): Promise<void> {
  using consumer = await Consumer.installed(...peers());
  const left = ["./package.json", "./nats"];
  const entries = Object.keys(manifest.exports).filter((entry) => !left.includes(entry));
  const lines = entries.map((entry, i) => `import * as e${i} from "slotbus${entry.slice(1)}";\nvoid e${i};`);
  addHello(consumer);
  consumer.write("app.ts", APP);
  mkdirSync(join(consumer.folder, "nats"));
  consumer.write("nats/nats.ts", 'import { nats } from "slotbus/nats";\nnats({ servers: "127.0.0.1" });\n');
  consumer.write("entries.ts", `${lines.join("\n")}\n`);
  consumer.write(
    "wrong.ts",
    `import { SlotBus } from "slotbus";\n// @ts-expect-error: a name is text\nawait SlotBus.create({ name: 7 });\n`,
  );
  for (const [module, moduleResolution] of [
    ["preserve", "bundler"],
    ["nodenext", "nodenext"],
  ]) {
    const options = { module, moduleResolution, target: "esnext", lib: ["esnext"], types: ["bun"], noEmit: true };
    const strict = {
      strict: true,
      skipLibCheck: false,
      exactOptionalPropertyTypes: true,
      noUncheckedIndexedAccess: true,
    };
    const compilerOptions = { ...options, ...strict };
    consumer.write("tsconfig.json", JSON.stringify({ compilerOptions, include: ["*.ts"] }));
    await consumer.run(needTool("tsc"), "-p", ".");
    // The declarations of the NATS client do not compile with exactOptionalPropertyTypes.
    const withClient = { ...compilerOptions, skipLibCheck: true };
    consumer.write("tsconfig.json", JSON.stringify({ compilerOptions: withClient, include: ["nats/*.ts"] }));
    await consumer.run(needTool("tsc"), "-p", ".");
  }
}

async function clearErrors(): Promise<void> {
  using consumer = await Consumer.installed();
  const library = join(consumer.package, "native", platformName(), "libslotbus.so");
  const load =
    'const { SlotBus } = await import("slotbus"); await (await SlotBus.create({ name: "a" })).close(); console.log("loaded")';
  const find = `const f = await import("${consumer.package}/dist/native/find.js");
    const o = f.originOf(f.findLibrary());`;
  const isPacked = `${find} console.log(o.from, o.packedSha256 !== null)`;
  const expectSays = async (program: string, says: RegExp, env = {}): Promise<void> => {
    const said = await consumer.eval(program, env);
    expect(says.test(said), `the program said "${said}", not ${says}`);
  };
  await expectSays(load, /^loaded$/);
  await expectSays(isPacked, /^package true$/);
  await expectSays(load, /^UNSUPPORTED Cannot load \/nowhere/, { SLOTBUS_LIB: "/nowhere" });
  await expectSays(isPacked, /^SLOTBUS_LIB false$/, { SLOTBUS_LIB: library });
  const other = `Object.defineProperty(process, "arch", { value: "riscv64" }); ${load}`;
  await expectSays(other, /^UNSUPPORTED slotbus has no library for linux-riscv64\. Use Linux \(linux-x64-gnu, /);
  const bytes = readFileSync(library);
  rmSync(library); // not overwritten: Bun links it to its cache
  writeFileSync(library, bytes.subarray(0, 1000));
  await expectSays(load, /^UNSUPPORTED .*libslotbus.so differs from the packaged file: .* Install slotbus again/);
  rmSync(library);
  await expectSays(load, /^UNSUPPORTED Cannot find the prebuilt library for linux-.*Install slotbus again/);

  consumer.write(
    "app.mjs",
    'import { SlotBus } from "slotbus";\nimport "slotbus/hub";\nSlotBus.create({ name: "x" });\n',
  );
  const inNode = [".", "./nats", "./otel", "./serve"];
  for (const entry of Object.keys(manifest.exports).filter(
    (name) => !name.endsWith(".json") && !inNode.includes(name),
  )) {
    const program = `import("slotbus${entry.slice(1)}").catch((e) => console.log(e.name, e.code, e.message))`;
    const said = await consumer.run(needTool("node"), "-e", program);
    const says = /^UnsupportedError UNSUPPORTED slotbus\/\w+ needs Bun 1\.4\.0 or later; this is Node v.* with `bun`/;
    expect(says.test(said), `in Node ${entry} says: ${said}`);
  }
  const { output } = await outcome([needTool("node"), "app.mjs"], consumer.folder);
  expect(/slotbus\/hub needs Bun/.test(output), `in Node a program says: ${output}`);
}

const NODE_TEST = `import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { test } from "node:test";
import { SlotBus, SlotWorker } from "slotbus";

test("a request", async () => {
  assert.equal(createRequire(import.meta.url)("slotbus").SlotBus, SlotBus);
  const bus = await SlotBus.create({ name: "node" });
  const worker = await SlotWorker.open({ name: "node" });
  worker.serve((request) => "hello " + request.text());
  await bus.ready();
  assert.equal((await bus.request({ path: "/", body: "Ada" })).text(), "hello Ada");
  assert.equal(bus.workers[0].wire, "socket");
  await worker.close();
  await bus.close();
});
`;

/** Both ways to load the package in Node, and a bus there with the packed launcher. */
async function inNode(): Promise<void> {
  using consumer = await Consumer.installed();
  consumer.write("bus.test.mjs", NODE_TEST);
  expect(nodes.length > 0, "there is no Node that is new enough: set SLOTBUS_NODES");
  for (const node of nodes) {
    const { output, code } = await outcome([node, "--test", "bus.test.mjs"], consumer.folder);
    expect(code === 0 && /pass 1\b/.test(output) && !/[Ww]arning/.test(output), `${node} says:\n${output}`);
  }
}

async function oldBun(): Promise<void> {
  using consumer = await Consumer.installed(`@oven/bun-${process.platform}-${process.arch}@1.3.14`, ...peers());
  const old = join(consumer.folder, `node_modules/@oven/bun-${process.platform}-${process.arch}/bin/bun`);
  // These load bun:ffi later or never.
  const later = [
    ".",
    "./nats",
    "./otel",
    "./pool",
    "./serve",
    "./stdio",
    "./supervisor",
    "./testing",
    "./package.json",
  ];
  const entries = Object.keys(manifest.exports).filter((name) => !later.includes(name));
  const uses = [
    ...entries.map((entry) => `import("slotbus${entry.slice(1)}")`),
    'import("slotbus").then(({ SlotBus }) => SlotBus.create({ name: "shop" }))',
    'import("slotbus").then(({ SlotWorker }) => SlotWorker.open({ name: "shop" }))',
  ];
  for (const use of uses) {
    const said = await consumer.run(old, "-e", `await ${use}.catch((e) => console.log(e.name, e.code, e.message))`);
    const says = /^UnsupportedError UNSUPPORTED slotbus needs Bun 1\.4\.0 or later; this is 1\.3\.14/;
    expect(says.test(said), `${use} says: ${said}`);
  }
}

async function examples(): Promise<void> {
  const { hono, "@modelcontextprotocol/server-everything": everything } = manifest.devDependencies;
  const needed = [`hono@${hono}`, `@modelcontextprotocol/server-everything@${everything}`];
  using consumer = await Consumer.installed(...needed);
  const folder = join(consumer.package, "examples");
  for (const [file, patterns] of Object.entries(shows)) {
    const said = await consumer.run(bun, join(folder, file));
    for (const pattern of patterns) expect(pattern.test(said), `${file} says: ${said}`);
  }
  await consumer.run(bun, "test", join(folder, "shop.test.ts"));
}

async function inOtherLanguages(): Promise<void> {
  using consumer = await Consumer.installed();
  const library = join(consumer.package, "native", platformName());
  for (const file of ["c-worker.c", "python-worker.py"])
    cpSync(join(consumer.package, "examples", file), join(consumer.folder, file));
  const warnings = "-std=c11 -D_GNU_SOURCE -Wall -Wextra -Wpedantic -Wconversion -Werror".split(" ");
  const link = [`-I${consumer.package}/include`, `-L${library}`, "-lslotbus", `-Wl,-rpath,${library}`];
  await consumer.run(needTool("gcc"), ...warnings, "c-worker.c", ...link, "-o", "c-worker");
  addHello(consumer);
  const client = readFileSync(join(consumer.folder, "client.ts"), "utf8");
  const started = /, workers: \{.*\} \}\);$/m;
  expect(started.test(client), "the README's client does not start a worker");
  for (const command of ['["./c-worker", "shop"]', '["python3", "python-worker.py", "shop"]']) {
    consumer.write("other.ts", client.replace(started, ` });\nawait using other = Bun.spawn(${command});`));
    const said = await succeed([bun, "other.ts"], consumer.folder, { SLOTBUS_LIB: join(library, "libslotbus.so") });
    expect(/received: hello Ada, from process \d+/.test(said), `with ${command} the client said: ${said}`);
  }
}

export const checks: Checks = {
  "the package is small and complete, and contains no path of the machine that packed it": contents,
  "publint and attw accept the package": linters,
  "the README's programs run with the package from bun add and with its library": withBun,
  "a class is named like its export, and an error is the same class in all entries": classes,
  "the README's programs run with the package from npm install, which runs no script": withNpm,
  "a program bundled with bun build runs from any folder, next to its library": bundled,
  "a program compiled with bun build --compile runs alone from any folder, and contains its platform's libraries only":
    compiled,
  "a compiled program runs its own workers from any folder": compiledWorkers,
  "the package's types compile with strict and without skipLibCheck, under both module resolutions": types,
  "the package works in each version of Node, by import and by require": inNode,
  "Node, a missing or damaged library and an unsupported platform each cause one clear error": clearErrors,
  "an old Bun gets an error that names the required version": oldBun,
  "every example of the installed package runs": examples,
  "workers in C and Python run with the header and the library of the package": inOtherLanguages,
};
