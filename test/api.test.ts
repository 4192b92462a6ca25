/** docs/api.md is the public API: it lists every export and every option, with their real defaults and ranges. */

import { expect, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import manifest from "../package.json";
import * as errors from "../src/errors.ts";
import { Options, type Rows } from "../src/options.ts";
import { linesOf } from "./option-lines.ts";

const root = resolve(import.meta.dir, "..");
const page = readFileSync(join(root, "docs/api.md"), "utf8");

/** Rows of a section's tables, by their first cell. */
function tablesOf(section: string): Map<string, string[]> {
  const rows = new Map<string, string[]>();
  for (const line of section.split("\n")) {
    if (!line.startsWith("| `")) continue;
    const [name = "", ...cells] = line
      .slice(1, -1)
      .split(" | ")
      .map((cell) => cell.trim());
    rows.set(name.replaceAll("`", ""), cells);
  }
  return rows;
}

/** Sections of the page by their heading. */
const sections = new Map(
  page.split(/^#{2,3} /m).map((section) => [section.slice(0, section.indexOf("\n")), section] as const),
);

/** Where docs/api.md lists the options of each table: file and name, heading, prefix of the names there. */
const places: readonly (readonly [table: string, heading: string, prefix?: string])[] = [
  ["closing.ts drainOptions", "`drain` and `close`", "drain."],
  ["closing.ts closeOptions", "`drain` and `close`", "close."],
  ["closing.ts poolCloseOptions", "`drain` and `close`", "pool.close."],
  ["bus/options.ts busOptions", "`SlotBus.create`"],
  ["bus/options.ts readyOptions", "`bus.ready`, `worker.serve`, `chunks`"],
  ["bus/worker-options.ts serveOptions", "`bus.ready`, `worker.serve`, `chunks`"],
  ["bus/body-reader.ts chunkOptions", "`bus.ready`, `worker.serve`, `chunks`"],
  ["supervisor/workers.ts workersOptions", "`workers` of `SlotBus.create`"],
  ["bus/worker-options.ts workerOptions", "`SlotWorker.open`"],
  ["bus/call.ts requestOptions", "`bus.request`, `borrow`, `stream`, `fetch`, and calls of a contract"],
  ["contract/contract.ts contractOptions", "`contract`, `rpc`, `stream`"],
  ["contract/contract.ts methodOptions", "`contract`, `rpc`, `stream`"],
  ["fleet/options.ts fleetOptions", "`Fleet.join` and `Fleet.observe`"],
  ["fleet/options.ts fleetObserveOptions", "`Fleet.join` and `Fleet.observe`"],
  ["fleet/options.ts ringOptions", "`Fleet.join` and `Fleet.observe`", "rings.NAME."],
  ["fleet/options.ts cursorOptions", "`ring.cursor`, `ring.publish`"],
  ["fleet/options.ts ringPublishOptions", "`ring.cursor`, `ring.publish`"],
  ["events/options.ts eventBusOptions", "`EventBus.open`, `EventBus.local`, `publish`, `subscribe`, `bind`"],
  ["events/options.ts localBusOptions", "`EventBus.open`, `EventBus.local`, `publish`, `subscribe`, `bind`"],
  ["events/options.ts publishOptions", "`EventBus.open`, `EventBus.local`, `publish`, `subscribe`, `bind`"],
  ["events/options.ts subscribeOptions", "`EventBus.open`, `EventBus.local`, `publish`, `subscribe`, `bind`"],
  ["events/options.ts bindOptions", "`EventBus.open`, `EventBus.local`, `publish`, `subscribe`, `bind`", "bind."],
  ["contest/options.ts contestOptions", "`Contest.open`, `claim`, `tryClaim`, `watch`, `adopt`, `release`, `Fence`"],
  ["contest/options.ts tryClaimOptions", "`Contest.open`, `claim`, `tryClaim`, `watch`, `adopt`, `release`, `Fence`"],
  ["contest/options.ts claimOptions", "`Contest.open`, `claim`, `tryClaim`, `watch`, `adopt`, `release`, `Fence`"],
  ["contest/options.ts watchOptions", "`Contest.open`, `claim`, `tryClaim`, `watch`, `adopt`, `release`, `Fence`"],
  [
    "contest/options.ts adoptOptions",
    "`Contest.open`, `claim`, `tryClaim`, `watch`, `adopt`, `release`, `Fence`",
    "adopt.",
  ],
  ["contest/options.ts releaseOptions", "`Contest.open`, `claim`, `tryClaim`, `watch`, `adopt`, `release`, `Fence`"],
  ["contest/options.ts fenceOptions", "`Contest.open`, `claim`, `tryClaim`, `watch`, `adopt`, `release`, `Fence`"],
  ["hub/options.ts hubOptions", "`Hub.start`"],
  ["hub/limits.ts routeLimitOptions", "`limit`"],
  ["hub/options.ts hubWorkerOptions", "`HubWorker.start`"],
  ["stdio/options.ts stdioOptions", "`StdioBus.start`"],
  ["stdio/options.ts stdioPoolOptions", "`StdioBus.start`"],
  ["stdio/options.ts subscribeOptions", "`bus.request` and `bus.subscribe` of a stdio bus"],
  ["stdio/options.ts notificationOptions", "`bus.request` and `bus.subscribe` of a stdio bus"],
  ["stdio/options.ts stdioServeOptions", "`bus.serve` of a stdio bus, and `serve`"],
  ["pool/options.ts poolOptions", "`Pool.start`"],
  ["serve.ts serveOptions", "`bus.serve` of a stdio bus, and `serve`", "serve."],
  ["supervisor/options.ts poolOptions", "A supervised pool"],
  ["testing.ts crashOptions", "`slotbus/testing`, `slotbus/otel`", "crashWorker."],
  ["testing.ts leakOptions", "`slotbus/testing`, `slotbus/otel`", "assertNoLeaks."],
  ["otel.ts instrumentOptions", "`slotbus/testing`, `slotbus/otel`", "instrument."],
];

/** Options that are also in another section, which lists them in full. */
const shared: Readonly<Record<string, string>> = {
  "`workers` of `SlotBus.create`": "A supervised pool",
  "`StdioBus.start`": "A supervised pool",
  "`Pool.start`": "A supervised pool",
};

interface Described {
  readonly table: string;
  readonly heading: string;
  readonly prefix: string;
  readonly rows: Rows;
}

/** Every table of options in the sources, and the section that describes it. */
async function tables(): Promise<Described[]> {
  const found: Described[] = [];
  const files = readdirSync(join(root, "src"), { recursive: true, encoding: "utf8" }).sort();
  for (const file of files.filter((one) => one.endsWith(".ts") && one !== "options.ts")) {
    const source = readFileSync(join(root, "src", file), "utf8");
    const names = [...source.matchAll(/^(?:export )?const (\w+) = new Options\(/gm)].map(([, name]) => name!);
    if (names.length === 0) continue;
    const module = (await import(join(root, "src", file))) as Record<string, unknown>;
    for (const name of names) {
      const table = `${file} ${name}`;
      const [, heading, prefix = ""] = places.find(([known]) => known === table) ?? [];
      if (heading === undefined) throw new Error(`test/api.test.ts does not say where docs/api.md describes ${table}`);
      if (!sections.has(heading)) throw new Error(`docs/api.md has no section ${heading}`);
      if (!(module[name] instanceof Options)) throw new Error(`${table} is not exported`);
      found.push({ table, heading, prefix, rows: module[name].rows });
    }
  }
  expect(found.map(({ table }) => table).sort()).toEqual(places.map(([table]) => table).sort());
  return found;
}

test("every option of every table is listed with its default and its range", async () => {
  const wrong: string[] = [];
  let listed = 0;
  for (const { heading, prefix, rows } of await tables()) {
    const described = tablesOf(sections.get(heading)!);
    const elsewhere = shared[heading] ? tablesOf(sections.get(shared[heading])!) : new Map<string, string[]>();
    for (const line of linesOf(rows)) {
      const name = prefix + line.name;
      const [fallback, range] = described.get(name) ?? elsewhere.get(name) ?? [];
      const says = (cell: string | undefined, text: string): boolean =>
        cell?.replaceAll("`", "") === text.replaceAll("`", "");
      listed++;
      if (!says(fallback, line.fallback) || !says(range, line.range))
        wrong.push(`${heading}: | \`${name}\` | ${line.fallback} | ${line.range} | (not: ${fallback} | ${range})`);
    }
  }
  expect(wrong).toEqual([]);
  expect(listed).toBeGreaterThan(150);
});

test("every listed option exists", async () => {
  const known = new Map<string, Set<string>>();
  for (const { heading, prefix, rows } of await tables()) {
    const names = known.get(heading) ?? new Set();
    for (const { name } of linesOf(rows)) names.add(prefix + name);
    for (const name of Object.keys(rows)) names.add(prefix + name); // the group itself
    known.set(heading, names);
  }
  for (const [heading, names] of known) {
    const unknown = [...tablesOf(sections.get(heading)!).keys()].filter((option) => !names.has(option));
    expect([heading, unknown]).toEqual([heading, []]);
  }
});

/** Names in a cell. */
function namesIn(cell: string | undefined): string[] {
  return [...(cell ?? "").matchAll(/`(\w+)`/g)].map(([, name]) => name!).sort();
}

/** Values that only tests use: the declarations of the package leave them out. */
function internalOf(file: string): string[] {
  const source = readFileSync(join(root, file), "utf8");
  return [...source.matchAll(/@internal[^\n]*\*\/\nexport (?:const|class|function) (\w+)/g)].map(([, name]) => name!);
}

/** Types that a module exports by name; errors are exported by every entry. */
function typesOf(file: string): string[] {
  const source = readFileSync(join(root, file), "utf8").replaceAll(/\/\*[\s\S]*?\*\//g, "");
  const listed = [...source.matchAll(/^export (type )?\{([^}]*)\}/gm)].flatMap(([, all, names]) =>
    names!
      .split(",")
      .map((name) => name.trim())
      .filter((name) => name !== "" && (all !== undefined || name.startsWith("type ")))
      .map((name) => name.replace(/^type /, "")),
  );
  const declared = [...source.matchAll(/^export (?:interface|type) (\w+)/gm)].map(([, name]) => name!);
  return [...listed, ...declared];
}

test("every export of every entry is listed, and nothing else", async () => {
  const rows = tablesOf(sections.get("Every export")!);
  const entries = Object.entries<string>(manifest.exports).filter(([, file]) => file.endsWith(".ts"));
  expect(rows.size).toBe(entries.length);
  for (const [entry, file] of entries) {
    const name = join("slotbus", entry);
    const module = (await import(join(root, file))) as object;
    const hidden = internalOf(file);
    const values = Object.keys(module).filter((one) => !(one in errors) && !hidden.includes(one));
    const [listedValues, listedTypes] = rows.get(name) ?? [];
    expect([name, values.sort()]).toEqual([name, namesIn(listedValues)]);
    const types = typesOf(file).filter((one) => !(one in errors));
    expect([name, types.sort()]).toEqual([name, namesIn(listedTypes)]);
  }
});

test("every entry exports every error", async () => {
  for (const [entry, file] of Object.entries<string>(manifest.exports)) {
    if (!file.endsWith(".ts")) continue;
    const module = (await import(join(root, file))) as object;
    const missing = Object.keys(errors).filter((name) => !(name in module));
    expect([entry, missing]).toEqual([entry, []]);
  }
});

test("each name in the table of the parts is an export of an entry, or a method of an export", () => {
  const parts = sections.get("The parts side by side")!;
  const thrown = [...parts.matchAll(/`(\w+Error)`/g)].map(([, name]) => name!);
  expect(thrown.length).toBeGreaterThan(25);
  expect(thrown.filter((name) => !(name in errors) && !["LeakError", "handlerError"].includes(name))).toEqual([]);
});
