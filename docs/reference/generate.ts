/**
 * Writes the API reference: a page for each export of each entry, from the declarations that the package ships.
 * An export without a doc comment is an error. TypeDoc needs the compiler's old interface, so it has
 * a TypeScript 6 of its own; the declarations come from the project's compiler.
 *
 *     npm run docs        installs what is missing, writes zig-out/reference, prints the path of its first page
 */

import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import manifest from "../../package.json";

const root = resolve(import.meta.dir, "../..");
const out = join(root, "zig-out/reference");
const types = join(out, "types");

/** What TypeDoc says of a module, an export or a signature, as far as it is read here. */
export interface Reflection {
  readonly name: string;
  readonly variant: string;
  readonly comment?: object;
  readonly children?: readonly Reflection[];
  readonly signatures?: readonly Reflection[];
}

/** Runs a command in a folder; throws with its output if it fails. */
export function run(command: readonly string[], cwd: string): void {
  const path = `${root}/node_modules/.bin:${process.env["PATH"]}`;
  const child = Bun.spawnSync([...command], {
    cwd,
    env: { ...process.env, PATH: path },
    stdio: ["ignore", "pipe", "pipe"],
  });
  if (child.exitCode === 0) return;
  throw new Error(`${command[0]} failed:\n${child.stdout.toString()}${child.stderr.toString()}`);
}

/** Entries of the package: its name for them, and the module in `src` that it leads to. */
export function entries(): [name: string, source: string][] {
  const modules = Object.entries<string>(manifest.exports).filter(([, file]) => file.endsWith(".ts"));
  return modules.map(([entry, file]) => [join(manifest.name, entry), file.replace("./src/", "")]);
}

/** Writes the declarations of the entries, as `pack.ts` puts them into the package. */
function declare(): void {
  const config = {
    extends: "../../tsconfig.json",
    compilerOptions: {
      noEmit: false,
      emitDeclarationOnly: true,
      declaration: true,
      rootDir: "../../src",
      outDir: types,
    },
    include: [],
    files: entries().map(([, source]) => `../../src/${source}`),
  };
  writeFileSync(join(out, "tsconfig.json"), JSON.stringify(config));
  run(["tsc", "-p", join(out, "tsconfig.json")], root);
  for (const file of readdirSync(types, { recursive: true, encoding: "utf8" })) {
    if (!file.endsWith(".d.ts")) continue;
    const text = readFileSync(join(types, file), "utf8");
    writeFileSync(join(types, file), text.replaceAll(/((?:from|import\() ?"\.[^"]*)\.ts"/g, '$1.js"'));
  }
}

/** TypeDoc names a module by its file; here each has the name that users import. */
function nameModules(): string[] {
  return entries().map(([name, source]) => {
    const file = join(types, source.replace(/\.ts$/, ".d.ts"));
    const text = readFileSync(file, "utf8");
    const first = /^\/\*\*([\s\S]*?)\*\//.exec(text)?.[1]?.trim() ?? "";
    writeFileSync(file, `/**\n * ${first}\n * @module ${name}\n */\n${text.replace(/^\/\*\*[\s\S]*?\*\//, "")}`);
    return file;
  });
}

/** Installs the packages of a folder's lock file, unless they are there. Returns whether it did. */
export function installPackages(folder: string): boolean {
  if (Bun.spawnSync(["npm", "ls", "--silent"], { cwd: folder }).success) return false;
  run(["npm", "ci", "--loglevel=error", "--prefer-offline"], folder);
  return true;
}

/** Makes the pages; throws with the list of what has no doc comment. Returns what TypeDoc found. */
export function makeReference(): Reflection {
  rmSync(out, { recursive: true, force: true });
  mkdirSync(out, { recursive: true });
  installPackages(import.meta.dir);
  declare();
  writeFileSync(
    join(out, "tsconfig.typedoc.json"),
    JSON.stringify({
      compilerOptions: {
        target: "esnext",
        module: "preserve",
        moduleResolution: "bundler",
        lib: ["esnext"],
        types: [join(root, "node_modules/@types/bun")],
        strict: true,
        skipLibCheck: true,
        noEmit: true,
      },
      include: ["types"],
    }),
  );
  writeFileSync(
    join(out, "typedoc.json"),
    JSON.stringify({
      name: `${manifest.name} ${manifest.version}`,
      entryPoints: nameModules(),
      tsconfig: join(out, "tsconfig.typedoc.json"),
      out: join(out, "html"),
      json: join(out, "reference.json"),
      readme: "none",
      favicon: join(root, "docs/site/icon.svg"),
      blockTags: ["@cure", "@module", "@param", "@returns", "@throws", "@template"],
      validation: { notExported: false, invalidLink: false, rewrittenLink: false },
      disableSources: true,
      excludePrivate: true,
      excludeExternals: true,
    }),
  );
  const typedoc = join(import.meta.dir, "node_modules/typedoc/bin/typedoc");
  run([process.execPath, typedoc, "--options", join(out, "typedoc.json")], import.meta.dir);
  const reference = JSON.parse(readFileSync(join(out, "reference.json"), "utf8")) as Reflection;
  const bare = undocumented(reference);
  if (bare.length > 0) throw new Error(`Exports without a doc comment: ${bare.join(", ")}.`);
  return reference;
}

/** Exports of all entries that have no doc comment, as `slotbus/events.topic`. A function's stands at its signatures. */
export function undocumented({ children = [] }: Reflection): string[] {
  return children.flatMap((entry) =>
    (entry.children ?? [])
      .filter(({ variant, comment, signatures = [] }) => {
        const isSaid = comment !== undefined || signatures.some((signature) => signature.comment !== undefined);
        return variant !== "reference" && !isSaid; // a reference: another entry's export, which is looked at there
      })
      .map(({ name }) => `${entry.name}.${name}`),
  );
}

if (import.meta.main) {
  makeReference();
  process.stdout.write(`${join(out, "html/index.html")}\n`);
}
