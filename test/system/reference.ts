/** The API reference, generated from the declarations that the package ships. */

import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { entries, makeReference, type Reflection, undocumented } from "../../docs/reference/generate.ts";
import { type Checks, expect, needTool, note, root } from "./checks.ts";

const pages = join(root, "zig-out/reference/html");

/** Whether the page of the entry lists the export. */
function isListed(entry: string, name: string): boolean {
  const page = join(pages, "modules", `${entry.replaceAll("/", "_")}.html`);
  return existsSync(page) && readFileSync(page, "utf8").includes(`>${name}<`);
}

async function everyExportIsInIt(): Promise<void> {
  needTool("npm");
  const started = performance.now();
  const reference = makeReference(); // fails when an export has no doc comment
  note(`generated in ${((performance.now() - started) / 1000).toFixed(1)} s`);
  const modules = new Map((reference.children ?? []).map((module) => [module.name, module]));
  let seen = 0;
  for (const [entry, source] of entries()) {
    const module = modules.get(entry);
    expect(module !== undefined, `there is no page for ${entry}`);
    const documented = new Set((module?.children ?? []).map(({ name }) => name));
    for (const name of Object.keys((await import(join(root, "src", source))) as object)) {
      seen++;
      expect(documented.has(name), `${entry} exports ${name}, which the reference lacks`);
    }
    for (const name of documented) expect(isListed(entry, name), `the page of ${entry} does not list ${name}`);
  }
  note(`${seen} values of ${modules.size} entries`);
  expect(seen > 60, `only ${seen} exports were checked`);
}

/** The search finds exports without a doc comment, and skips references to another entry's exports. */
async function bareExportsAreFound(): Promise<void> {
  const bare: Reflection = { name: "bare", variant: "declaration" };
  const reference: Reflection = {
    name: "slotbus",
    variant: "project",
    children: [
      {
        name: "slotbus/events",
        variant: "declaration",
        children: [
          bare,
          { ...bare, name: "said", comment: {} },
          { ...bare, name: "call", signatures: [{ ...bare, comment: {} }] },
          { ...bare, name: "silent", signatures: [bare] },
          { ...bare, name: "elsewhere", variant: "reference" },
        ],
      },
    ],
  };
  const found = undocumented(reference).join();
  expect(found === "slotbus/events.bare,slotbus/events.silent", `the search found: ${found}`);
}

export const checks: Checks = {
  "the API reference has every export of every entry, each with a doc comment": everyExportIsInIt,
  "an export without a doc comment is found": bareExportsAreFound,
};
