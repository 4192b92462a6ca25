/**
 * Finds libslotbus (`SLOTBUS_LIB`, the build of a checkout, or the prebuilt one of this platform) and slotbus-launcher;
 * checks Bun's version.
 */

import { accessSync, constants, existsSync, readdirSync, readFileSync, statSync, utimesSync } from "node:fs";
import { dirname, isAbsolute, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { UnsupportedError } from "../errors.ts";
import { sha256 } from "../runtime.ts";

const self = fileURLToPath(import.meta.url);
const root = resolve(dirname(self), "../..");

/** Oldest supported version of Bun, as in `engines` of package.json. */
const OLDEST_BUN = "1.4.0";

/** Throws {@link UnsupportedError} if Bun is too old. */
export function checkBun(version: string): void {
  if (Bun.semver.order(version.replace(/-.*/, ""), OLDEST_BUN) >= 0) return;
  throw new UnsupportedError(`slotbus needs Bun ${OLDEST_BUN} or later; this is ${version}.`, {
    hint: "Run `bun upgrade`.",
  });
}

/** Platforms that the package has a library for. On macOS it loads and then reports that it is not supported. */
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
 * Returns the prebuilt library of this platform; `null` in a checkout. For `bun build --compile`, `process.platform`
 * and `process.arch` are constants, so literal names embed exactly the libraries of its target. The `try` lets it
 * bundle a checkout, which has no such files.
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
  if (found) return isAbsolute(found.default) ? found.default : join(dirname(self), found.default); // bundles: relative
  throw new UnsupportedError(`slotbus has no library for ${process.platform}-${process.arch}.`, {
    hint: `Use Linux (${PLATFORMS.filter((name) => name.startsWith("linux")).join(", ")}).`,
  });
}

function isStale(product: string): boolean {
  if (!existsSync(product)) return true;
  const sources = readdirSync(join(root, "csrc"), { recursive: true, encoding: "utf8" });
  const files = ["build.zig", ...sources.map((file) => join("csrc", file))];
  return files.some((file) => statSync(join(root, file)).mtimeMs > statSync(product).mtimeMs);
}

/** Files that the build of a checkout produces. */
const PRODUCTS = ["lib/libslotbus.so", "bin/slotbus-launcher"] as const;

/** Builds all products if this one is older than its sources. Returns its path. */
function buildCheckout(product: (typeof PRODUCTS)[number]): string {
  const path = join(root, "zig-out", product);
  if (!isStale(path)) return path;
  const local = join(root, "node_modules/.bin/zig");
  const zig = existsSync(local) ? local : Bun.which("zig");
  if (!zig) {
    throw new UnsupportedError(`Cannot build libslotbus for ${platformName()}: Zig is not installed.`, {
      hint: "Run `npm install` in the checkout (it installs Zig), or set SLOTBUS_LIB to a built library.",
    });
  }
  const build = Bun.spawnSync([zig, "build"], { cwd: root, stdout: "pipe", stderr: "pipe" });
  if (build.exitCode !== 0) {
    throw new UnsupportedError(`\`zig build\` failed:\n${build.stderr.toString()}`);
  }
  const now = new Date();
  for (const made of PRODUCTS) utimesSync(join(root, "zig-out", made), now, now); // Zig does not touch an unchanged file
  return path;
}

function allows(path: string, mode: number): boolean {
  try {
    accessSync(path, mode);
    return true;
  } catch {
    return false; // it does not exist, or this user has no access
  }
}

/**
 * Returns the path of slotbus-launcher; `null` if there is none (it exists for Linux only) or `SLOTBUS_LAUNCHER` is
 * empty. Throws {@link UnsupportedError} if `SLOTBUS_LAUNCHER` is not an executable file.
 */
export function findLauncher(): string | null {
  if (process.platform !== "linux") return null;
  const given = process.env["SLOTBUS_LAUNCHER"];
  if (given === "") return null;
  if (given !== undefined) {
    if (allows(resolve(given), constants.X_OK)) return resolve(given);
    throw new UnsupportedError(`SLOTBUS_LAUNCHER is ${given}, which is not an executable file.`);
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

/** Whether this file runs from the source of a checkout, not from an installed package or a bundle. */
function isCheckout(): boolean {
  const here = self === join(root, "src/native/find.ts");
  return here && existsSync(join(root, "csrc")) && existsSync(join(root, "build.zig")) && allows(root, constants.W_OK);
}

/** Returns the path of the library to load. Throws {@link UnsupportedError} if there is none. */
export function findLibrary(): string {
  const given = process.env["SLOTBUS_LIB"];
  if (given) return resolve(given);
  if (isCheckout()) return buildCheckout("lib/libslotbus.so");
  const prebuilt = findPrebuilt();
  if (prebuilt) return prebuilt;
  throw new UnsupportedError(`Cannot find the prebuilt library for ${platformName()} in ${root}/native.`, {
    hint: "Install slotbus again, or set SLOTBUS_LIB to a libslotbus.so built with `zig build`.",
  });
}

/**
 * Says where the library or launcher at `path` comes from, and its SHA-256 in the package's `native/SHA256SUMS`; `null`
 * without that list, as in a compiled program.
 */
export function originOf(path: string): { from: string; packedSha256: string | null } {
  const isGiven = (name: string): boolean => !!process.env[name] && resolve(process.env[name]) === path;
  const from = ["SLOTBUS_LIB", "SLOTBUS_LAUNCHER"].find(isGiven) ?? (isCheckout() ? "checkout" : "package");
  const sums = join(dirname(dirname(path)), "SHA256SUMS");
  const list = from === "package" && existsSync(sums) ? readFileSync(sums, "utf8") : "";
  const line = list.split("\n").find((text) => text.length > SUM && path.endsWith(`/${text.slice(SUM)}`));
  return { from, packedSha256: line?.slice(0, 64) ?? null };
}

/** Length of a SHA-256 and two spaces: the name follows in a line of SHA256SUMS. */
const SUM = 66;

/**
 * Throws {@link UnsupportedError} if a packed file was changed: to load a truncated library would crash the process.
 */
export function checkPacked(path: string): void {
  const { packedSha256: packed } = originOf(path);
  if (packed === null) return;
  const found = existsSync(path) ? sha256(readFileSync(path)) : "";
  if (found === packed) return;
  throw new UnsupportedError(`${path} differs from the packaged file: its SHA-256 is ${found}, not ${packed}.`, {
    hint: "Install slotbus again.",
  });
}
