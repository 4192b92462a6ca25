/** Finds libslotbus (`SLOTBUS_LIB`, the prebuilt one of this platform, a checkout's own build) and the launcher of workers; says whether Bun will do. */

import { accessSync, constants, existsSync, readdirSync, readFileSync, statSync, utimesSync } from "node:fs";
import { dirname, isAbsolute, join, resolve } from "node:path";
import { UnsupportedError } from "../errors.ts";

const root = resolve(import.meta.dir, "../..");

/** The oldest Bun whose `bun:ffi` this works with, as `engines` of package.json has it. */
const OLDEST_BUN = "1.4.0";

/** Throws `UnsupportedError` for a version of Bun that is too old. */
export function checkBun(version: string): void {
  if (Bun.semver.order(version.replace(/-.*/, ""), OLDEST_BUN) >= 0) return;
  throw new UnsupportedError(`slotbus needs Bun ${OLDEST_BUN} or later; this is ${version}.`, {
    hint: "Run `bun upgrade`.",
  });
}

/** Platforms the package has a library for; macOS refuses to work once it is loaded. */
export const PLATFORMS = [
  "linux-x64-gnu",
  "linux-x64-musl",
  "linux-arm64-gnu",
  "linux-arm64-musl",
  "darwin-x64",
  "darwin-arm64",
] as const;

/** `linux-x64-gnu`, `linux-arm64-musl`, `darwin-arm64`, … */
export function platformName(): string {
  if (process.platform !== "linux") return `${process.platform}-${process.arch}`;
  return `linux-${process.arch}-${isMusl() ? "musl" : "gnu"}`;
}

function isMusl(): boolean {
  return readFileSync("/proc/self/maps", "latin1").includes("ld-musl");
}

/**
 * The prebuilt library of this platform; `null` in a checkout, which has none. Each name is literal and `process.platform` and
 * `process.arch` are constants to `bun build --compile`, so it embeds the libraries of its target and no other; and within
 * `try`, so that it bundles a checkout too.
 */
function findPrebuilt(): string | null {
  let found: { default: string } | null = null;
  try {
    if (process.platform === "linux" && process.arch === "x64") {
      if (isMusl()) found = require("../../native/linux-x64-musl/path.js");
      else found = require("../../native/linux-x64-gnu/path.js");
    } else if (process.platform === "linux" && process.arch === "arm64") {
      if (isMusl()) found = require("../../native/linux-arm64-musl/path.js");
      else found = require("../../native/linux-arm64-gnu/path.js");
    } else if (process.platform === "darwin" && process.arch === "x64") {
      found = require("../../native/darwin-x64/path.js");
    } else if (process.platform === "darwin" && process.arch === "arm64") {
      found = require("../../native/darwin-arm64/path.js");
    }
  } catch {
    return null;
  }
  if (found) return isAbsolute(found.default) ? found.default : join(import.meta.dir, found.default); // a bundle's is relative
  throw new UnsupportedError(`slotbus has no library for ${process.platform}-${process.arch}.`, {
    hint: `It runs on Linux (${PLATFORMS.filter((name) => name.startsWith("linux")).join(", ")}).`,
  });
}

function isStale(product: string): boolean {
  if (!existsSync(product)) return true;
  const sources = readdirSync(join(root, "csrc"), { recursive: true, encoding: "utf8" });
  const files = ["build.zig", ...sources.map((file) => join("csrc", file))];
  return files.some((file) => statSync(join(root, file)).mtimeMs > statSync(product).mtimeMs);
}

/** What the build of a checkout makes. */
const PRODUCTS = ["lib/libslotbus.so", "bin/slotbus-launcher"] as const;

/** Builds a product when it is older than its sources, and all others with it. */
function buildCheckout(product: (typeof PRODUCTS)[number]): string {
  const path = join(root, "zig-out", product);
  if (!isStale(path)) return path;
  const local = join(root, "node_modules/.bin/zig");
  const zig = existsSync(local) ? local : Bun.which("zig");
  if (!zig) {
    throw new UnsupportedError(`libslotbus is not built for ${platformName()}, and Zig is not installed.`, {
      hint: "In a checkout run `npm install` (it brings Zig) or set SLOTBUS_LIB to a built library.",
    });
  }
  const build = Bun.spawnSync([zig, "build"], { cwd: root, stdout: "pipe", stderr: "pipe" });
  if (build.exitCode !== 0) {
    throw new UnsupportedError(`\`zig build\` failed:\n${build.stderr.toString()}`);
  }
  const now = new Date();
  for (const made of PRODUCTS) utimesSync(join(root, "zig-out", made), now, now); // Zig leaves an unchanged file alone
  return path;
}

function allows(path: string, mode: number): boolean {
  try {
    accessSync(path, mode);
    return true;
  } catch {
    return false; // it is not there, or not for us
  }
}

/**
 * Path of the launcher of worker processes; `null` where there is none (it exists for Linux only), or `SLOTBUS_LAUNCHER` is
 * empty. Throws `UnsupportedError` when that names no program.
 */
export function findLauncher(): string | null {
  if (process.platform !== "linux") return null;
  const given = process.env["SLOTBUS_LAUNCHER"];
  if (given === "") return null;
  if (given !== undefined) {
    if (allows(resolve(given), constants.X_OK)) return resolve(given);
    throw new UnsupportedError(`SLOTBUS_LAUNCHER is ${given}; there is no such program.`);
  }
  const prebuilt = join(root, "native", `linux-${process.arch}`, "slotbus-launcher");
  if (allows(prebuilt, constants.X_OK)) return prebuilt;
  if (!isCheckout()) return null;
  try {
    return buildCheckout("bin/slotbus-launcher");
  } catch {
    return null; // no Zig: workers run without it
  }
}

/** Whether this file is the source in a checkout, not a part of an installed package or of somebody's bundle. */
function isCheckout(): boolean {
  const here = import.meta.path === join(root, "src/native/find.ts");
  return here && existsSync(join(root, "csrc")) && existsSync(join(root, "build.zig")) && allows(root, constants.W_OK);
}

/** Path of the library to load. Throws `UnsupportedError` when there is none. */
export function findLibrary(): string {
  const given = process.env["SLOTBUS_LIB"];
  if (given) return resolve(given);
  if (isCheckout()) return buildCheckout("lib/libslotbus.so");
  const prebuilt = findPrebuilt();
  if (prebuilt) return prebuilt;
  throw new UnsupportedError(`slotbus has no prebuilt library for ${platformName()} (looked at ${root}/native).`, {
    hint: "Install slotbus again, or set SLOTBUS_LIB to a libslotbus.so built with `zig build`.",
  });
}

/**
 * Where the library or the launcher at `path` comes from, and its SHA-256 in the package's `native/SHA256SUMS`; `null` where there is
 * no such list, as in a compiled program.
 */
export function originOf(path: string): { from: string; packedSha256: string | null } {
  const isGiven = (name: string): boolean => !!process.env[name] && resolve(process.env[name]) === path;
  const from = ["SLOTBUS_LIB", "SLOTBUS_LAUNCHER"].find(isGiven) ?? (isCheckout() ? "checkout" : "package");
  const sums = join(dirname(dirname(path)), "SHA256SUMS");
  const list = from === "package" && existsSync(sums) ? readFileSync(sums, "utf8") : "";
  const line = list.split("\n").find((text) => text.length > SUM && path.endsWith(`/${text.slice(SUM)}`));
  return { from, packedSha256: line?.slice(0, 64) ?? null };
}

/** Characters of a line of SHA256SUMS before the name. */
const SUM = 66;

/** Throws `UnsupportedError` for a file that is not as it was packed: loading one that was cut would end the process. */
export function checkPacked(path: string): void {
  const { packedSha256: packed } = originOf(path);
  if (packed === null) return;
  const sha256 = existsSync(path) ? new Bun.CryptoHasher("sha256").update(readFileSync(path)).digest("hex") : "";
  if (sha256 === packed) return;
  throw new UnsupportedError(`${path} is not as it was packed: its SHA-256 is ${sha256}, not ${packed}.`, {
    hint: "Install slotbus again.",
  });
}
