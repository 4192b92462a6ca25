/**
 * Workers of a program made by `bun build --compile`. Its other entries are inside of the program file, so only the program can
 * run them: the bus starts the program again and passes the entry in the environment. That process runs the entry here, and
 * stops its main file with an exception when it imports slotbus.
 */

import { existsSync } from "node:fs";
import { resolve } from "node:path";
import { InvalidConfigError } from "./errors.ts";
import { isBun } from "./runtime.ts";

/** Folder of the entries in a compiled program. */
const ROOT = "/$bunfs/root/";

/** Environment variable with the entry that a worker of a compiled program runs. */
export const ENTRY_VARIABLE = "SLOTBUS_ENTRY";

/** Returns the path of an entry, given the path of its source file. */
function findEntry(given: string): string {
  const name = resolve(ROOT, given).replace(/^\/(\$bunfs\/(root\/)?)?/, "");
  const path = `${ROOT}${name.replace(/\.[cm]?[jt]sx?$/, "")}.js`;
  if (existsSync(path)) return path;
  throw new InvalidConfigError(`workers.entry is "${given}"; the compiled program does not contain it (${path}).`, {
    hint: 'Add the file to the build, as in `bun build --compile main.ts worker.ts`, and pass `import.meta.resolve("./worker.ts")`.',
  });
}

/** Runs the worker's entry if a bus started this process as a worker. */
function becomeWorker(): void {
  const entry = process.env[ENTRY_VARIABLE];
  if (!entry?.startsWith(ROOT) || process.argv[2] !== entry) return;
  if (import.meta.path !== Bun.main) {
    throw new InvalidConfigError("A compiled program can only run workers if slotbus is bundled in its main file.", {
      hint: "Compile it without `--splitting` and `--external`.",
    });
  }
  delete process.env[ENTRY_VARIABLE];
  process.argv.splice(1, 1); // now as for `bun worker.ts`
  const end = new Error("This process is a worker: it does not run the rest of the program's main file.");
  process.setUncaughtExceptionCaptureCallback((error) => {
    process.setUncaughtExceptionCaptureCallback(null);
    if (error !== end) queueMicrotask(() => Promise.reject(error));
  });
  void import(entry);
  throw end;
}

const isCompiled = isBun && Bun.main.startsWith(ROOT);
if (isCompiled) becomeWorker();

/** Finds an entry of this program; `null` if the program is not compiled. */
export const findEmbedded = isCompiled ? findEntry : null;
