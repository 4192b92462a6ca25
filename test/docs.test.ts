/** What the documents say is so: generated tables, limits, figures, links, and programs that run. */

import { expect, test } from "bun:test";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { errorRows, generateOperations } from "../docs/errors.ts";
import { EXIT } from "../src/cli/usage.ts";
import * as errors from "../src/errors.ts";
import { CODES } from "../src/errors/codes.ts";
import { C } from "../src/native/abi.ts";

const root = resolve(import.meta.dir, "..");

function read(file: string): string {
  return readFileSync(join(root, file), "utf8");
}

const guides = readdirSync(join(root, "docs")).filter((file) => file.endsWith(".md"));
const top = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "bench/RESULTS.md"];
const pages = [...top, ...guides.map((file) => `docs/${file}`)];

/** The blocks of a page that are in that language. */
function blocks(page: string, language: string): string[] {
  return [...read(page).matchAll(new RegExp(`^\`\`\`${language}\\n([\\s\\S]*?)^\`\`\``, "gm"))].map(
    (match) => match[1]!,
  );
}

/** Rows of a table whose first row of cells is `head`. */
function tableBelow(text: string, head: string): string[][] {
  const lines = text.slice(text.indexOf(head)).split("\n").slice(2);
  const end = lines.findIndex((line) => !line.startsWith("|"));
  return lines.slice(0, end).map((line) =>
    line
      .split("|")
      .slice(1, -1)
      .map((cell) => cell.trim()),
  );
}

test("the table of errors in operations.md is what src/errors.ts generates today", () => {
  expect(read("docs/operations.md")).toBe(generateOperations());
});

test("the table of errors has every class that is exported and every code without one", () => {
  const all = errorRows();
  const rows = new Map(all.map((row) => [row.name, row]));
  const names = Object.entries(errors)
    .filter(([, value]) => value.prototype instanceof errors.SlotbusError)
    .map(([name]) => name);
  expect(names.length).toBeGreaterThan(25);
  expect([...rows.keys()].sort()).toEqual([...names, "SlotbusError"].sort());
  expect(all.filter(({ name }) => name === "SlotbusError").map(({ code }) => code)).toEqual(
    Object.keys(CODES).map((code) => `\`${code}\``),
  );
  const made = [
    new errors.BusExistsError("shop", 7),
    new errors.StreamTimeoutError("1", "idle", 5, 0),
    new errors.RpcError(-32_601, "no such method"),
  ];
  const says = (value: boolean) => (value ? "yes" : "no");
  for (const { name, code, retryable } of made)
    expect(rows.get(name)).toMatchObject({ code: `\`${code}\``, retryable: says(retryable) });
  for (const [code, { retryable }] of Object.entries(CODES)) {
    const row = all.find((one) => one.code === `\`${code}\``);
    expect([code, row?.retryable]).toEqual([code, says(new errors.SlotbusError(code, "x").retryable)]);
    expect(says(retryable)).toBe(row!.retryable);
  }
});

test("the message of an error has its hint once", () => {
  const error = new errors.BusNotFoundError("shop", "/tmp", 5);
  expect(error.message.split(error.hint!).length).toBe(2);
});

test("the exit codes in operations.md are those of the command", () => {
  const rows = tableBelow(read("docs/operations.md"), "| code | meaning |");
  expect(rows.map(([code]) => Number(code))).toEqual(Object.values(EXIT));
});

test("the limits in operations.md are those of slotbus.h", () => {
  const page = read("docs/operations.md");
  expect(page).toContain(`| slots per worker | 32 | 1 to ${C.SB_SLOTS_MAX} |`);
  expect(page).toContain(`1 B to ${C.SB_PAYLOAD_MAX / 2 ** 30} GiB |`);
  expect(page).toContain(`${C.SB_HEAD_MIN / 2 ** 10} KiB to ${C.SB_HEAD_MAX / 2 ** 20} MiB |`);
  expect(page).toContain(`| workers of one bus | | ${C.SB_LINKS_MAX} |`);
  expect(page).toContain(`| name | | 1 to ${C.SB_NAME_MAX} of`);
  expect(page).toContain(`${C.SB_WARM_BYTES / 2 ** 20} MiB per worker`);
});

test("every TypeScript block of the README is the beginning of an example that examples.test.ts runs", () => {
  const examples = readdirSync(join(root, "examples")).map((file) => read(`examples/${file}`));
  const shown = blocks("README.md", "ts");
  expect(shown.length).toBeGreaterThan(6);
  for (const block of shown) expect(examples.some((text) => text.startsWith(block)) || block).toBe(true);
  // Whoever copies the first two has a program that runs.
  expect(read("examples/worker.ts")).toBe(shown[0]!);
  expect(read("examples/client.ts")).toStartWith(shown[1]!);
});

test("the program of the page on stdio for the Model Context Protocol is the example that examples.test.ts runs", () => {
  expect(blocks("docs/stdio.md", "ts")).toContain(read("examples/mcp.ts"));
});

test("TypeScript and C blocks of the other pages can be parsed, and name what the package exports", async () => {
  const parser = new Bun.Transpiler({ loader: "ts" });
  const header = read("csrc/slotbus.h");
  let seen = 0;
  for (const page of pages) {
    for (const block of blocks(page, "ts")) {
      seen++;
      expect(() =>
        parser.transformSync(`async function page() {${block.replaceAll(/^import .*/gm, "")}}`),
      ).not.toThrow();
      for (const [, names, entry] of block.matchAll(/^import \{ (.*) \} from "slotbus(.*)";/gm)) {
        const source = (await import("../package.json")).default.exports[`.${entry}` as "."];
        const module = (await import(join(root, source))) as object;
        expect(Object.keys(module)).toEqual(expect.arrayContaining(names!.split(", ")));
      }
    }
    for (const block of blocks(page, "c"))
      for (const [, name] of block.matchAll(/\b(sb_\w+)\(/g)) expect(header).toContain(`${name}(`);
  }
  expect(seen).toBeGreaterThan(12);
});

test("the figures in the README are those of bench/RESULTS.md", () => {
  const results = read("bench/RESULTS.md");
  const measured = (section: string, system: string, column: string): number => {
    const part = results.slice(results.indexOf(`\n## ${section}`));
    const [head = ""] = /^\| system.*$/m.exec(part) ?? [];
    const index = head.split("|").findIndex((cell) => cell.trim() === column) - 1;
    const row = tableBelow(part, head).find(([name]) => name === system);
    return Number(row?.[index]?.replaceAll(" ", ""));
  };
  const systems = ["slotbus", "unix-socket", "bun-ipc", "fetch-unix"];
  const lines: Record<string, [section: string, column: string]> = {
    "round trip 64 B, p50": ["Round trip, 64 B", "p50"],
    "round trip 64 KiB, p50": ["Round trip, 64 KiB", "p50"],
    "round trip 1 MiB, p50": ["Round trip, 1 MiB", "p50"],
    "32 in flight, 64 B, requests/s": ["32 in flight, 64 B", "requests/s"],
    "one request each millisecond, p50": ["Sparse", "p50"],
  };
  const rows = tableBelow(read("README.md"), "| | slotbus | raw unix socket");
  expect(rows.map(([what]) => what)).toEqual(Object.keys(lines));
  for (const [what, ...cells] of rows) {
    for (const [index, cell] of cells.entries()) {
      const shown = Number(cell.replace(" µs", "").replaceAll(" ", ""));
      const [section, column] = lines[what!]!;
      const ratio = shown / measured(section, systems[index]!, column);
      expect(`${what}, ${systems[index]}: ${ratio > 0.98 && ratio < 1.02}`).toBe(`${what}, ${systems[index]}: true`);
    }
  }
  for (const [system, , , , , figure = ""] of tableBelow(read("README.md"), "| | requests and answers")) {
    const names: Record<string, string> = {
      "**slotbus**": "slotbus",
      "unix socket": "unix-socket",
      "`Bun.spawn` ipc": "bun-ipc",
      "HTTP on a unix socket": "fetch-unix",
      "Worker `postMessage`": "worker-postmessage",
    };
    const name = names[system!];
    if (name === undefined) expect(figure).toBe("not measured");
    else expect(Math.abs(Number.parseFloat(figure) / measured("Round trip, 64 B", name, "p50") - 1)).toBeLessThan(0.02);
  }
});

/** Anchors that a page has, as they are made of its headings. */
function anchors(page: string): string[] {
  return [...read(page).matchAll(/^#+ (.*)$/gm)].map(([, heading]) =>
    heading!
      .toLowerCase()
      .replaceAll(/[^\w -]/g, "")
      .replaceAll(" ", "-"),
  );
}

test("links between pages lead to files and headings that are there", () => {
  let seen = 0;
  for (const page of pages) {
    for (const [, target] of read(page).matchAll(/\]\((?!https?:)([^)\s]+)\)/g)) {
      seen++;
      const [path = "", anchor] = target!.split("#");
      const file = path === "" ? page : join(dirname(page), path);
      expect(`${page} → ${target}: ${existsSync(join(root, file))}`).toBe(`${page} → ${target}: true`);
      if (anchor !== undefined)
        expect(`${page} → ${target}: ${anchors(file).includes(anchor)}`).toBe(`${page} → ${target}: true`);
    }
  }
  expect(seen).toBeGreaterThan(30);
});

test("files that the pages for contributors name are there", () => {
  const named = ["CONTRIBUTING.md", "docs/architecture.md"].flatMap((page) =>
    [...read(page).matchAll(/`((?:src|csrc|test|docs|bench)\/[\w./-]+)`/g)].map(([, path]) => path!),
  );
  // In the table of files a name alone is of the folder that was named before it.
  const rows = [...read("docs/architecture.md").matchAll(/^\| `((?:src|csrc)\/[\w/-]+\/)[\w.-]+`(, [^|]*) \|/gm)];
  for (const [, folder, more] of rows)
    for (const [, file] of more!.matchAll(/`([\w-]+\.\w+)`/g)) named.push(folder! + file!);
  expect(named.length).toBeGreaterThan(150);
  const missing = named.filter((path) => !path.includes("NAME") && !existsSync(join(root, path)));
  expect(missing).toEqual([]);
});

test("lines of prose have at most 130 characters", () => {
  for (const page of [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    ...["architecture", "api", "operations", "bus", "fleet", "stdio", "hub"].map((name) => `docs/${name}.md`),
  ]) {
    let isCode = false;
    for (const [index, line] of read(page).split("\n").entries()) {
      if (line.startsWith("```")) isCode = !isCode;
      if (isCode || line.startsWith("|")) continue;
      expect(`${page}:${index + 1} is ${line.length > 130 ? "too long" : "short"}`).toBe(
        `${page}:${index + 1} is short`,
      );
    }
  }
});
