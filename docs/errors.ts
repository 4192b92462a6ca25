/**
 * Writes the table of all errors in operations.md from `src/errors/`: code and fields from the definition of the error,
 * the cause from its doc comment, the cure from `@cure`.
 *
 *     npm run generate
 */

import { readFileSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
const root = resolve(import.meta.dir, "..");
const page = join(root, "docs/operations.md");

/** A row of the table. */
export interface ErrorRow {
  readonly name: string;
  readonly code: string;
  readonly retryable: string;
  readonly mayHaveExecuted: string;
  readonly cause: string;
  readonly cure: string;
}

/** Returns the value of a field for all errors of a class: `yes`, `no`, or `varies` when it differs between errors. */
function fieldOf(body: string, field: string): string {
  if (new RegExp(`\\b${field}: true`).test(body)) return "yes";
  const isGiven = new RegExp(`\\b${field}: !|[{,]\\s*${field}\\b(?!:)`).test(body);
  return isGiven || /\basGiven\b/.test(body) ? "varies" : "no";
}

/** Returns cause and cure from a doc comment. Throws if one is missing. */
function readComment(name: string, comment: string): { cause: string; cure: string } {
  const text = comment
    .replaceAll(/\n *\* ?/g, " ")
    .replaceAll(/\{@link (\S+)\}/g, "`$1`")
    .trim();
  const [cause = "", cure = ""] = text.split("@cure").map((part) => part.trim());
  if (cause === "" || cure === "") throw new Error(`${name} needs a cause and a @cure in src/errors.`);
  return { cause, cure };
}

/** Returns the rows of all classes in the order of their exports, then of all codes without a class. */
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
    mayHaveExecuted: "varies",
    ...readComment(code, comment),
  }));
  return [...withClass, ...withoutClass];
}

const BEGIN = "<!-- by `npm run generate`, from src/errors.ts -->\n";
const END = "<!-- end of what is generated -->";

/** Returns the text of operations.md with the current table; a test compares it with the file. */
export function generateOperations(): string {
  const text = readFileSync(page, "utf8");
  const [start, end] = [text.indexOf(BEGIN), text.indexOf(END)];
  if (start < 0 || end < start)
    throw new Error("Cannot find the table of errors in docs/operations.md: its comments are missing.");
  const lines = errorRows().map(({ name, code, retryable, mayHaveExecuted, cause, cure }) =>
    ["", `\`${name}\`<br>${code}`, retryable, mayHaveExecuted, cause, cure, ""].join(" | ").trim(),
  );
  const head = "| error, `code` | `retryable` | `mayHaveExecuted` | cause | cure |\n|---|---|---|---|---|\n";
  return `${text.slice(0, start)}${BEGIN}${head}${lines.join("\n")}\n${text.slice(end)}`;
}

if (import.meta.main) writeFileSync(page, generateOperations());
