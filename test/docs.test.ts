/** The pages match the code: generated tables, limits, figures and links. Their code blocks compile, or are run by readme.test.ts. */

import { expect, test } from "bun:test";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { errorRows, generateOperations } from "../docs/errors.ts";
import { requestOptions } from "../src/bus/call.ts";
import { busOptions } from "../src/bus/options.ts";
import { workerOptions } from "../src/bus/worker-options.ts";
import { EXIT } from "../src/cli/usage.ts";
import * as errors from "../src/errors.ts";
import { CODES } from "../src/errors/codes.ts";
import { C } from "../src/native/abi.ts";
import { poolOptions } from "../src/supervisor/options.ts";
import { workersOptions } from "../src/supervisor/workers.ts";
import { linesOf } from "./option-lines.ts";
import manifest from "../package.json";
import { type Block, blocksOf, modulesOf, pages, read, root } from "./docs-blocks.ts";
import { proofs } from "./prove/proofs.ts";

/** A call of the command: its name, its command of `events`, `claims` or `bench`, and the rest of the line. */
const COMMAND = /(?<![\w.@-])slotbus ([a-z]+)(?: (tail|ls|release|streams|events|contest|stdio)(?=\s|$))?([^\n#|>]*)/g;

/** Texts of a page's blocks in that language. */
function blocks(page: string, language: string): string[] {
  return blocksOf(page)
    .filter((block) => block.language === language)
    .map(({ code }) => code);
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

test("the table of errors in operations.md is up to date with src/errors.ts", () => {
  expect(read("docs/operations.md")).toBe(generateOperations());
});

test("the table of errors has every exported class and every code without a class", () => {
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

test("operations.md lists the exit codes of the command", () => {
  const rows = tableBelow(read("docs/operations.md"), "| code | meaning |");
  expect(rows.map(([code]) => Number(code))).toEqual(Object.values(EXIT));
});

test("operations.md has the limits of slotbus.h", () => {
  const page = read("docs/operations.md");
  expect(page).toContain(`| slots per worker | 32 | 1 to ${C.SB_SLOTS_MAX} |`);
  expect(page).toContain(`1 B to ${C.SB_PAYLOAD_MAX / 2 ** 30} GiB |`);
  expect(page).toContain(`${C.SB_HEAD_MIN / 2 ** 10} KiB to ${C.SB_HEAD_MAX / 2 ** 20} MiB |`);
  expect(page).toContain(`| workers of one bus | | ${C.SB_LINKS_MAX} |`);
  expect(page).toContain(`| name | | 1 to ${C.SB_NAME_MAX} of`);
  expect(page).toContain(`${C.SB_WARM_BYTES / 2 ** 20} MiB per worker`);
  expect(page).toContain(`prefaults up\nto ${C.SB_WARM_BUDGET / 2 ** 20} MiB for all its pairs`);
});

test("every TypeScript block of the README is part of an example that examples.test.ts runs", () => {
  const examples = readdirSync(join(root, "examples"))
    .filter((file) => file.endsWith(".ts"))
    .map((file) => read(`examples/${file}`));
  const shown = blocks("README.md", "ts");
  expect(shown.length).toBeGreaterThan(1);
  for (const block of shown) expect(examples.some((text) => text.includes(block)) || block).toBe(true);
  // A reader who copies the first two blocks has a program that runs.
  expect(read("examples/worker.ts")).toEndWith(shown[0]!);
  expect(read("examples/client.ts")).toContain(shown[1]!);
});

test("complete programs of the other pages are examples that examples.test.ts runs", () => {
  expect(blocks("docs/stdio.md", "ts")).toContain(read("examples/mcp.ts"));
  expect(blocks("docs/events.md", "ts")[0]).toBe(read("examples/events.ts"));
  expect(blocks("docs/hub-websockets.md", "ts")[0]).toBe(read("examples/hub-chat.ts"));
  expect(blocks("docs/claims.md", "ts")[0]).toBe(read("examples/claim.ts"));
});

test("the first program of the page on testing is the example that examples.test.ts runs", () => {
  expect(blocks("docs/testing.md", "ts")[0]).toBe(read("examples/shop.test.ts"));
});

/** A folder below zig-out, so that the pages' code finds the packages that are installed here. */
function folderFor(name: string): string {
  const folder = join(root, "zig-out", name);
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  return folder;
}

test("TypeScript blocks of all pages compile, with the types of the package", () => {
  const folder = folderFor("docs-blocks");
  const names = new Map<string, Block>();
  for (const page of pages) {
    const folderOfPage = page.replaceAll("/", "-");
    mkdirSync(join(folder, folderOfPage));
    for (const [name, { block, text }] of modulesOf(page)) {
      writeFileSync(join(folder, folderOfPage, name), text);
      names.set(join(folderOfPage, name), block);
    }
  }
  expect(names.size).toBeGreaterThan(25);
  const entries = Object.entries<string>(manifest.exports).filter(([, file]) => file.endsWith(".ts"));
  const paths = Object.fromEntries(entries.map(([entry, file]) => [join("slotbus", entry), [join(root, file)]]));
  const compilerOptions = { paths, noUnusedLocals: false, noUnusedParameters: false, noEmit: true };
  const config = { extends: join(root, "tsconfig.json"), compilerOptions, include: [folder] };
  writeFileSync(join(folder, "tsconfig.json"), JSON.stringify(config));
  const run = Bun.spawnSync([join(root, "node_modules/.bin/tsc"), "-p", folder], { cwd: folder });
  const report = run.stdout.toString().replaceAll(/^(\S+\.ts)\((\d+),(\d+)\)/gm, (all, name: string, line: string) => {
    const block = names.get(name);
    return block ? `${block.page}:${block.line + Number(line) - 1}` : all;
  });
  // A name that the page's text introduces belongs into `given` of test/docs-blocks.ts.
  expect(report).toBe("");
}, 60_000);

test("C blocks compile with the public header", () => {
  const folder = folderFor("docs-c");
  const found = pages.flatMap(blocksOf).filter(({ language }) => language === "c");
  expect(found.length).toBeGreaterThan(0);
  for (const { page, line, code } of found) {
    const wrapped = /^\w[^;]*\)\n\{/m.test(code) ? code : `void page(void)\n{\n${code}}\n`;
    writeFileSync(join(folder, "page.c"), `#include <slotbus.h>\n#include <stddef.h>\n${wrapped}`);
    const zig = join(root, "node_modules/.bin/zig");
    const compile = [zig, "cc", "-std=c11", "-Wall", `-I${join(root, "csrc")}`, "-c", "page.c", "-o", "page.o"];
    const run = Bun.spawnSync(compile, { cwd: folder });
    expect([`${page}:${line}`, run.exitCode, run.stderr.toString()]).toEqual([`${page}:${line}`, 0, ""]);
  }
}, 60_000);

test("JSON blocks can be parsed", () => {
  for (const block of pages.flatMap(blocksOf).filter(({ language }) => language === "json"))
    expect(() => JSON.parse(block.code) as unknown).not.toThrow();
});

test("every option of a bus, a worker and a request is on the page of the bus, with its default", () => {
  const rows = read("docs/bus.md").matchAll(/^\| `([\w.]+)` \| [^|]+ \| ([^|]+) \|/gm);
  const listed = [...rows].map(([, name, fallback]) => `${name}: ${fallback!.replaceAll("`", "")}`);
  const pools = linesOf(poolOptions.rows).map(({ name }) => name);
  const ofWorkers = linesOf(workersOptions.rows).filter(({ name }) => name === "stderr" || !pools.includes(name));
  const all = [busOptions, workerOptions, requestOptions].flatMap((table) => linesOf(table.rows)).concat(ofWorkers);
  expect(all.length).toBeGreaterThan(30);
  expect(listed).toEqual(
    expect.arrayContaining(all.map(({ name, fallback }) => `${name}: ${fallback.replaceAll("`", "")}`)),
  );
});

test.each(["bus", "streams", "pool"])(
  "the program at the top of docs/%s.md prints what the page says",
  async (name) => {
    const directory = mkdtempSync(join(import.meta.dir, ".page-"));
    try {
      for (const block of blocks(`docs/${name}.md`, "ts")) {
        const [, file] = /^\/\/ (\w+\.ts):/.exec(block) ?? [];
        if (file !== undefined) writeFileSync(join(directory, file), block);
      }
      const program = Bun.spawn([process.execPath, "main.ts"], { cwd: directory, stdout: "pipe", stderr: "inherit" });
      expect(await program.stdout.text()).toBe(
        blocksOf(`docs/${name}.md`).find(({ output }) => output !== null)!.output!,
      );
    } finally {
      rmSync(directory, { recursive: true });
    }
  },
);

/** The flags in the help of a command. */
function flagsOf(command: string): Set<string> {
  const cli = Bun.spawnSync([process.execPath, join(root, manifest.bin.slotbus), ...command.split(" "), "--help"]);
  return new Set(cli.stdout.toString().match(/--[\w-]+/g));
}

const LANGUAGES = ["sh", "ini", "dockerfile", "yaml"];

/** Options of `docker run` that a page may name. */
const DOCKER =
  "--init --stop-timeout --memory --ulimit --user -v -e --ipc --network --pid --shm-size --read-only --pids-limit --cpus --rm";

test("shell, systemd and Docker blocks name commands and flags that exist", () => {
  const help = new Map<string, Set<string>>();
  let seen = 0;
  for (const block of pages.flatMap(blocksOf).filter(({ language }) => LANGUAGES.includes(language))) {
    const where = `${block.page}:${block.line}`;
    if (block.language === "sh") {
      const { exitCode, stderr } = Bun.spawnSync(["sh", "-n", "-c", block.code]);
      expect([where, exitCode, stderr.toString()]).toEqual([where, 0, ""]);
    }
    const text = block.code.replaceAll(/",\s*"|\["|"\]/g, " "); // the Dockerfile's list of words
    for (const [, command = "", sub = "", rest = ""] of text.matchAll(COMMAND)) {
      const key = sub === "" ? command : `${command} ${sub}`;
      if (!help.has(key)) help.set(key, flagsOf(key));
      const flags = (rest.match(/(?<= )--[\w-]+/g) ?? []).filter((flag) => !help.get(key)!.has(flag));
      expect([where, key, flags]).toEqual([where, key, []]);
      seen++;
    }
    for (const [, flags = ""] of text.matchAll(/^docker run (.*)$/gm)) {
      const unknown = (flags.match(/(?<=^| )--?\w[\w-]*/g) ?? []).filter((flag) => !DOCKER.split(" ").includes(flag));
      expect([where, unknown]).toEqual([where, []]);
    }
  }
  expect(seen).toBeGreaterThan(15);
}, 60_000);

test("the README and comparison.md have the figures of bench/RESULTS.md", () => {
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
  const compared = tableBelow(read("docs/comparison.md"), "| | requests and responses");
  expect(compared.length).toBeGreaterThan(5);
  for (const [system, , , , , figure = ""] of compared) {
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

test("versions.md says of each entry of the package whether it is stable, and has the numbers of the protocols", () => {
  const page = read("docs/versions.md");
  const rows = tableBelow(page, "| entry | since | state | exceptions |");
  const entries = Object.keys(manifest.exports).filter((entry) => entry !== "./package.json");
  expect(rows.map(([entry]) => entry).toSorted()).toEqual(
    [...entries.map((entry) => `\`${join("slotbus", entry)}\``), "`include/slotbus.h`"].toSorted(),
  );
  for (const [entry, since, state] of rows)
    expect([entry, since, state]).toEqual([entry, "0.1", expect.stringMatching(/^(stable|experimental)$/)]);
  const numbers = new Set(page.match(/(?:bus|fleet) protocol \d+/g));
  expect([...numbers].toSorted()).toEqual([`bus protocol ${C.SB_ABI}`, `fleet protocol ${C.SB_FLEET_ABI}`]);
});

/** Anchors of a page, made from its headings. */
function anchors(page: string): string[] {
  return [...read(page).matchAll(/^#+ (.*)$/gm)].map(([, heading]) =>
    heading!
      .toLowerCase()
      .replaceAll(/[^\w -]/g, "")
      .replaceAll(" ", "-"),
  );
}

test("links between pages lead to files and headings that exist", () => {
  const links = pages.flatMap((page) =>
    [...read(page).matchAll(/\]\((?!https?:)([^)\s]+)\)/g)].map(([, target]) => ({ page, target: target! })),
  );
  expect(links.length).toBeGreaterThan(60);
  const broken = links.filter(({ page, target }) => {
    const [path = "", anchor] = target.split("#");
    const file = path === "" ? page : join(dirname(page), path);
    return !existsSync(join(root, file)) || (anchor !== undefined && !anchors(file).includes(anchor));
  });
  expect(broken.map(({ page, target }) => `${page} → ${target}`)).toEqual([]);
});

test("test/README.md has a row of each proof, and each folder of prove/ is a proof", () => {
  const page = read("test/README.md");
  const rows = tableBelow(page, /^\| proof .*/m.exec(page)![0]).map(([name]) => name!.replaceAll("`", ""));
  expect(rows.toSorted()).toEqual(Object.keys(proofs).sort());
  for (const [name, { program }] of Object.entries(proofs))
    expect(program).toBe(name === "model" ? "test/model/check.ts" : `test/prove/${name}.ts`);
  const entries = readdirSync(join(root, "test/prove"), { withFileTypes: true });
  const folders = entries.filter((entry) => entry.isDirectory()).map(({ name }) => name);
  expect(rows).toEqual(expect.arrayContaining(folders));
});

test("files that the pages for contributors name exist", () => {
  const named = ["CONTRIBUTING.md", "docs/architecture.md", "bench/README.md"].flatMap((page) =>
    [...read(page).matchAll(/`((?:src|csrc|test|docs|bench)\/[\w./-]+)`/g)].map(([, path]) => path!),
  );
  // In the table of files, a bare name belongs to the folder named before it.
  const rows = [...read("docs/architecture.md").matchAll(/^\| `((?:src|csrc)\/[\w/-]+\/)[\w.-]+`(, [^|]*) \|/gm)];
  for (const [, folder, more] of rows)
    for (const [, file] of more!.matchAll(/`([\w-]+\.\w+)`/g)) named.push(folder! + file!);
  expect(named.length).toBeGreaterThan(150);
  const missing = named.filter((path) => !path.includes("NAME") && !existsSync(join(root, path)));
  expect(missing).toEqual([]);
});

test("lines of prose have at most 130 characters", () => {
  const long: string[] = [];
  for (const page of pages.filter((one) => !["SECURITY.md", "bench/RESULTS.md"].includes(one))) {
    let isCode = false;
    for (const [index, line] of read(page).split("\n").entries()) {
      if (line.trimStart().startsWith("```")) isCode = !isCode;
      if (!isCode && !line.startsWith("|") && line.length > 130) long.push(`${page}:${index + 1}`);
    }
  }
  expect(long).toEqual([]);
});
