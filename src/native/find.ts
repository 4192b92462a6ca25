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

/** Builds the checkout's library when it is missing or older than its sources. */
function buildCheckout(): string {
  const library = join(root, "zig-out/lib/libslotbus.so");
  if (!isStale(library)) return library;
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
  utimesSync(library, now, now); // Zig leaves an unchanged file alone; it is fresh all the same
  return library;
}

function isWritable(folder: string): boolean {
  try {
    accessSync(folder, constants.W_OK);
    return true;
  } catch {
    return false; // an installed package: nothing can be built here
  }
}

/** Path of the library to load. Throws `UnsupportedError` when there is none. */
export function findLibrary(): string {
  const given = process.env["SLOTBUS_LIB"];
  if (given) return resolve(given);
  const prebuilt = join(root, "native", platformName(), "libslotbus.so");
  if (existsSync(prebuilt)) return prebuilt;
  const inCheckout = existsSync(join(root, "csrc")) && existsSync(join(root, "build.zig"));
  if (inCheckout && isWritable(root)) return buildCheckout();
  throw new UnsupportedError(`slotbus has no prebuilt library for ${platformName()} (looked at ${prebuilt}).`, {
    hint: "Set SLOTBUS_LIB to a libslotbus.so built with `zig build`.",
  });
}
