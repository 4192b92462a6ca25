/** `slotbus doctor`: whether slotbus works here. Each fault has one line that says what to do. */

import { accessSync, closeSync, constants, existsSync, readFileSync, statfsSync, statSync } from "node:fs";
import { availableParallelism, release } from "node:os";
import { dirname } from "node:path";
import type { Command } from "commander";
import { SlotbusError } from "../errors.ts";
import { checkBun, checkPacked, findLauncher, findLibrary, originOf, platformName } from "../native/find.ts";
import { resolveDirectory } from "../runtime-directory.ts";
import { count, microseconds, paint, print, size } from "./terminal.ts";
import { type CommonFlags, EXIT, newCommand, withDirectory, withJson } from "./usage.ts";

/** One line of the report, as it stands in the JSON. */
export interface Finding {
  name: string;
  state: "ok" | "warning" | "fault";
  detail: string;
  /** What to do; `null` when there is nothing to do. */
  fix: string | null;
}

/** Free space of the runtime directory below which a fleet may not be made. */
const SPACE_BYTES = 8 << 20;
/** Memory below which a worker's warm pages are at risk. */
const MEMORY_BYTES = 64 << 20;
const FILES = 256;
const WARM_UP = 500;
const ROUND_TRIPS = 2_000;
const ROUND_TRIP_LIMIT_MS = 10_000;

export function command(): Command {
  return withDirectory(withJson(newCommand("doctor", "say whether slotbus works here, and how to repair it", EXAMPLES)))
    .option("--answer <name>")
    .configureHelp({ helpWidth: 80, visibleOptions: (it) => it.options.filter(({ long }) => long !== "--answer") })
    .addHelpText("after", "\nIt exits with 1 when it finds a fault; warnings are no fault.")
    .action(async ({ json, directory, answer }: CommonFlags & { answer?: string }) => {
      if (answer !== undefined) return answerRoundTrips(answer, directory);
      const findings = await examine(directory);
      print(json ? JSON.stringify({ ok: isWell(findings), findings }, null, 2) : report(findings));
      if (!isWell(findings)) process.exitCode = EXIT.failed;
    });
}

const EXAMPLES = ["slotbus doctor", "slotbus doctor --json", "SLOTBUS_DIR=/run/shop slotbus doctor"];

function isWell(findings: readonly Finding[]): boolean {
  return findings.every(({ state }) => state !== "fault");
}

async function examine(given: string | undefined): Promise<Finding[]> {
  const findings = [platform(), await bun()];
  const loaded = await library();
  findings.push(loaded, await launcher());
  const directory = resolveDirectory(given);
  const rights = loaded.state === "fault" ? untried("directory") : await runtimeDirectory(directory);
  const isOpen = loaded.state !== "fault" && rights.state !== "fault";
  findings.push(rights, await space(directory), memory(), descriptors(), cores());
  return [...findings, isOpen ? await roundTrip(directory) : untried("round trip")];
}

function fine(name: string, detail: string): Finding {
  return { name, state: "ok", detail, fix: null };
}

function warning(name: string, detail: string, fix: string): Finding {
  return { name, state: "warning", detail, fix };
}

function fault(name: string, detail: string, fix: string): Finding {
  return { name, state: "fault", detail, fix };
}

function untried(name: string): Finding {
  return fault(name, "not tried.", "Repair what stands above, then run `slotbus doctor` again.");
}

/** A check: what it throws is a fault, what it returns is fine unless it says otherwise. */
async function check(
  name: string,
  fix: string,
  run: () => string | Finding | Promise<string | Finding>,
): Promise<Finding> {
  try {
    const found = await run();
    return typeof found === "string" ? fine(name, found) : found;
  } catch (error) {
    const hint = (error instanceof SlotbusError && error.hint) || "";
    const message = (error as Error).message.replace(hint && ` ${hint}`, "").split("\n")[0]!;
    return fault(name, message, hint || fix);
  }
}

function platform(): Finding {
  const detail = `${platformName()}, ${process.platform} ${release()}`;
  if (process.platform === "linux" && (process.arch === "x64" || process.arch === "arm64"))
    return fine("platform", detail);
  return fault("platform", detail, "Run it on Linux, x64 or arm64.");
}

function bun(): Promise<Finding> {
  return check("bun", "Install another Bun.", () => {
    checkBun(Bun.version);
    return Bun.version;
  });
}

function library(): Promise<Finding> {
  return check("library", "Install slotbus again, or set SLOTBUS_LIB to a libslotbus of your own.", async () => {
    const path = findLibrary();
    const { ABI } = await import("../native/library.ts");
    return `${path} (${origin(path)}), ABI ${ABI}, ${size(statSync(path).size)}`;
  });
}

/** Where a file comes from; the library was checked when it was loaded. */
function origin(path: string): string {
  const { from, packedSha256 } = originOf(path);
  return packedSha256 === null ? from : `${from}, as it was packed`;
}

/** Only supervised workers need it. */
function launcher(): Promise<Finding> {
  const fix = "Install slotbus again, or set SLOTBUS_LAUNCHER to a slotbus-launcher of your own.";
  return check("launcher", fix, () => {
    const path = findLauncher();
    if (path === null) return warning("launcher", "none: supervised workers may outlive a host that is killed", fix);
    checkPacked(path);
    return `${path} (${origin(path)})`;
  });
}

async function runtimeDirectory(directory: string): Promise<Finding> {
  const name = "directory";
  if (!existsSync(directory)) {
    const above = dirname(directory);
    if (!existsSync(above))
      return fault(name, `${directory}: there is no ${above}.`, `Make it: mkdir -p ${above}. Or set SLOTBUS_DIR.`);
    try {
      accessSync(above, constants.W_OK);
    } catch (cause) {
      const why = (cause as NodeJS.ErrnoException).code === "EROFS" ? "is read-only" : "cannot be written to";
      return fault(name, `${directory} is not there, and ${above} ${why}.`, "Set SLOTBUS_DIR to a directory of yours.");
    }
    return fine(name, `${directory} is not there yet; the first bus makes it`);
  }
  const { mode, uid } = statSync(directory);
  const rights = (mode & 0o7777).toString(8).padStart(4, "0");
  return check(name, "Set SLOTBUS_DIR to a directory of your own.", async () => {
    const { openDirectory } = await import("../native/directory.ts");
    closeSync(openDirectory(directory, { shared: rights === "0711" })!);
    return `${directory}, mode ${rights}, uid ${uid}`;
  });
}

function space(directory: string): Promise<Finding> {
  const name = "space";
  const folder = existsSync(directory) ? directory : dirname(directory);
  return check(name, "Set SLOTBUS_DIR to a directory on a tmpfs.", () => {
    const { bavail, blocks, bsize, ffree, files } = statfsSync(folder);
    const detail = `${size(bavail * bsize)} free of ${size(blocks * bsize)} at ${folder}`;
    const fix = "Remove files there (`slotbus clean`), or enlarge it: in Docker `--shm-size=256m`.";
    if (bavail === 0 || (files > 0 && ffree === 0)) return fault(name, detail, fix);
    return bavail * bsize < SPACE_BYTES ? warning(name, detail, fix) : detail;
  });
}

/** Regions are memory, not files: what counts is the machine's, and the limit of the cgroup. */
function memory(): Finding {
  const available = Number(/MemAvailable:\s+(\d+) kB/.exec(readText("/proc/meminfo"))?.[1] ?? 0) * 1_024;
  const limit = Number(readText("/sys/fs/cgroup/memory.max")) || Infinity;
  const used = Number(readText("/sys/fs/cgroup/memory.current")) || 0;
  const left = Math.min(available || Infinity, limit - used);
  if (!Number.isFinite(left)) return fine("memory", "unknown");
  const detail = `${size(Math.max(0, left))} available${limit === Infinity ? "" : ` under a limit of ${size(limit)}`}`;
  if (left >= MEMORY_BYTES) return fine("memory", detail);
  return warning("memory", detail, "Raise the memory limit, or lower `slots` and `payloadLimit` of the bus.");
}

function readText(file: string): string {
  try {
    return readFileSync(file, "utf8").trim();
  } catch {
    return ""; // another kernel, another cgroup version
  }
}

function descriptors(): Finding {
  const limit = /Max open files\s+(\S+)/.exec(readText("/proc/self/limits"))?.[1] ?? "unknown";
  if (limit === "unlimited" || limit === "unknown" || Number(limit) >= FILES) return fine("descriptors", limit);
  return warning("descriptors", `at most ${limit}`, `Raise it: ulimit -n ${4 * FILES}`);
}

function cores(): Finding {
  const processors = availableParallelism();
  if (processors > 1)
    return fine("wake mode", `${processors} processors: spins for up to 50 µs, then sleeps until a doorbell rings`);
  return warning("wake mode", "1 processor: never spins, sleeps at once", "Give it two processors for the short way.");
}

// ---- a real round trip ------------------------------------------------------------------------------------------------

/** The program that runs now, to be started once more. */
function ourselves(): string[] {
  return Bun.main.startsWith("/$bunfs/") ? [process.execPath] : [process.execPath, Bun.main];
}

function roundTrip(directory: string): Promise<Finding> {
  const fix = "Run it again; if it stays so, report it with the output of `slotbus doctor --json`.";
  return check("round trip", fix, async () => {
    const { SlotBus } = await import("../slotbus.ts");
    const name = `doctor-${process.pid}-${Date.now().toString(36)}`;
    await using bus = await SlotBus.create({ name, directory, slots: 4 });
    const child = Bun.spawn([...ourselves(), "doctor", "--answer", name, "--directory", directory], {
      stdio: ["ignore", "ignore", "pipe"],
    });
    try {
      const ended = child.exited.then(async (code) => {
        throw new Error(`the other process ended with ${code}: ${(await child.stderr.text()).trim().split("\n")[0]}`);
      });
      ended.catch(() => {});
      const signal = AbortSignal.timeout(ROUND_TRIP_LIMIT_MS);
      const times = await Promise.race([measure(bus, signal), ended]);
      const at = (part: number): string => microseconds(times[Math.floor(times.length * part)]! * 1_000);
      return `p50 ${at(0.5)}, p99 ${at(0.99)}: ${ROUND_TRIPS} requests of 64 B to another process`;
    } finally {
      child.kill();
      await child.exited;
    }
  });
}

/** Times of the round trips in ms, sorted. */
async function measure(bus: import("../slotbus.ts").SlotBus, signal: AbortSignal): Promise<Float64Array> {
  await bus.ready({ signal });
  const request = { path: "/", body: new Uint8Array(64) };
  for (let i = 0; i < WARM_UP; i++) await bus.request(request);
  const times = new Float64Array(ROUND_TRIPS);
  for (let i = 0; i < ROUND_TRIPS; i++) {
    const began = performance.now();
    await bus.request(request);
    times[i] = performance.now() - began;
  }
  signal.throwIfAborted();
  return times.sort();
}

async function answerRoundTrips(name: string, directory: string | undefined): Promise<void> {
  const { SlotWorker } = await import("../slotbus.ts");
  const given = directory === undefined ? {} : { directory };
  const worker = await SlotWorker.open({ name, reconnect: false, ...given });
  worker.serve(({ body }) => body);
  worker.once("disconnected", () => process.exit(0));
}

// ---- the report -------------------------------------------------------------------------------------------------------

function report(findings: readonly Finding[]): string {
  const width = Math.max(...findings.map(({ name }) => name.length));
  const lines = findings.flatMap(({ name, state, detail, fix }) => {
    const [mark, style] = ({ ok: ["✓", "green"], warning: ["!", "yellow"], fault: ["✗", "red"] } as const)[state];
    const line = `${paint(style, mark)} ${name.padEnd(width)}  ${detail}`;
    return fix === null ? [line] : [line, `  ${" ".repeat(width)}  → ${fix}`];
  });
  const faults = findings.filter(({ state }) => state === "fault").length;
  const verdict = faults === 0 ? "slotbus works here." : `${count(faults, "fault")}.`;
  return [...lines, "", paint(faults === 0 ? "green" : "red", verdict)].join("\n");
}
