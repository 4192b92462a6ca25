/** Finds libslotbus: `SLOTBUS_LIB`, the prebuilt one of this platform, or a checkout's own build. */

import { accessSync, constants, existsSync, readdirSync, readFileSync, statSync, utimesSync } from "node:fs";
import { join, resolve } from "node:path";
import { UnsupportedError } from "../errors.ts";

const root = resolve(import.meta.dir, "../..");

/** `linux-x64-gnu`, `linux-arm64-musl`, `darwin-arm64`, … */
export function platformName(): string {
  if (process.platform !== "linux") return `${process.platform}-${process.arch}`;
  const musl = readFileSync("/proc/self/maps", "latin1").includes("ld-musl");
  return `linux-${process.arch}-${musl ? "musl" : "gnu"}`;
}

function newest(folder: string): number {
  const times = readdirSync(folder).map((file) => statSync(join(folder, file)).mtimeMs);
  return Math.max(...times);
}

function isStale(library: string): boolean {
  if (!existsSync(library)) return true;
  const sources = Math.max(newest(join(root, "csrc")), statSync(join(root, "build.zig")).mtimeMs);
  return statSync(library).mtimeMs < sources;
}

function findZig(): string | null {
  const local = join(root, "node_modules/.bin/zig");
  return existsSync(local) ? local : Bun.which("zig");
}

/** Builds what the checkout's build makes (`lib/libslotbus.so`, `bin/slotbus-launcher`) when it is older than its sources. */
function buildCheckout(product: string): string {
  const path = join(root, "zig-out", product);
  if (!isStale(path)) return path;
  const zig = findZig();
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
  utimesSync(path, now, now); // Zig leaves an unchanged file alone; it is fresh all the same
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

/** An installed package is none: nothing can be built there. */
function isCheckout(): boolean {
  return existsSync(join(root, "csrc")) && existsSync(join(root, "build.zig")) && allows(root, constants.W_OK);
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
  const prebuilt = join(root, "native", platformName(), "slotbus-launcher");
  if (allows(prebuilt, constants.X_OK)) return prebuilt;
  if (!isCheckout()) return null;
  try {
    return buildCheckout("bin/slotbus-launcher");
  } catch {
    return null; // no Zig: workers run without it
  }
}

/** Path of the library to load. Throws `UnsupportedError` when there is none. */
export function findLibrary(): string {
  const given = process.env["SLOTBUS_LIB"];
  if (given) return resolve(given);
  const prebuilt = join(root, "native", platformName(), "libslotbus.so");
  if (existsSync(prebuilt)) return prebuilt;
  if (isCheckout()) return buildCheckout("lib/libslotbus.so");
  throw new UnsupportedError(`slotbus has no prebuilt library for ${platformName()} (looked at ${prebuilt}).`, {
    hint: "Set SLOTBUS_LIB to a libslotbus.so built with `zig build`.",
  });
}
