/** Tells when the source of a program changed: its entry, and what that imports outside of `node_modules`. */

import { existsSync, type FSWatcher, readFileSync, realpathSync, watch } from "node:fs";
import { dirname, resolve } from "node:path";
import { type Clock, startTimer } from "../clock.ts";

/** How long files must be quiet, in ms: an editor writes, renames and removes. */
const QUIET_MS = 50;
/** What Bun loads as code, and may import more. */
const CODE = /\.[cm]?[jt]sx?$/;

/** Watches the directories of a program's files: editors replace files. It does not keep the process alive. */
export class SourceWatch {
  readonly #entry: string;
  readonly #changed: () => void;
  readonly #clock: Clock;
  /** Files, and paths of imports that lead to none yet. */
  #files = new Set<string>();
  /** What each file imported when it could be read last. */
  readonly #imports = new Map<string, readonly string[]>();
  #content = "";
  #watchers: FSWatcher[] = [];
  #timer: { close(): unknown } | null = null;

  /** Calls `changed` after each change of what the files contain. */
  constructor(entry: string, clock: Clock, changed: () => void) {
    this.#entry = realpathSync(entry);
    this.#changed = changed;
    this.#clock = clock;
    this.#content = this.#scan();
  }

  close(): void {
    this.#timer?.close();
    for (const watcher of this.#watchers.splice(0)) watcher.close();
  }

  /** Finds the files anew and watches their directories; returns what they contain, in short. */
  #scan(): string {
    const files = new Set([this.#entry]);
    const old = this.#watchers;
    const seen: string[] = [];
    for (const file of files) {
      const text = textOf(file);
      seen.push(file, text === null ? "absent" : Bun.hash(text).toString());
      for (const found of this.#importsOf(file, text)) files.add(found);
    }
    this.#files = files;
    const directories = new Set([...files].map(existingDirectory));
    this.#watchers = [...directories].flatMap((directory) => this.#watch(directory) ?? []);
    for (const watcher of old) watcher.close();
    return seen.join("\n");
  }

  /** A file that cannot be parsed imports what it did before. */
  #importsOf(file: string, text: string | null): readonly string[] {
    if (text === null || !CODE.test(file)) return [];
    try {
      const loader = /\.[cm]?ts$/.test(file) ? "ts" : file.endsWith(".tsx") ? "tsx" : "jsx";
      const found = new Bun.Transpiler({ loader }).scanImports(text).map(({ path }) => find(path, dirname(file)));
      const own = found.filter((path) => path !== null && !path.includes("/node_modules/")) as string[];
      this.#imports.set(file, own);
      return own;
    } catch {
      return this.#imports.get(file) ?? [];
    }
  }

  #watch(directory: string): FSWatcher | null {
    try {
      const watcher = watch(directory, { persistent: false }, (_, name) => {
        if (name === null || this.#concerns(resolve(directory, name.toString()))) this.#await();
      });
      return watcher.on("error", () => this.#await());
    } catch {
      return null; // it was removed a moment ago, or no watcher is left
    }
  }

  #concerns(path: string): boolean {
    const stem = stemOf(path); // an import may lead to another ending than it names
    return [...this.#files].some((file) => stemOf(file) === stem || file.startsWith(`${path}/`));
  }

  #await(): void {
    this.#timer?.close();
    this.#timer = startTimer(this.#clock, QUIET_MS, () => {
      const content = this.#scan();
      if (content === this.#content) return;
      this.#content = content;
      this.#changed();
    });
  }
}

function stemOf(file: string): string {
  return file.replace(/\.\w+$/, "");
}

function textOf(file: string): string | null {
  try {
    return readFileSync(file, "utf8");
  } catch {
    return null;
  }
}

/** Path of an import; `null`: it is of Bun. One that leads nowhere yet may be a file that is not written yet. */
function find(path: string, from: string): string | null {
  try {
    const found = Bun.resolveSync(path, from);
    return found.startsWith("/") ? found : null;
  } catch {
    return path.startsWith(".") ? resolve(from, path) : null;
  }
}

function existingDirectory(file: string): string {
  let directory = dirname(file);
  while (!existsSync(directory)) directory = dirname(directory);
  return directory;
}
