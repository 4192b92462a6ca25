/** The programs of docs/recipes.md in a folder, as a user has them. */

import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import manifest from "../package.json";
import { blocksOf, fileOf, root } from "./docs-blocks.ts";
import { Program } from "./program.ts";

/** Packages that the recipes ask the reader to add. */
const ADDED = ["hono", "zod", "@opentelemetry", "@modelcontextprotocol", "@trpc", "sharp", "bullmq", "ioredis"];

export const blocks = blocksOf("docs/recipes.md");

/** What the page shows as the output of a program. */
export function shownOf(file: string): string {
  return blocks.find((block) => fileOf(block) === file)!.output!;
}

export class Recipes implements Disposable {
  readonly folder = mkdtempSync(join(tmpdir(), "slotbus-recipes-"));

  constructor() {
    const modules = join(this.folder, "node_modules");
    mkdirSync(join(this.folder, "run"), { mode: 0o700 });
    mkdirSync(join(modules, ".bin"), { recursive: true });
    symlinkSync(root, join(modules, "slotbus"));
    for (const name of ADDED) symlinkSync(join(root, "node_modules", name), join(modules, name));
    symlinkSync(join(root, manifest.bin.slotbus), join(modules, ".bin/slotbus"));
    for (const block of blocks.filter(({ language }) => language === "ts" || language === "py"))
      writeFileSync(join(this.folder, fileOf(block)!), block.code);
  }

  /** Starts a command in the folder. */
  start(command: string, env: Record<string, string> = {}): Program {
    const bins = [this.folder, root].map((folder) => join(folder, "node_modules/.bin"));
    const path = [...bins, process.env["PATH"]].join(":");
    const all = { PATH: path, SLOTBUS_DIR: join(this.folder, "run"), DB: join(this.folder, "shop.db"), ...env };
    return new Program(["sh", "-c", `cd ${this.folder} && exec ${command}`], all);
  }

  [Symbol.dispose](): void {
    rmSync(this.folder, { recursive: true });
  }
}
