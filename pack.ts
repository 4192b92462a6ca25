/**
 * Makes the package: JavaScript, declarations and maps from `src`, a library for each platform, and a package.json whose
 * entries lead to them. Everything is put together in `zig-out/package`, and packed from there. Nothing is built when
 * it is installed.
 *
 *     bun pack.ts [FOLDER]      writes slotbus-VERSION.tgz there (default: here) and prints its path
 */

import { cpSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import manifest from "./package.json";
import { PLATFORMS } from "./src/native/find.ts";

const root = import.meta.dir;
const stage = join(root, "zig-out/package");

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
function addJavaScript(): void {
  cpSync(join(root, "src"), join(stage, "src"), { recursive: true });
  rmSync(join(stage, "src/native/generate.ts")); // of the checkout only
  const tsc = ["tsc", "-p", "tsconfig.build.json"];
  run([...tsc, "--sourceMap", "--removeComments"]); // the declarations have them, and `src`
  run([...tsc, "--emitDeclarationOnly", "--declaration"]);
  for (const file of readdirSync(join(stage, "src"), { recursive: true, encoding: "utf8" })) {
    if (/\.(html|c)$/.test(file)) renameSync(join(stage, "src", file), join(stage, "dist", file)); // no map leads to them
  }
  for (const file of files(join(stage, "dist"), ".d.ts")) {
    // tsc rewrites the endings of imports in JavaScript only.
    const text = readFileSync(file, "utf8");
    writeFileSync(file, text.replaceAll(/((?:from|import\() ?"\.[^"]*)\.ts"/g, '$1.js"'));
  }
  trimCommand();
}

/** The command is run, not imported: its sources, declarations and maps would be a quarter of the package. */
function trimCommand(): void {
  rmSync(join(stage, "src/cli"), { recursive: true });
  const folder = join(stage, "dist/cli");
  for (const file of [...files(folder, ".d.ts"), ...files(folder, ".map")]) rmSync(file);
  for (const file of files(folder, ".js"))
    writeFileSync(file, readFileSync(file, "utf8").replace(/\n\/\/# sourceMappingURL=.*\n?$/, "\n"));
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
  addJavaScript();
  await addManifest();
  for (const file of ["README.md", "CHANGELOG.md", "LICENSE", "SECURITY.md"])
    cpSync(join(root, file), join(stage, file));
  cpSync(join(root, "csrc/slotbus.h"), join(stage, "include/slotbus.h"));
  mkdirSync(folder, { recursive: true });
  const report = JSON.parse(run(["npm", "pack", "--json", "--pack-destination", folder], stage));
  return join(folder, basename(report[0].filename));
}

if (import.meta.main) process.stdout.write(`${await pack(resolve(process.argv[2] ?? "."))}\n`);
