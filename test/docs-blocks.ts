/** Code blocks of the pages, and the declarations that the text around them introduces. */

import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";

export const root = resolve(import.meta.dir, "..");

const guides = readdirSync(join(root, "docs")).filter((file) => file.endsWith(".md"));
const top = [
  "README.md",
  "CHANGELOG.md",
  "CONTRIBUTING.md",
  "SECURITY.md",
  "test/README.md",
  "bench/README.md",
  "bench/RESULTS.md",
];
export const pages = [...top, ...guides.map((file) => `docs/${file}`)].filter((page) => existsSync(join(root, page)));

export interface Block {
  readonly page: string;
  readonly line: number;
  readonly language: string;
  readonly code: string;
  /** Text of the next block, when it shows what this block prints. */
  readonly output: string | null;
}

/** The text of a file of the repository. */
export function read(file: string): string {
  return readFileSync(join(root, file), "utf8");
}

/** Blocks of a page in order; blocks in a list item lose its indentation. */
export function blocksOf(page: string): Block[] {
  const text = read(page);
  const fence = /^( *)```(\w*)\n([\s\S]*?)^\1```$(?:\n\n\1```text\n([\s\S]*?)^\1```$)?/gm;
  return [...text.matchAll(fence)].map(
    ({ index, 1: indent = "", 2: language = "", 3: code = "", 4: output = null }) => ({
      page,
      line: text.slice(0, index).split("\n").length + 1,
      language,
      code: code.replaceAll(new RegExp(`^${indent}`, "gm"), ""),
      output,
    }),
  );
}

/** Commands of a block of shell, with continued lines joined, without comments. */
export function commandsOf({ code }: Block): string[] {
  const lines = code.replaceAll(/\\\n\s*/g, "").split("\n");
  return lines.map((line) => line.replace(/(^|\s)#\s.*$/, "").trim()).filter((line) => line !== "");
}

/** The block's file name, from the comment in its first line: `// shop.ts` or `# /etc/x.service`. */
export function fileOf({ code }: Block): string | null {
  return /^(?:\/\/|#) (\S+\.\w+)(?::.*)?\n/.exec(code)?.[1] ?? null;
}

/** What a page's code uses and its text describes: declarations for blocks that do not have their own. */
const everywhere: Readonly<Record<string, string>> = {
  bus: 'import("slotbus").SlotBus',
  worker: 'import("slotbus").SlotWorker',
  request: 'import("slotbus").WorkerRequest',
  fleet: 'import("slotbus/events").Fleet',
  contest: 'import("slotbus/contest").Contest',
  hub: 'import("slotbus/hub").Hub',
  signal: "AbortSignal",
  traceparent: "string",
  text: "string",
  userId: "string",
  secret: "string",
  question: "string",
  params: "{ id: string }",
  show: "(...values: unknown[]) => void",
};

const given: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  "docs/bus.md": {
    hash: "Bun.CryptoHasher",
    importAll: "(all: unknown) => Promise<void>",
    jobs: "{ order: unknown; done: (result: unknown) => void }[]",
    big: 'import("slotbus").StreamedResponse',
    into: "Uint8Array",
    file: 'import("bun").BunFile',
  },
  "docs/getting-started.md": { shop: 'typeof import("./shop.ts").shop' },
  "docs/streams.md": {
    hash: "Bun.CryptoHasher",
    response: 'import("slotbus").StreamedResponse',
  },
  "docs/stdio.md": {
    bus: 'import("slotbus/stdio").StdioBus',
    askSomebody: "(question: unknown) => Promise<unknown>",
  },
  "docs/events.md": { bus: 'import("slotbus/events").EventBus' },
  "docs/claims.md": {
    sendNextMail: "() => Promise<void>",
    store: "(body: Uint8Array) => { status: number }",
  },
  "CONTRIBUTING.md": { nearest: 'typeof import("../../../src/near.ts").nearest' },
};

/** Types that blocks use without importing them. */
const types: Readonly<Record<string, string>> = {
  WorkerRequest: "slotbus",
  Delivery: "slotbus",
  SlotbusError: "slotbus",
  Carrier: "../../../src/bus/exchange.ts",
  Exchange: "../../../src/bus/exchange.ts",
  Verdict: "../../../src/bus/exchange.ts",
  Departure: "../../../src/bus/wire.ts",
  Claim: "../../../src/bus/claim.ts",
  PlainAnswer: "../../../src/bus/answer.ts",
  Outgoing: "../../../src/bus/body-writer.ts",
};

/** Exports that blocks use without importing them, by entry. */
const exported: Readonly<Record<string, string>> = {
  slotbus: "SlotBus SlotWorker contract rpc stream items typed isContractError drainOnSigterm",
  "slotbus/events": "Fleet EventBus topic and or not equals where",
  "slotbus/contest": "Contest Fence",
  "slotbus/hub": "Hub HubWorker sse",
  "slotbus/stdio": "StdioBus RawStdioBus",
  "slotbus/supervisor": "Supervisor",
  hono: "Hono",
  "slotbus/serve": "serve callBus",
  "slotbus/pool": "Pool task",
  "bun:test": "expect test",
  "slotbus/testing": "TestBus crashWorker fakeClock assertNoLeaks",
};

const KEYWORD = String.raw`(?:export )?(?:declare )?(?:await )?(?:const|let|var|using|async function\*?|function\*?|class|type|interface)`;

/** Whether a block declares or imports a name itself, at its top level. */
function declares(code: string, name: string): boolean {
  const declared = String.raw`^${KEYWORD} (?:[[{][^=]*)?\b${name}\b`;
  return new RegExp(String.raw`${declared}|^import [^;]*\b${name}\b`, "m").test(code);
}

/** Constants of a block that later blocks of its page may use. */
function constantsOf(code: string): string[] {
  return [...code.matchAll(/^(?:const|await using|using) (\w+)\b/gm)].map(([, name]) => name!);
}

/** The block as a module for the compiler: with the names that the page's text or an earlier block introduces. */
function moduleOf({ page, code }: Block, earlier: ReadonlyMap<string, string>): string {
  const lines: string[] = [];
  const add = (name: string, line: string, use = String.raw`(?<!\.)\b${name}\b`): void => {
    if (new RegExp(use).test(code) && !declares(code, name) && !known.has(name)) lines.push(line);
    known.add(name);
  };
  const known = new Set<string>();
  for (const [name, type] of Object.entries(given[page] ?? {})) add(name, `declare const ${name}: ${type};`);
  for (const [name, file] of earlier) add(name, `import { ${name} } from "./${file}";`);
  for (const [name, type] of Object.entries(everywhere)) add(name, `declare const ${name}: ${type};`);
  for (const [name, from] of Object.entries(types)) add(name, `type ${name} = import("${from}").${name};`);
  for (const [entry, names] of Object.entries(exported))
    for (const name of names.split(" "))
      add(
        name,
        `import { ${name} } from "${entry}";`,
        String.raw`(?<![.\w])${name}${/^[a-z]/.test(name) ? String.raw`\(` : String.raw`\b`}`,
      );
  return `${code}\n${lines.join("\n")}\nexport { ${constantsOf(code).join(", ")} };\n`;
}

/** The TypeScript blocks of a page as modules, by file name: the block's own, or one with its line number. */
export function modulesOf(page: string): Map<string, { readonly block: Block; readonly text: string }> {
  const modules = new Map<string, { block: Block; text: string }>();
  const earlier = new Map<string, string>();
  for (const block of blocksOf(page).filter(({ language }) => language === "ts")) {
    const own = fileOf(block);
    const name = own !== null && !own.includes("/") && !modules.has(own) ? own : `line-${block.line}.ts`;
    modules.set(name, { block, text: moduleOf(block, earlier) });
    for (const constant of constantsOf(block.code)) earlier.set(constant, name);
  }
  return modules;
}
