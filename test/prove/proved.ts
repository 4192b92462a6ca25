/**
 * What was proved, and for which inputs. The inputs of a proof are the library, the proof's own files with all that they name,
 * and the versions of its tools; their hash is in `proved.json` with the date and the figures of a whole run that passed. While
 * the hash stays the same, CI runs only a random sample. A kernel's version is not an input.
 */

import { existsSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";

const checkout = resolve(import.meta.dir, "../..");

/** Smallest part of what is recorded that every run proves again. */
export const SHARE = 0.05;

/** Debian's packages that the proofs and the system checks need (`test/system/install.sh`). */
const PACKAGES =
  "gcc libc6-dev spin strace util-linux binutils musl qemu-user libc6-arm64-cross chromium nginx-light python3 systemd clang libclang-rt-dev";

/** Files below folders, or files, as paths in the checkout; without installed packages. */
export function filesOf(paths: string[], root = checkout): string[] {
  return paths.flatMap((path) => {
    if (!existsSync(join(root, path))) return [];
    if (statSync(join(root, path)).isFile()) return [path];
    const all = readdirSync(join(root, path), { recursive: true, withFileTypes: true });
    const files = all.filter((one) => one.isFile()).map((one) => relative(root, join(one.parentPath, one.name)));
    return files.filter((file) => !file.includes("node_modules/"));
  });
}

/** The record, which is an input of nothing. */
export const PROVED = "test/prove/proved.json";

/** What every proof depends on, besides its own files. */
export const LIBRARY = [
  "src",
  "csrc",
  "build.zig",
  "package.json",
  "package-lock.json",
  "tsconfig.json",
  "bunfig.toml",
];

/** Texts of a program that may be paths of files which it starts, copies or compiles. */
const PATHS = /["'`]([\w./-]+\.(?:ts|mjs|js|c|h|pml|py|sh|html))["'`]/g;

export class Inputs {
  readonly #root: string;
  readonly #named = new Map<string, string[]>();
  readonly #digests = new Map<string, string>();
  readonly #transpiler = new Bun.Transpiler({ loader: "ts" });
  #tools = "";

  constructor(root = checkout) {
    this.#root = root;
  }

  /** The files, and all files that they name directly or indirectly. */
  closure(files: string[]): string[] {
    const found = new Set(files);
    for (const file of found) for (const next of this.#namedBy(file)) found.add(next);
    return [...found].sort();
  }

  /** Hash of the files, of the tools and of `more`. */
  hash(files: Iterable<string>, ...more: string[]): string {
    const hasher = new Bun.CryptoHasher("sha256");
    for (const file of [...new Set(files)].sort()) hasher.update(`${file} ${this.#digest(file)}\n`);
    hasher.update([this.tools, ...more].join("\n"));
    return hasher.digest("hex").slice(0, 20);
  }

  /** Versions of the tools. */
  get tools(): string {
    if (this.#tools === "") {
      const query = ["dpkg-query", "-W", "-f", "${Package} ${Version} ${Status}\n", ...PACKAGES.split(" ")];
      const found = Bun.which("dpkg-query") ? Bun.spawnSync(query, { stderr: "ignore" }).stdout.toString() : "";
      this.#tools = `bun ${Bun.version} ${Bun.revision} ${process.arch}\n${found}`;
    }
    return this.#tools;
  }

  #digest(file: string): string {
    const known = this.#digests.get(file);
    if (known !== undefined) return known;
    const digest = Bun.hash(readFileSync(join(this.#root, file))).toString(36);
    this.#digests.set(file, digest);
    return digest;
  }

  /** Files that a file imports, includes, or names in a text. */
  #namedBy(file: string): string[] {
    const known = this.#named.get(file);
    if (known) return known;
    const names = this.#namesIn(file);
    // A path may be relative to the file, the checkout, or a folder where helpers look for it.
    const bases = [dirname(file), ".", "test", "test/fixtures", "csrc"];
    const paths = names.flatMap((name) => bases.map((base) => join(base, name)));
    const found = [...new Set(paths)].filter((path) => {
      const whole = join(this.#root, path);
      return !path.startsWith("..") && existsSync(whole) && statSync(whole).isFile();
    });
    this.#named.set(file, found);
    return found;
  }

  /** Paths of imports, includes and texts, but not of comments. */
  #namesIn(file: string): string[] {
    if (!/\.(ts|mjs|js|c|h)$/.test(file)) return [];
    const text = readFileSync(join(this.#root, file), "utf8").replace(/^#!.*/, "");
    if (/\.[ch]$/.test(file)) return [...text.matchAll(/^\s*#\s*include "([^"]+)"/gm)].map((match) => match[1]!);
    const code = this.#transpiler.transformSync(text);
    const specifiers = this.#transpiler.scanImports(text).map(({ path }) => this.#ownEntries.get(path) ?? path);
    return [...specifiers, ...[...code.matchAll(PATHS)].map((match) => match[1]!)];
  }

  /** Files of the imports `slotbus`, `slotbus/hub` and so on. */
  get #ownEntries(): Map<string, string> {
    const manifest = join(this.#root, "package.json");
    if (!existsSync(manifest)) return new Map();
    const { exports = {} } = JSON.parse(readFileSync(manifest, "utf8")) as { exports?: { [name: string]: string } };
    return new Map(Object.entries(exports).map(([name, path]) => [join("slotbus", name), path]));
  }
}

export interface ProofProgram {
  /** Path in the checkout. */
  program: string;
  /** Its other files, if it has more than the folder with its name. */
  folders?: string[];
  /**
   * What runs again when nothing changed. `whole`: now and then all of it. `part`: each time a part, with `--sample`. `rules`: it
   * keeps its own record.
   */
  again: "whole" | "part" | "rules";
  /** It does not depend on the library. */
  isApart?: boolean;
  /** It takes too long for CI: `--ci` runs it only when it is named. */
  isLong?: boolean;
}

/** Files on which a proof depends. */
export function inputsOf({ program, folders = [], isApart }: Omit<ProofProgram, "again">, inputs: Inputs): string[] {
  const own = filesOf([program.replace(/\.ts$/, ""), ...folders]);
  return [...inputs.closure([program, ...own]), ...(isApart ? [] : filesOf(LIBRARY))];
}

/** A whole run that passed. */
export interface Proved {
  hash: string;
  /** `2026-11-23` */
  date: string;
  seconds: number;
  figures: string;
}

/** The record in git: one line per proof, group of checks, or rule. */
export class ProvedRecord {
  readonly #file: string;

  constructor(file = join(checkout, PROVED)) {
    this.#file = file;
  }

  /** Returns what was proved for these inputs. */
  find(name: string, hash: string): Proved | undefined {
    const line = this.#read()[name];
    const [, known, date, seconds, figures] = /^(\w+) (\S+) ([\d.]+) s: ([^]*)$/.exec(line ?? "") ?? [];
    return known === hash ? { hash, date: date!, seconds: Number(seconds), figures: figures! } : undefined;
  }

  /** Stores runs that passed, and removes those that failed (`null`). Other lines stay, so two programs can take turns. */
  store(lines: [name: string, proved: Omit<Proved, "date"> | null][]): void {
    const all = this.#read();
    const date = new Date().toISOString().slice(0, 10);
    for (const [name, proved] of lines) {
      if (proved === null) delete all[name];
      else all[name] = `${proved.hash} ${date} ${proved.seconds.toFixed(1)} s: ${proved.figures}`;
    }
    const sorted = Object.fromEntries(Object.entries(all).sort(([a], [b]) => (a < b ? -1 : 1)));
    writeFileSync(this.#file, `${JSON.stringify(sorted, null, 2)}\n`);
  }

  /** Removes lines of a kind, `"rule "`, whose names are not in `names`. */
  keep(kind: string, names: string[]): void {
    const gone = Object.keys(this.#read()).filter((name) => name.startsWith(kind) && !names.includes(name));
    this.store(gone.map((name) => [name, null]));
  }

  #read(): { [name: string]: string } {
    return existsSync(this.#file) ? (JSON.parse(readFileSync(this.#file, "utf8")) as { [name: string]: string }) : {};
  }
}

/** A random part of `all`: at least one, and at least {@link SHARE} of their weight. */
export function sample<T>(all: readonly T[], weight: (one: T) => number = () => 1): T[] {
  const total = all.reduce((sum, one) => sum + weight(one), 0);
  const left = [...all];
  const chosen: T[] = [];
  for (let sum = 0; left.length > 0 && (chosen.length === 0 || sum < total * SHARE); sum += weight(chosen.at(-1)!))
    chosen.push(...left.splice(Math.floor(Math.random() * left.length), 1));
  return chosen;
}
