/**
 * Writes the table of all errors into operations.md, from `src/errors/`: the code and what describes the error, the cause from
 * the doc comment, the cure from its `@cure`.
 *
 *     npm run generate
 */

import { readFileSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
const root = resolve(import.meta.dir, "..");
const page = join(root, "docs/operations.md");

/** One error, as its row in the table. */
export interface ErrorRow {
  readonly name: string;
  readonly code: string;
  readonly retryable: string;
  readonly mayHaveExecuted: string;
  readonly cause: string;
  readonly cure: string;
}

/** What the description of an error says of a field: always, never, or only the error itself knows. */
function fieldOf(body: string, field: string): string {
  if (new RegExp(`\\b${field}: true`).test(body)) return "yes";
  const isGiven = new RegExp(`\\b${field}: !|[{,]\\s*${field}\\b(?!:)`).test(body);
  return isGiven || /\basGiven\b/.test(body) ? "it says" : "no";
}

/** Cause and cure of an error from its doc comment. Either of them missing is an error. */
function readComment(name: string, comment: string): { cause: string; cure: string } {
  const text = comment
    .replaceAll(/\n *\* ?/g, " ")
    .replaceAll(/\{@link (\S+)\}/g, "`$1`")
    .trim();
  const [cause = "", cure = ""] = text.split("@cure").map((part) => part.trim());
  if (cause === "" || cure === "") throw new Error(`${name} has no cause or no @cure in src/errors.`);
  return { cause, cure };
}

/** Rows in the order of the exports, then those without a class. */
export function errorRows(): ErrorRow[] {
  const read = (file: string): string => readFileSync(join(root, "src", file), "utf8");
  const files = read("errors.ts").matchAll(/"(\.\/errors\/\w+\.ts)"/g);
  const source = [...files].map(([, file]) => read(file!)).join("\n");
  const classes =
    /\/\*\*((?:(?!\*\/)[\s\S])*)\*\/\nexport class (\w+)[^{]* extends (?!Error)([\s\S]*?)(?=\n\n\/\*\*|$)/g;
  const withClass = [...source.matchAll(classes)].map(([, comment = "", name = "", body = ""]) => {
    const { cause, cure } = readComment(name, comment);
    const code = /^define\(\s*"(\w+)"/.exec(body)?.[1];
    return {
      name,
      code: code === undefined ? "the contract's" : `\`${code}\``,
      retryable: fieldOf(body, "retryable"),
      mayHaveExecuted: fieldOf(body, "mayHaveExecuted"),
      cause,
      cure,
    };
  });
  const plain = /\/\*\*((?:(?!\*\/)[\s\S])*)\*\/\n  ([A-Z_]+): \{ retryable: (\w+) \}/g;
  const withoutClass = [...read("errors/codes.ts").matchAll(plain)].map(([, comment = "", code = "", retryable]) => ({
    name: "SlotbusError",
    code: `\`${code}\``,
    retryable: retryable === "true" ? "yes" : "no",
    mayHaveExecuted: "it says",
    ...readComment(code, comment),
  }));
  return [...withClass, ...withoutClass];
}

const BEGIN = "<!-- by `npm run generate`, from src/errors.ts -->\n";
const END = "<!-- end of what is generated -->";

/** The text of operations.md with the table as it is today; a test compares it with the file. */
export function generateOperations(): string {
  const text = readFileSync(page, "utf8");
  const [start, end] = [text.indexOf(BEGIN), text.indexOf(END)];
  if (start < 0 || end < start) throw new Error("docs/operations.md has lost the marks of its table of errors.");
  const lines = errorRows().map(({ name, code, retryable, mayHaveExecuted, cause, cure }) =>
    ["", `\`${name}\`<br>${code}`, retryable, mayHaveExecuted, cause, cure, ""].join(" | ").trim(),
  );
  const head = "| error, `code` | `retryable` | `mayHaveExecuted` | cause | cure |\n|---|---|---|---|---|\n";
  return `${text.slice(0, start)}${BEGIN}${head}${lines.join("\n")}\n${text.slice(end)}`;
}

if (import.meta.main) writeFileSync(page, generateOperations());
