/** The pages of the site: which file of the repository each one is, and where its links lead. */

import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";

export const root = resolve(import.meta.dirname, "../..");

/** Groups of the side bar: pages in the order in which a reader needs them, by their paths in the repository. */
export const groups: Readonly<Record<string, readonly string[]>> = {
  Start: ["docs/getting-started.md", "docs/recipes.md", "docs/comparison.md", "bench/RESULTS.md"],
  Parts: [
    "docs/bus.md",
    "docs/many-servers.md",
    "docs/pool.md",
    "docs/streams.md",
    "docs/wires.md",
    "docs/contracts.md",
    "docs/events.md",
    "docs/claims.md",
    "docs/hub.md",
    "docs/hub-network.md",
    "docs/hub-processes.md",
    "docs/stdio.md",
    "docs/testing.md",
  ],
  Operate: ["docs/deployment.md", "docs/operations.md", "SECURITY.md", "docs/reliability.md", "docs/versions.md"],
  Inside: ["docs/architecture.md", "docs/protocol.md", "bench/README.md", "CHANGELOG.md", "CONTRIBUTING.md"],
  Reference: ["docs/api.md"],
};

/** Addresses of pages that are not named like their file. */
const renamed: Readonly<Record<string, string>> = {
  "README.md": "index",
  "bench/README.md": "bench",
  "bench/RESULTS.md": "results",
};

/** Address of a page without the leading slash: `docs/hub.md` is `hub`. */
export function addressOf(file: string): string {
  return renamed[file] ?? file.replace(/^.*\//, "").replace(/\.md$/, "").toLowerCase();
}

/** Files of the repository that are pages, README.md first. Throws if a page of docs/ is in no group. */
export function pageFiles(): string[] {
  const listed = ["README.md", ...Object.values(groups).flat()];
  const guides = readdirSync(join(root, "docs")).filter((file) => file.endsWith(".md"));
  const missing = guides.map((file) => `docs/${file}`).filter((file) => !listed.includes(file));
  if (missing.length > 0)
    throw new Error(`The site lacks ${missing.join(", ")}. Add each to a group in docs/site/pages.ts.`);
  return listed;
}

export function read(file: string): string {
  return readFileSync(join(root, file), "utf8");
}

/** First heading of a page. */
export function titleOf(file: string): string {
  return /^# (.*)$/m.exec(read(file))?.[1] ?? file;
}

/** Anchor of a heading, by the rule of GitHub, which the pages' links follow. */
export function slugOf(heading: string): string {
  return heading
    .toLowerCase()
    .replaceAll(/[^\w -]/g, "")
    .replaceAll(" ", "-");
}

/** Programs of examples/, by file name. */
export function examples(): string[] {
  return readdirSync(join(root, "examples")).sort();
}

/** A page that shows every program of examples/. */
export function examplesPage(): string {
  const parts = examples().map((file) => {
    const language = file.slice(file.lastIndexOf(".") + 1);
    return `## ${file}\n\n\`\`\`${language}\n${read(`examples/${file}`)}\`\`\`\n`;
  });
  const intro = "Complete programs, which the tests run. In a checkout they are in the folder `examples`.";
  return `# Examples\n\n${intro}\n\n${parts.join("\n")}`;
}

/** Where a link of `file` leads in the site. Adds images to `images`. Throws if the site has no such page. */
function targetOf(file: string, link: string, pages: readonly string[], images: Set<string>): string {
  if (/^(?:[a-z]+:|#)/.test(link)) return link;
  const [path = "", anchor] = link.split("#");
  const target = join(dirname(file), path);
  if (/\.(?:svg|png)$/.test(target)) {
    images.add(target);
    return `/${target}`;
  }
  if (target === "examples") return "/examples";
  if (dirname(target) === "examples") return `/examples#${slugOf(target.slice("examples/".length))}`;
  if (target === "test/README.md") return "/contributing";
  if (!pages.includes(target)) throw new Error(`${file} links to ${link}, which is not a page of the site.`);
  return `/${addressOf(target)}${anchor === undefined ? "" : `#${anchor}`}`;
}

/** The text of a page with the links of the site; links in blocks of code stay. Adds images to `images`. */
export function pageText(file: string, pages: readonly string[], images: Set<string>): string {
  let isCode = false;
  return read(file)
    .split("\n")
    .map((line) => {
      if (/^\s*```/.test(line)) isCode = !isCode;
      if (isCode) return line;
      return line.replaceAll(/(\]\()([^()\s]+)(?=\))/g, (_, open: string, link: string) => {
        return open + targetOf(file, link, pages, images);
      });
    })
    .join("\n");
}
