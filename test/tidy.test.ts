/** What no other test would notice: stale generated files, tables that drifted, imports in the wrong direction. */

import { expect, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { generate } from "../src/native/generate.ts";
import { COUNTERS } from "../src/native/statistics.ts";

const root = resolve(import.meta.dir, "..");

function read(file: string): string {
  return readFileSync(join(root, file), "utf8");
}

function files(folder: string, ending: string): string[] {
  const all = readdirSync(join(root, folder), { recursive: true, encoding: "utf8" });
  return all.filter((file) => file.endsWith(ending)).map((file) => join(folder, file));
}

/** Rows `X(NAME, value, "text")` of a table of slotbus.h. */
function tableOf(macro: string): { name: string; value: number; text: string }[] {
  const header = read("csrc/slotbus.h");
  const start = header.indexOf(`#define ${macro}(X)`);
  expect(start).toBeGreaterThan(0);
  const body = header.slice(start, header.indexOf("\n\n", start));
  const rows = [...body.matchAll(/X\((\w+), (\w+), "([^"]*)"\)/g)];
  return rows.map(([, name, value, text]) => ({ name: name!, value: Number(value), text: text! }));
}

test("abi.ts is what the header and the library generate today", () => {
  expect(read("src/native/abi.ts")).toBe(generate());
});

test("the bus shows every counter of slotbus.h, and no function of it serves tests alone", () => {
  const shown = Object.values(COUNTERS).map(([index]) => Number(index));
  const byNumber = (a: number, b: number): number => a - b;
  expect(tableOf("SB_COUNTERS").map(({ value }) => value)).toEqual(shown.sort(byNumber));
  // What a worker in C calls (test/fixtures/null-worker.c), and a client in C that makes workers stamp their claims.
  const forC = /^sb_(service_\w+|call_\w+|slot_(claim_delay|round_trip)|name_check)$/;
  const sources = files("src", ".ts").filter((file) => !file.endsWith("abi.ts"));
  const used = sources.map(read).join("\n");
  const functions = [...read("csrc/slotbus.h").matchAll(/SB_API[^;]*?\b(sb_\w+)\(/g)].map(([, name]) => name!);
  expect(functions.length).toBeGreaterThan(50);
  const idle = functions.filter((name) => !forC.test(name) && !new RegExp(`\\b${name}\\b`).test(used));
  expect(idle).toEqual([]);
});

test("the table of states in protocol.md equals the table in slotbus.h", () => {
  const states = tableOf("SB_STATES");
  expect(states.length).toBe(7);
  const rows = states.map(({ name, value, text }) => `| ${name.replace("SB_", "")} | ${value} | ${text} |`);
  expect(read("docs/protocol.md")).toContain(rows.join("\n"));
});

test("every transition that protocol.md names belongs to a function of slotbus.h", () => {
  const header = read("csrc/slotbus.h");
  const named = [...read("docs/protocol.md").matchAll(/`(sb_\w+)`/g)].map((match) => match[1]!);
  expect(named.length).toBeGreaterThan(5);
  for (const name of named) expect(header).toContain(`${name}(`);
});

test("examples are complete programs of less than 40 lines", () => {
  const examples = ["ts", "py", "sh"].flatMap((ending) => files("examples", `.${ending}`));
  expect(examples.length).toBeGreaterThan(3);
  // It calls the C library itself.
  for (const file of examples.filter((one) => one !== "examples/python-worker.py"))
    expect(`${file}: ${read(file).split("\n").length < 40}`).toBe(`${file}: true`);
});

/** Files of src below all folders. */
const floor =
  /^src\/(backoff|body|bounded-queue|check|clock|closing|codec|compiled|detach|errors(\/\w+)?|fast-buffer|hold|hot|jsonify|latency|near|options|runner|runtime|runtime-directory)\.ts$/;

/** The package's sources: src, and bench without what a checkout alone runs. */
function packedSources(): string[] {
  return [...files("src", ".ts"), ...files("bench", ".ts").filter((file) => !/^bench\/(?:dev|rivals)\//.test(file))];
}

/** The part a file belongs to: its folder of src, the ground floor, `bench`, or `.` for the rest of src itself. */
function roomOf(file: string): string {
  if (file.startsWith("bench/")) return "bench";
  if (floor.test(file)) return "floor";
  return dirname(file) === "src" ? "." : file.split("/")[1]!;
}

/** Parts that each part may import from, even for types only. */
const mayImport: Record<string, string[]> = {
  floor: [],
  native: [],
  bus: ["native"],
  nats: ["bus"],
  wires: ["bus", "nats", "native"],
  contract: ["bus"],
  supervisor: ["native"],
  ".": ["bus", "contract", "native", "stdio", "supervisor", "wires"],
  fleet: ["native", "nats"],
  events: ["fleet", "native", "nats"],
  contest: ["fleet", "native", "nats"],
  hub: ["bus", "contest", "fleet", "native", "wires", "."],
  pool: ["bus", "supervisor", "."],
  stdio: ["supervisor"],
  cli: ["bench", "bus", "contest", "events", "fleet", "hub", "native", "nats", "stdio", "supervisor", "wires", "."],
  bench: ["cli", "contest", "events", "fleet", "native", "nats", "pool", "stdio", "."],
};

/** The only files of `native` that some folders may import: they have no bun:ffi. */
const ofNative: Record<string, string[]> = {
  bus: ["abi.ts", "statistics.ts"],
  supervisor: ["find.ts"],
  hub: ["directory.ts"],
};

/** The only files of `cli` that `bench` may import. */
const ofCli = ["terminal.ts", "usage.ts"];

/** Files that a file imports, even for types only. */
function importsOf(file: string): string[] {
  const found = read(file).matchAll(/(?:^(?:import|export) [^;]*?from |\b(?:import|require)\()"(\.[^"]+\.ts)"/gm);
  return [...found].map(([, target]) => join(dirname(file), target!));
}

/** Pairs of files that import each other in a circle. */
function circlesOf(graph: ReadonlyMap<string, readonly string[]>): [string, string][] {
  const reach = (from: string, seen = new Set<string>()): Set<string> => {
    for (const next of graph.get(from) ?? []) if (!seen.has(next)) reach(next, seen.add(next));
    return seen;
  };
  const reached = new Map([...graph.keys()].map((file) => [file, reach(file)]));
  return [...reached].flatMap(([file, others]) =>
    [...others]
      .filter((other) => other !== file && reached.get(other)?.has(file))
      .map((other): [string, string] => [file, other]),
  );
}

test("files of the package do not import each other in a circle, not even for types", () => {
  const graph = new Map(packedSources().map((file) => [file, importsOf(file)]));
  expect(circlesOf(graph)).toEqual([]);
  // The search finds a circle.
  const [first, second] = ["src/bus/exchange.ts", "src/bus/wire.ts"];
  expect(graph.get(second)).toContain(first);
  graph.set(first, [...graph.get(first)!, second]);
  expect(circlesOf(graph)).toContainEqual([first, second]);
});

test("imports of the package point one way: from the rest to fleet and to bus, then native, then the ground floor", () => {
  const seen = new Map<string, number>();
  for (const file of packedSources()) {
    const from = roomOf(file);
    for (const path of importsOf(file)) {
      const to = roomOf(path);
      seen.set(from, (seen.get(from) ?? 0) + 1);
      if (to === from || to === "floor") continue;
      expect(`${file} imports ${path}: ${mayImport[from]?.includes(to)}`).toBe(`${file} imports ${path}: true`);
      if (to === "bench") expect(file).toBe("src/cli/bench.ts");
      if (from === "bench" && to === "cli") expect(ofCli).toContain(basename(path));
      if (to === "native" && ofNative[from]) expect(ofNative[from]).toContain(basename(path));
      if (to === "supervisor" || to === "wires") {
        const isAllowed = from !== "." || ["src/slotbus.ts", "src/slot-worker.ts", "src/index.ts"].includes(file);
        expect(`${file} imports ${path}: ${isAllowed}`).toBe(`${file} imports ${path}: true`);
      }
    }
  }
  expect([...seen.keys()].sort()).toEqual(Object.keys(mayImport).sort()); // each was checked
});

test("offsets and native functions appear in src/native only", () => {
  const marks = /\bnative\.sb_|\bFIELDS\b|"bun:ffi"/;
  const users = files("src", ".ts").filter((file) => marks.test(read(file)));
  expect([...new Set(users.map(dirname))]).toEqual(["src/native"]);
});

test("no file of the library is longer than 450 lines, no class of the composition root longer than 350", () => {
  const sources = packedSources().filter((file) => file !== "src/native/abi.ts");
  expect(sources.length).toBeGreaterThan(100);
  for (const file of sources) {
    const lines = read(file).split("\n").length - 1;
    if (lines > 450) throw new Error(`${file} has ${lines} lines`);
  }
  const classes = (read("src/slotbus.ts") + read("src/slot-worker.ts")).match(/^export class [^]*?^\}$/gm) ?? [];
  expect(classes.length).toBe(2);
  for (const one of classes) expect(one.split("\n").length).toBeLessThanOrEqual(350);
});

test("functions in C are shorter than 70 lines, lines shorter than 100 characters", () => {
  const sources = [...files("csrc", ".c"), ...files("csrc", ".h")];
  expect(sources.length).toBeGreaterThan(6);
  for (const file of sources) {
    let opened = 0;
    for (const [index, line] of read(file).split("\n").entries()) {
      const width = line.replaceAll("\t", "    ").length;
      if (width > 100) throw new Error(`${file}:${index + 1} is ${width} wide`);
      if (line === "{") opened = index;
      if (line === "}" && opened > 0 && index - opened >= 70) throw new Error(`${file}:${opened} is too long`);
    }
  }
});

/** Calls of functions from one C file to another; the two files of system calls count as one, `os`. */
function callsBetweenFiles(): { from: string; name: string; to: string }[] {
  const sources = files("csrc", ".c").filter((file) => dirname(file) === "csrc"); // the launcher is another program
  const code = sources.map((file) => ({
    file: basename(file).replace(/^os_\w+\.c/, "os"),
    text: read(file).replaceAll(/\/\*[\s\S]*?\*\/|"(?:\\.|[^"\\\n])*"/g, ""),
  }));
  const defined = code.flatMap(({ file, text }) =>
    [...text.matchAll(/^(?!static )[a-z][^;{}=()\n]*\b(\w+)\([^;{}]*\)\n\{$/gm)].map((match) => ({
      to: file,
      name: match[1]!,
    })),
  );
  return code.flatMap(({ file, text }) => {
    const called = new Set([...text.matchAll(/\b(\w+)\(/g)].map((match) => match[1]!));
    return defined.filter(({ name, to }) => to !== file && called.has(name)).map((one) => ({ from: file, ...one }));
  });
}

test("calls between C files go one way, and system calls are at the bottom", () => {
  let calls = callsBetweenFiles();
  expect(calls.length).toBeGreaterThan(150);
  expect([...new Set(calls.filter(({ from }) => from === "os").map(({ to }) => to))]).toEqual(["abi.c"]);
  for (let before = 0; before !== calls.length;) {
    before = calls.length;
    // Drop calls into a file that makes no calls, and calls out of a file that is never called: the rest is a circle.
    const callers = new Set(calls.map(({ from }) => from));
    const callees = new Set(calls.map(({ to }) => to));
    calls = calls.filter(({ from, to }) => callers.has(to) && callees.has(from));
  }
  expect(calls.map(({ from, name, to }) => `${from} calls ${name} of ${to}`)).toEqual([]);
});

test("the sources have no leftovers", () => {
  const sources = [...files("src", ".ts"), ...files("csrc", ".c"), ...files("csrc", ".h"), ...files("test", ".ts")];
  const marks = new RegExp(`\\b(${["TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK"].join("|")})\\b|console\\.log`);
  for (const file of sources) {
    if (file.startsWith("src/cli") || file.startsWith("test/")) continue;
    const found = read(file)
      .split("\n")
      .filter((line) => marks.test(line) && !line.trimStart().startsWith("*"));
    expect(`${file}: ${found.join()}`).toBe(`${file}: `);
  }
});

test("the packed package does not warn npm under Node 20", async () => {
  const { dependencies } = (await Bun.file(join(root, "package.json")).json()) as { dependencies: object };
  type Lock = { packages: Record<string, { engines?: { node?: string }; dependencies?: object }> };
  const { packages } = (await Bun.file(join(root, "package-lock.json")).json()) as Lock;
  for (const name of Object.keys(dependencies)) {
    const { engines, dependencies: others } = packages[`node_modules/${name}`]!;
    const isFine = Bun.semver.satisfies("20.19.0", engines?.node ?? "*");
    expect([name, isFine, others]).toEqual([name, true, undefined]);
  }
});
