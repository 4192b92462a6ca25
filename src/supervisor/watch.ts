/** Watches the source of a program: its entry and all imports outside of `node_modules`. */

import { existsSync, type FSWatcher, readFileSync, realpathSync, watch } from "node:fs";
import { dirname, resolve } from "node:path";
import { type Clock, startTimer } from "../clock.ts";

/** Time without changes before files are read, in ms: an editor writes, renames and removes. */
const QUIET_MS = 50;
/** Files that Bun loads as code and that may have imports. */
const CODE = /\.[cm]?[jt]sx?$/;

/** Watches the directories of a program's files, because editors replace files. Does not keep the process alive. */
export class SourceWatch {
  readonly #entry: string;
  readonly #changed: () => void;
  readonly #clock: Clock;
  /** Files of the program, including imported files that do not exist yet. */
  #files = new Set<string>();
  /** Imports of each file when it was last parsed. */
  readonly #imports = new Map<string, readonly string[]>();
  #content = "";
  #watchers: FSWatcher[] = [];
  #isClosed = false;
  #timer: { close(): unknown } | null = null;

  /** Calls `changed` after each change of the files' contents. */
  constructor(entry: string, clock: Clock, changed: () => void) {
    this.#entry = realpathSync(entry);
    this.#changed = changed;
    this.#clock = clock;
    this.#content = this.#scan();
  }

  close(): void {
    this.#isClosed = true;
    this.#timer?.close();
    for (const watcher of this.#watchers.splice(0)) watcher.close();
  }

  /** Finds the files and watches their directories. Returns a digest of their contents. */
  #scan(): string {
    const files = new Set([this.#entry]);
    const old = this.#watchers;
    const watchers = new Map<string, FSWatcher | null>();
    const seen: string[] = [];
    for (const file of files) {
      const directory = existingDirectory(file);
      // Watched before the file is read: no change falls between the two.
      if (!watchers.has(directory)) watchers.set(directory, this.#watch(directory));
      const text = textOf(file);
      seen.push(file, text === null ? "absent" : Bun.hash(text).toString());
      for (const found of this.#importsOf(file, text)) files.add(found);
    }
    this.#files = files;
    this.#watchers = [...watchers.values()].filter((watcher) => watcher !== null);
    for (const watcher of old) watcher.close();
    return seen.join("\n");
  }

  /** Returns the imports of a file; if it cannot be parsed, its earlier imports. */
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
      return null; // the directory was just removed, or the system has no watcher left
    }
  }

  #concerns(path: string): boolean {
    const stem = stemOf(path); // an import may have another extension than its file
    return [...this.#files].some((file) => stemOf(file) === stem || file.startsWith(`${path}/`));
  }

  #await(): void {
    if (this.#isClosed) return;
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

/** Returns the path of an import, also of a relative one that does not exist yet; `null` for a built-in module. */
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
