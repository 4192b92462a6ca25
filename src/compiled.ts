/**
 * Workers of a program that `bun build --compile` made. Its other entries are in the program, where only the program itself can run
 * them: a bus starts the program once more and names the entry. That process runs the entry here, instead of the main file, which
 * ends with an exception as soon as it imports slotbus.
 */

import { existsSync } from "node:fs";
import { resolve } from "node:path";
import { InvalidConfigError } from "./errors.ts";

/** Folder of the entries of a compiled program. */
const ROOT = "/$bunfs/root/";

/** Set in the environment of a worker that is an entry of this program. */
export const ENTRY_VARIABLE = "SLOTBUS_ENTRY";

/** Finds an entry of the program, however its file was called in the source. */
function findEntry(given: string): string {
  const name = resolve(ROOT, given).replace(/^\/(\$bunfs\/(root\/)?)?/, "");
  const path = `${ROOT}${name.replace(/\.[cm]?[jt]sx?$/, "")}.js`;
  if (existsSync(path)) return path;
  throw new InvalidConfigError(
    `workers.entry is "${given}"; this program was compiled without it (it has no ${path}).`,
    {
      hint: 'Name the file in the build, as in `bun build --compile main.ts worker.ts`, and here as `import.meta.resolve("./worker.ts")`.',
    },
  );
}

/** Runs the entry that a bus started this process for, if it did. */
function becomeWorker(): void {
  const entry = process.env[ENTRY_VARIABLE];
  if (!entry?.startsWith(ROOT) || process.argv[2] !== entry) return;
  if (import.meta.path !== Bun.main) {
    throw new InvalidConfigError("A compiled program runs workers only if slotbus is in its main file.", {
      hint: "Compile it without `--splitting` and `--external`.",
    });
  }
  delete process.env[ENTRY_VARIABLE];
  process.argv.splice(1, 1); // what `bun worker.ts` has
  const end = new Error("This process is a worker: it runs no more of the program's main file.");
  process.setUncaughtExceptionCaptureCallback((error) => {
    process.setUncaughtExceptionCaptureCallback(null);
    if (error !== end) queueMicrotask(() => Promise.reject(error));
  });
  void import(entry);
  throw end;
}

const isCompiled = Bun.main.startsWith(ROOT);
if (isCompiled) becomeWorker();

/** Finds an entry of this program; `null` where Bun runs files. */
export const findEmbedded = isCompiled ? findEntry : null;
