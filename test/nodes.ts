/** The versions of Node that tests run: `SLOTBUS_NODES`, else what `npm run nodes` installed and the machine's own. */

import { existsSync } from "node:fs";
import { join } from "node:path";

/** Oldest version that loads slotbus, as in `engines` of package.json. */
const OLDEST = "22.18.0";

/** Returns the version of a program of Node, like `24.21.0`. */
export function versionOf(path: string): string {
  return Bun.spawnSync([path, "--version"]).stdout.toString().trim().replace("v", "");
}

const given = process.env["SLOTBUS_NODES"]?.split(":");
const folder = join(import.meta.dir, "../zig-out/nodes/node_modules");
const installed = ["node-lts", "node-newest"].map((name) => join(folder, name, "bin/node"));
const own = Bun.which("node");

/** Paths of the programs; empty if no version is new enough. */
export const nodes: readonly string[] = [...(given ?? installed), ...(given || own === null ? [] : [own])].filter(
  (path) => existsSync(path) && Bun.semver.order(versionOf(path), OLDEST) >= 0,
);

if (nodes.length === 0)
  console.warn(`No Node ${OLDEST} or later: its tests do not run. \`npm run nodes\` installs two versions.`);
