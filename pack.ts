/**
 * Makes the package: JavaScript, declarations and maps from `src`, a library for each platform, and a package.json whose
 * entries lead to them. Everything is put together in `zig-out/package`, and packed from there. Nothing is built when
 * it is installed.
 *
 *     bun pack.ts [FOLDER]      writes slotbus-VERSION.tgz there (default: here) and prints its path
 */

import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { basename, dirname, join, relative, resolve } from "node:path";
import manifest from "./package.json";
import { PLATFORMS } from "./src/native/find.ts";

const root = import.meta.dir;
const stage = join(root, "zig-out/package");

/**
 * Begins the names that entries export while they are bundled: Bun 1.4 calls a class `SlotBus2` that an entry exports as
 * `SlotBus` (oven-sh/bun#42552), and users see names of classes, of errors above all. What an `import()` exports is renamed
 * afterwards.
 */
const PREFIX = "slotbus_entry_";

/** The triple that Zig builds for a platform, as `zig build cross` names its folders. */
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

/** `native/PLATFORM/`: the library and a module that knows its path; `native/linux-ARCH/`: the launcher, for any libc; `native/SHA256SUMS`, as `sha256sum -c` reads it. */
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

/** `dist/` from `src/`, which is packed too: the maps lead to it. */
async function addJavaScript(): Promise<void> {
  cpSync(join(root, "src"), join(stage, "src"), { recursive: true });
  rmSync(join(stage, "src/native/generate.ts")); // of the checkout only
  const tsc = ["tsc", "-p", "tsconfig.build.json"];
  run([...tsc, "--removeComments"]); // the declarations have them, and `src`
  run([...tsc, "--emitDeclarationOnly", "--declaration"]);
  for (const file of files(join(stage, "src"), ".c")) renameSync(file, file.replace("/src/", "/dist/"));
  for (const file of files(join(stage, "dist"), ".d.ts")) {
    // tsc rewrites the endings of imports in JavaScript only.
    const text = readFileSync(file, "utf8");
    writeFileSync(file, text.replaceAll(/((?:from|import\() ?"\.[^"]*)\.ts"/g, '$1.js"'));
  }
  await bundle();
  rmSync(join(stage, "src/hub/status.html")); // it stands in the JavaScript as a whole
  trimCommand();
  trimDeclarations();
}

/** Removes the declarations that no entry leads to, and the comments of those that declare nothing that an entry exports. */
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

/** Files of the library that the command imports, seen from `src`. Its own are not bundled: it starts some as programs. */
function importedByCommand(): string[] {
  const dist = join(stage, "dist");
  return files(join(dist, "cli"), ".js")
    .flatMap((file) =>
      [...readFileSync(file, "utf8").matchAll(/(?:from|import\() ?"(\.[^"]+)\.js"/g)].map(([, target]) =>
        relative(dist, join(dirname(file), `${target}.ts`)),
      ),
    )
    .filter((file) => !file.startsWith("cli/"));
}

/**
 * Replaces the library's JavaScript, a file for each source, by a few files: each file that a program loads takes 0.2 to
 * 0.5 ms. What several entries use is in `dist/shared`, once. What `import()` or `require()` loads stays apart.
 */
async function bundle(): Promise<void> {
  const dist = join(stage, "dist");
  const bundled = (ending: string): string[] => files(dist, ending).filter((file) => !file.startsWith(`${dist}/cli/`));
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
    naming: { entry: "[dir]/[name].js", chunk: "shared/[name]-[hash].js" }, // as far from `native` as src/native/find.ts is
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
    // Bundlers of users follow `require` alone; where "// @bun" says that all is done, there is none at run time.
    writeFileSync(file, named.replace("// @bun", "").replaceAll(/(__|import\.meta\.)require\("/g, 'require("'));
  }
  const mapped = new Set<string>();
  for (const file of bundled(".js.map")) {
    const map = JSON.parse(readFileSync(file, "utf8")) as { sources: string[]; mappings: string };
    const sources = map.sources.map((source) => relative(dirname(file), join(dist, source))); // Bun means them from `dist`
    writeFileSync(file, JSON.stringify({ ...map, sources, sourcesContent: undefined, mappings: thin(map.mappings) }));
    for (const source of sources) mapped.add(join(dirname(file), source));
  }
  // The types of a file that no map leads to are in its declarations.
  for (const file of files(join(stage, "src"), ".ts")) if (!mapped.has(file)) rmSync(file);
}

const BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/** The numbers of a segment of a source map: five bits a digit, the sign in the lowest. */
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

/** Leaves of the mappings of each line the first: debuggers find the line, in a third of the bytes. */
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

/** The command is run, not imported: its sources and declarations would be a quarter of the package. */
function trimCommand(): void {
  rmSync(join(stage, "src/cli"), { recursive: true });
  for (const file of files(join(stage, "dist/cli"), ".d.ts")) rmSync(file);
}

/** A module with the same names for whatever is not Bun: it links, and throws when it is run. */
async function unsupported(source: string): Promise<string> {
  const names = Object.keys(await import(join(root, source))).sort();
  const engine = manifest.engines.bun.replace(">=", "");
  return `const here = globalThis.process?.version ? "Node " + process.version : "no Bun";
throw Object.assign(
  new Error(
    "slotbus needs Bun ${engine} or later; this is " + here + ". Start the program with \`bun\`; " +
      "a bundler needs the condition \\"bun\\".",
  ),
  { name: "UnsupportedError", code: "UNSUPPORTED" },
);
export let ${names.join(", ")};
`;
}

/** The entries of package.json, which lead to `src` in a checkout, as they are in the package. */
async function entries(): Promise<Record<string, unknown>> {
  const out: Record<string, unknown> = {};
  for (const [entry, source] of Object.entries<string>(manifest.exports)) {
    if (!source.endsWith(".ts")) {
      out[entry] = source;
      continue;
    }
    const compiled = source.replace("./src/", "./dist/").replace(/\.ts$/, "");
    const other = `./dist/unsupported/${entry === "." ? "index" : entry.slice(2)}.js`;
    mkdirSync(dirname(join(stage, other)), { recursive: true });
    writeFileSync(join(stage, other), await unsupported(source));
    out[entry] = { types: `${compiled}.d.ts`, bun: `${compiled}.js`, default: other };
  }
  return out;
}

async function addManifest(): Promise<void> {
  const { scripts, devDependencies, allowScripts, ...packed } = manifest;
  void [scripts, devDependencies, allowScripts]; // of the checkout only
  const bin = { slotbus: manifest.bin.slotbus.replace("src/", "dist/").replace(/\.ts$/, ".js") };
  Object.assign(packed, { bin, exports: await entries() });
  writeFileSync(join(stage, "package.json"), `${JSON.stringify(packed, null, 2)}\n`);
}

/** Builds the package and writes the tarball into `folder`. Returns its path. */
export async function pack(folder: string): Promise<string> {
  rmSync(stage, { recursive: true, force: true });
  addLibraries();
  await addJavaScript();
  await addManifest();
  // README and docs, and what they link to.
  const pages = files(join(root, "docs"), ".md").map((file) => relative(root, file));
  const top = ["README.md", "CHANGELOG.md", "LICENSE", "SECURITY.md"];
  for (const file of [...top, ...pages, "bench/RESULTS.md", "bench/bus.svg", "examples"])
    cpSync(join(root, file), join(stage, file), { recursive: true });
  cpSync(join(root, "csrc/slotbus.h"), join(stage, "include/slotbus.h"));
  mkdirSync(folder, { recursive: true });
  const report = JSON.parse(run(["npm", "pack", "--json", "--pack-destination", folder], stage));
  const file = join(folder, basename(report[0].filename));
  const packed = Bun.gunzipSync(readFileSync(file));
  writeFileSync(file, Bun.gzipSync(packed, { library: "libdeflate", level: 12 })); // 5 % smaller than npm's own
  return file;
}

if (import.meta.main) process.stdout.write(`${await pack(resolve(process.argv[2] ?? "."))}\n`);
