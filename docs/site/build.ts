/**
 * Builds the site: the pages of the repository, the programs of examples/ and the API reference, made by VitePress.
 *
 *     npm run site        installs what is missing, writes zig-out/site/html, prints the path of its first page
 *
 * The site is for the root of a host. `SITE_BASE=/slotbus/ npm run site` makes it for that folder of a host.
 */

import { cpSync, mkdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import manifest from "../../package.json";
import { installPackages, makeReference, run } from "../reference/generate.ts";
import { addressOf, examplesPage, pageFiles, pageText, root } from "./pages.ts";

const place = join(root, "zig-out/site");
const pages = join(place, "pages");

/** Above the README on the first page. */
const hero = `---
layout: home
hero:
  name: ${manifest.name}
  text: Bun processes that work together
  tagline: Calls, events and locks between processes of one machine, in about a microsecond and without a server.
  actions:
    - { text: Getting started, link: /getting-started }
    - { text: Recipes, link: /recipes, theme: alt }
    - { text: Results, link: /results, theme: alt }
---
`;

/** Date of the last commit that changed a file; null outside of a checkout. */
function dateOf(file: string): string | null {
  const git = Bun.spawnSync(["git", "log", "-1", "--format=%cs", "--", file], { cwd: root });
  return git.success ? git.stdout.toString().trim() || null : null;
}

/** Puts a picture of docs/pictures above a part of a page. Throws if the page does not have that text. */
function above(part: string, picture: string, text: string): string {
  if (!text.includes(`\n${part}`))
    throw new Error(`The page has no "${part}", above which docs/site/build.ts puts a picture.`);
  return text.replace(`\n${part}`, `\n${picture}\n\n${part}`);
}

const statusPicture = "![Status page of a hub: rates, latencies, workers and their slots](/docs/pictures/status.png)";
const topPicture = "![slotbus top in a terminal: a hub and its buses](/docs/pictures/top.png)";

/** What pages have in the site only: the package has no pictures. */
const edits: Readonly<Record<string, (text: string) => string>> = {
  "README.md": (text) => {
    const first = /^# .*\n\n.*\n.*\n/; // the title and the first sentences, which the hero has
    return above("## What you can rely on", `${topPicture}\n\n${statusPicture}`, `${hero}${text.replace(first, "")}`);
  },
  "docs/getting-started.md": (text) => above("A *slot* is", topPicture, text),
  "docs/hub.md": (text) => above("**Status page.**", statusPicture, text),
  "bench/RESULTS.md": (text) => {
    const date = dateOf("bench/RESULTS.md");
    return date === null ? text : text.replace(/^# .*\n/, `$&\nLast change of these figures: ${date}.\n`);
  },
};

/** Writes the pages and the images that VitePress reads. */
function writePages(): void {
  const files = pageFiles();
  const images = new Set<string>();
  for (const file of files) {
    const text = pageText(file, files, images);
    writeFileSync(join(pages, `${addressOf(file)}.md`), (edits[file] ?? String)(text));
  }
  writeFileSync(join(pages, "examples.md"), examplesPage());
  cpSync(join(root, "docs/pictures"), join(pages, "public/docs/pictures"), { recursive: true });
  for (const image of images) {
    mkdirSync(join(pages, "public", dirname(image)), { recursive: true });
    cpSync(join(root, image), join(pages, "public", image));
  }
}

/** Builds the site. Returns its folder. */
export function makeSite(): string {
  makeReference();
  rmSync(pages, { recursive: true, force: true });
  mkdirSync(pages, { recursive: true });
  writePages();
  installPackages(import.meta.dir);
  const modules = join(place, "node_modules"); // the pages become modules that import the generator's packages
  rmSync(modules, { force: true });
  symlinkSync(join(import.meta.dir, "node_modules"), modules);
  run([process.execPath, join(import.meta.dir, "node_modules/vitepress/bin/vitepress.js"), "build"], import.meta.dir);
  cpSync(join(root, "zig-out/reference/html"), join(place, "html/reference"), { recursive: true });
  return join(place, "html");
}

if (import.meta.main) process.stdout.write(`${join(makeSite(), "index.html")}\n`);
