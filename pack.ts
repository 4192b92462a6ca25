/**
 * Builds the package: JavaScript, declarations and source maps from `src`, a library for each platform, and a
 * package.json with matching entries. The files are collected in `zig-out/package` and packed from there. Installing
 * the package builds nothing.
 *
 *     bun pack.ts [FOLDER]      writes slotbus-VERSION.tgz to FOLDER (default: .) and prints its path
 */

import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { basename, dirname, join, relative, resolve } from "node:path";
import manifest from "./package.json";
import { PLATFORMS } from "./src/native/find.ts";

const root = import.meta.dir;
const stage = join(root, "zig-out/package");

/**
 * Prefix of exported names while bundling. Without it, Bun 1.4 renames a class that an entry exports as `SlotBus` to
 * `SlotBus2` (oven-sh/bun#42552), and users see class names, most of all in errors. Exports of an `import()` are
 * renamed afterwards.
 */
const PREFIX = "slotbus_entry_";

/** The program of a pool's processes, which is not bundled either. */
const POOL_PROGRAM = "pool/worker.js";

/** Zig's target triple for each platform; `zig build cross` names its folders like this. */
const TRIPLES: Record<(typeof PLATFORMS)[number], string> = {
  "linux-x64-gnu": "x86_64-linux-gnu.2.17",
  "linux-x64-musl": "x86_64-linux-musl",
  "linux-arm64-gnu": "aarch64-linux-gnu.2.17",
  "linux-arm64-musl": "aarch64-linux-musl",
  "darwin-x64": "x86_64-macos-none",
  "darwin-arm64": "aarch64-macos-none",
};

function run(command: string[], cwd = root): string {
  const path = `${root}/node_modules/.bin:${process.env["PATH"]}`;
  const child = Bun.spawnSync(command, { cwd, env: { ...process.env, PATH: path }, stdio: ["ignore", "pipe", "pipe"] });
  const output = child.stdout.toString();
  if (child.exitCode !== 0) throw new Error(`${command.join(" ")} failed:\n${output}${child.stderr.toString()}`);
  return output;
}

function files(folder: string, ending: string): string[] {
  const all = readdirSync(folder, { recursive: true, encoding: "utf8" });
  return all.filter((file) => file.endsWith(ending)).map((file) => join(folder, file));
}

function sha256(bytes: Uint8Array): string {
  return new Bun.CryptoHasher("sha256").update(bytes).digest("hex");
}

/**
 * Adds `native/PLATFORM/` (library, and a module with its path), `native/linux-ARCH/` (launcher, for any libc) and
 * `native/SHA256SUMS`.
 */
function addLibraries(): void {
  rmSync(join(root, "zig-out/cross"), { recursive: true, force: true });
  run(["zig", "build", "cross"]);
  const sums: string[] = [];
  for (const [platform, triple] of Object.entries(TRIPLES)) {
    const [library = ""] = readdirSync(join(root, "zig-out/cross", triple)).filter((file) =>
      /\.(so|dylib)$/.test(file),
    );
    const bytes = readFileSync(join(root, "zig-out/cross", triple, library));
    const folder = join(stage, "native", platform);
    mkdirSync(folder, { recursive: true });
    writeFileSync(join(folder, library), bytes);
    const module = `import path from "./${library}" with { type: "file" };\nexport default path;\n`;
    writeFileSync(join(folder, "path.js"), module);
    sums.push(`${sha256(bytes)}  ${platform}/${library}\n`);
  }
  for (const arch of ["x64", "arm64"] as const) {
    const folder = join(stage, `native/linux-${arch}`);
    mkdirSync(folder, { recursive: true });
    const launcher = join(root, "zig-out/cross", TRIPLES[`linux-${arch}-musl`], "slotbus-launcher");
    cpSync(launcher, join(folder, "slotbus-launcher"));
    sums.push(`${sha256(readFileSync(launcher))}  linux-${arch}/slotbus-launcher\n`);
  }
  writeFileSync(join(stage, "native/SHA256SUMS"), sums.join(""));
}

/** Builds `dist/` from `src/`. `src/` is packed too, for the source maps. `bench/` is packed as JavaScript, without `bench/dev/`. */
async function addJavaScript(): Promise<void> {
  cpSync(join(root, "src"), join(stage, "src"), { recursive: true });
  cpSync(join(root, "bench"), join(stage, "bench"), { recursive: true });
  rmSync(join(stage, "src/native/generate.ts")); // only needed in a checkout
  rmSync(join(stage, "bench/dev"), { recursive: true });
  const tsc = ["tsc", "-p", "tsconfig.build.json"];
  run([...tsc, "--removeComments"]); // declarations and `src` keep the comments
  run([...tsc, "--emitDeclarationOnly", "--declaration"]);
  renameSync(join(stage, "compiled/src"), join(stage, "dist"));
  addBench();
  for (const file of files(join(stage, "dist"), ".d.ts")) {
    // tsc rewrites the extensions of imports only in JavaScript.
    const text = readFileSync(file, "utf8");
    writeFileSync(file, text.replaceAll(/((?:from|import\() ?"\.[^"]*)\.ts"/g, '$1.js"'));
  }
  await bundle();
  rmSync(join(stage, "src/hub/status.html")); // the JavaScript contains it
  trimCommand();
  trimDeclarations();
}

/** Replaces each file of `bench/` by its JavaScript, which imports from `dist` what its source imports from `src`. */
function addBench(): void {
  for (const file of files(join(stage, "bench"), ".ts")) rmSync(file);
  for (const file of files(join(stage, "compiled/bench"), ".js")) {
    const text = readFileSync(file, "utf8").replaceAll(/"((?:\.\.\/)+)src\//g, '"$1dist/');
    writeFileSync(file.replace("/compiled/", "/"), text);
  }
  rmSync(join(stage, "compiled"), { recursive: true });
}

/** Removes declarations that no entry needs, and comments from files that declare no exported name. */
function trimDeclarations(): void {
  const declarations = Object.values<string>(manifest.exports)
    .map((source) => join(stage, "dist", source.replace("./src/", "").replace(/\.ts$/, ".d.ts")))
    .filter((file) => existsSync(file));
  const wanted = new Set(declarations);
  const shown = new Set<string>();
  for (const file of declarations)
    for (const [name] of readFileSync(file, "utf8").matchAll(/\b[A-Za-z]\w+\b/g)) shown.add(name);
  for (const file of wanted) {
    if (!existsSync(file)) continue;
    for (const [, target] of readFileSync(file, "utf8").matchAll(/(?:from|import\(|import) ?"(\.[^"]+)\.js"/g))
      wanted.add(join(dirname(file), `${target}.d.ts`));
  }
  for (const file of files(join(stage, "dist"), ".d.ts")) {
    if (!wanted.has(file)) {
      rmSync(file);
      continue;
    }
    const text = readFileSync(file, "utf8");
    const names = [
      ...text.matchAll(/^export (?:declare )?(?:abstract )?(?:class|interface|type|const|function) (\w+)/gm),
    ];
    if (file.includes("dist/errors") || names.some(([, name]) => shown.has(name!))) continue;
    writeFileSync(file, text.replaceAll(/^ *\/\*\*[\s\S]*?\*\/\n/gm, ""));
  }
}

/**
 * Returns the library files that the command, its bench and the program of a pool import, relative to `src`. Their own files are not bundled:
 * some of them are started as programs.
 */
function importedByCommand(): string[] {
  const dist = join(stage, "dist");
  return [join(dist, "cli"), join(stage, "bench")]
    .flatMap((folder) => files(folder, ".js"))
    .concat(join(dist, POOL_PROGRAM))
    .flatMap((file) =>
      [...readFileSync(file, "utf8").matchAll(/(?:from|import\() ?"(\.[^"]+)\.js"/g)].map(([, target]) =>
        relative(dist, join(dirname(file), `${target}.ts`)),
      ),
    )
    .filter((file) => !file.startsWith("cli/") && !file.startsWith("../"));
}

/**
 * Bundles the library's JavaScript into a few files, because each file takes 0.2 to 0.5 ms to load. Code that several
 * entries use is in `dist/shared`. Modules that are loaded by `import()` or `require()` stay separate.
 */
async function bundle(): Promise<void> {
  const dist = join(stage, "dist");
  const bundled = (ending: string): string[] =>
    files(dist, ending).filter((file) => !file.startsWith(`${dist}/cli/`) && file !== join(dist, POOL_PROGRAM));
  for (const file of bundled(".js")) rmSync(file);
  const packed = Object.values<string>(manifest.exports).filter((source) => source.endsWith(".ts"));
  const entries = [...new Set([...packed.map((source) => source.replace("./src/", "")), ...importedByCommand()])];
  for (const entry of entries) {
    const names = Object.keys(await import(join(root, "src", entry)));
    const exported = names.map((name) => `${name} as ${PREFIX}${name}`).join(", ");
    const file = join(stage, "entries", entry);
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, `export { ${exported} } from "${join(stage, "src", entry)}";\n`);
  }
  await Bun.build({
    entrypoints: entries.map((entry) => join(stage, "entries", entry)),
    root: join(stage, "entries"),
    outdir: dist,
    naming: { entry: "[dir]/[name].js", chunk: "shared/[name]-[hash].js" }, // as deep as src/native/find.ts
    target: "bun",
    splitting: true,
    sourcemap: "linked",
    packages: "external",
    external: ["../../native/linux-*", "../../native/darwin-*"],
  });
  rmSync(join(stage, "entries"), { recursive: true });
  const texts = bundled(".js").map((file) => [file, readFileSync(file, "utf8").replaceAll(PREFIX, "")] as const);
  const numbered = texts.flatMap(([, text]) => [...text.matchAll(/^class (\w+)2 /gm)].map(([, name]) => name!));
  for (const [file, text] of texts) {
    const named = numbered.reduce((all, name) => all.replaceAll(new RegExp(`\\b${name}2\\b`, "g"), name), text);
    // Users' bundlers only follow plain `require`. With "// @bun", Bun would not provide `require` at run time.
    writeFileSync(file, named.replace("// @bun", "").replaceAll(/(__|import\.meta\.)require\("/g, 'require("'));
  }
  const mapped = new Set<string>();
  for (const file of bundled(".js.map")) {
    const map = JSON.parse(readFileSync(file, "utf8")) as { sources: string[]; mappings: string };
    const sources = map.sources.map((source) => relative(dirname(file), join(dist, source))); // Bun's are relative to `dist`
    writeFileSync(file, JSON.stringify({ ...map, sources, sourcesContent: undefined, mappings: thin(map.mappings) }));
    for (const source of sources) mapped.add(join(dirname(file), source));
  }
  // Files without a source map contain only types, which the declarations have.
  for (const file of files(join(stage, "src"), ".ts")) if (!mapped.has(file)) rmSync(file);
}

const BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/** Decodes a segment of a source map (base64 VLQ): five bits a digit, the sign in the lowest bit. */
function decode(segment: string): number[] {
  const numbers: number[] = [];
  let [value, shift] = [0, 0];
  for (const digit of segment) {
    const bits = BASE64.indexOf(digit);
    value |= (bits & 31) << shift;
    shift += 5;
    if (bits & 32) continue;
    numbers.push(value & 1 ? -(value >> 1) : value >> 1);
    [value, shift] = [0, 0];
  }
  return numbers;
}

function encode(number: number): string {
  let rest = number < 0 ? (-number << 1) | 1 : number << 1;
  let digits = "";
  for (; rest > 31; rest >>= 5) digits += BASE64[(rest & 31) | 32];
  return digits + BASE64[rest];
}

/** Keeps only the first mapping of each line: enough for line numbers, in a third of the bytes. */
function thin(mappings: string): string {
  const now = [0, 0, 0]; // source, line, column
  let kept = [0, 0, 0];
  const lines = mappings.split(";").map((line) => {
    let first = "";
    for (const segment of line === "" ? [] : line.split(",")) {
      const [column = 0, ...steps] = decode(segment);
      steps.slice(0, 3).forEach((step, i) => (now[i]! += step));
      if (first !== "" || steps.length < 3) continue;
      first = [column, ...now.map((value, i) => value - kept[i]!)].map(encode).join("");
      kept = [...now];
    }
    return first;
  });
  return lines.join(";");
}

/** Removes sources and declarations of the command, which nobody imports: they would be a quarter of the package. */
function trimCommand(): void {
  rmSync(join(stage, "src/cli"), { recursive: true });
  for (const file of files(join(stage, "dist/cli"), ".d.ts")) rmSync(file);
}

/** Entries that Node can use, on the socket wire. The others need Bun. */
const PORTABLE = [".", "./nats", "./otel", "./serve"];

/** Returns a module with the same exports for other runtimes: it can be imported, and throws when it is run. */
async function unsupported(entry: string, source: string): Promise<string> {
  const names = Object.keys(await import(join(root, source))).sort();
  const engine = manifest.engines.bun.replace(">=", "");
  return `const here = globalThis.process?.version ? "Node " + process.version : "not Bun";
throw Object.assign(
  new Error(
    "slotbus${entry.slice(1)} needs Bun ${engine} or later; this is " + here + ". Start the program with \`bun\`; " +
      "give a bundler the condition \\"bun\\". Node can use \`slotbus\` itself.",
  ),
  { name: "UnsupportedError", code: "UNSUPPORTED" },
);
export let ${names.join(", ")};
`;
}

/** Returns the `exports` of the package; in the checkout they point to `src`. */
async function entries(): Promise<Record<string, unknown>> {
  const out: Record<string, unknown> = {};
  for (const [entry, source] of Object.entries<string>(manifest.exports)) {
    if (!source.endsWith(".ts")) {
      out[entry] = source;
      continue;
    }
    const compiled = source.replace("./src/", "./dist/").replace(/\.ts$/, "");
    if (PORTABLE.includes(entry)) {
      out[entry] = { types: `${compiled}.d.ts`, default: `${compiled}.js` };
      continue;
    }
    const other = `./dist/unsupported/${entry.slice(2)}.js`;
    mkdirSync(dirname(join(stage, other)), { recursive: true });
    writeFileSync(join(stage, other), await unsupported(entry, source));
    out[entry] = { types: `${compiled}.d.ts`, bun: `${compiled}.js`, default: other };
  }
  return out;
}

async function addManifest(): Promise<void> {
  const { scripts, devDependencies, allowScripts, ...packed } = manifest;
  void [scripts, devDependencies, allowScripts]; // only needed in a checkout
  const bin = { slotbus: manifest.bin.slotbus.replace("src/", "dist/").replace(/\.ts$/, ".js") };
  Object.assign(packed, { bin, exports: await entries() });
  writeFileSync(join(stage, "package.json"), `${JSON.stringify(packed, null, 2)}\n`);
}

/** Builds the package and writes the tarball to `folder`. Returns its path. */
export async function pack(folder: string): Promise<string> {
  rmSync(stage, { recursive: true, force: true });
  addLibraries();
  await addJavaScript();
  await addManifest();
  // README, docs, and files that they link to.
  const guides = readdirSync(join(root, "docs")).filter((file) => file.endsWith(".md"));
  const pages = guides.map((file) => join("docs", file));
  const top = ["README.md", "CHANGELOG.md", "LICENSE", "SECURITY.md"];
  for (const file of [...top, ...pages, "examples"]) cpSync(join(root, file), join(stage, file), { recursive: true });
  cpSync(join(root, "csrc/slotbus.h"), join(stage, "include/slotbus.h"));
  mkdirSync(folder, { recursive: true });
  const report = JSON.parse(run(["npm", "pack", "--json", "--pack-destination", folder], stage));
  const file = join(folder, basename(report[0].filename));
  const packed = Bun.gunzipSync(readFileSync(file));
  writeFileSync(file, Bun.gzipSync(packed, { library: "libdeflate", level: 12 })); // 5 % smaller than npm's own
  return file;
}

if (import.meta.main) process.stdout.write(`${await pack(resolve(process.argv[2] ?? "."))}\n`);
