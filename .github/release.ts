/**
 * Prints the section of CHANGELOG.md for a tag. Fails when the tag is not the version of package.json, or when the section is
 * missing, empty, or still "(unreleased)".
 *
 *     bun .github/release.ts v0.1.0
 */

import { join } from "node:path";
import { version } from "../package.json";

/** Returns the text below the heading of `release`. @throws {Error} if the changelog has no finished section for it */
export function notesOf(changelog: string, release: string): string {
  const sections = changelog.split(/^## /m).slice(1);
  const section = sections.find((one) => one.split(/\s/, 1)[0] === release);
  if (section === undefined) throw new Error(`CHANGELOG.md has no section "## ${release}".`);
  const [heading = "", ...lines] = section.split("\n");
  if (heading.includes("(unreleased)"))
    throw new Error(`CHANGELOG.md says "${heading}". Replace "(unreleased)" by the date.`);
  const notes = lines.join("\n").trim();
  if (notes === "") throw new Error(`The section "## ${heading}" of CHANGELOG.md is empty.`);
  return `${notes}\n`;
}

/** Returns the version of a tag like `v0.1.0`. @throws {Error} if it is not the version of the package */
export function releaseOf(tag: string, packed: string = version): string {
  if (tag !== `v${packed}`)
    throw new Error(`The tag is "${tag}", and package.json has ${packed}: the tag must be v${packed}.`);
  return packed;
}

if (import.meta.main) {
  const release = releaseOf(process.argv[2] ?? "");
  process.stdout.write(notesOf(await Bun.file(join(import.meta.dir, "../CHANGELOG.md")).text(), release));
}
