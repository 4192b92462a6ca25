/** `slotbus doctor`: checks whether slotbus works here. Each fault has one line that says what to do. */

import { accessSync, closeSync, constants, existsSync, statfsSync, statSync } from "node:fs";
import { availableParallelism, release } from "node:os";
import { dirname } from "node:path";
import { type Command, Option } from "commander";
import { SlotbusError } from "../errors.ts";
import { isSystemRefusal } from "../errors/plain.ts";
import { checkBun, checkPacked, findLauncher, findLibrary, originOf, platformName } from "../native/find.ts";
import { resolveDirectory } from "../runtime-directory.ts";
import { count, microseconds, paint, print, size } from "./terminal.ts";
import { CommandError, type CommonFlags, EXIT, newCommand, readText, withDirectory, withJson } from "./usage.ts";

/** One line of the report, as printed in the JSON. */
export interface Finding {
  name: string;
  state: "ok" | "warning" | "fault";
  detail: string;
  /** What to do; `null`: nothing. */
  fix: string | null;
}

/** Result of a check: a detail, or a warning if it works but may soon fail. A fault is thrown. */
type Detail = string | { warning: string };

/** Free space in the runtime directory below which it may be impossible to create a fleet. */
const SPACE_BYTES = 8 << 20;
/** Free memory below which a worker's warm pages may not fit. */
const MEMORY_BYTES = 64 << 20;
const FILES = 256;
/** Number of shared buses that are named. */
const NAMES = 4;
const WARM_UP = 500;
const ROUND_TRIPS = 2_000;
const READY_MS = 10_000;

/** `fix`: what to do, unless the error has a hint. `needs`: a check that must succeed first. */
type Check = readonly [name: string, run: (directory: string) => Detail | Promise<Detail>, fix: string, needs?: string];

const CHECKS: readonly Check[] = [
  ["platform", platform, "Use Linux on x64 or arm64."],
  ["bun", bun, "Run `bun upgrade`."],
  ["library", library, "Install slotbus again, or set SLOTBUS_LIB to a libslotbus of your own."],
  [
    "wire",
    wire,
    "Allow shared memory in the sandbox, or set SLOTBUS_WIRE=socket to say that a socket will do.",
    "library",
  ],
  ["launcher", launcher, "Install slotbus again, or set SLOTBUS_LAUNCHER to a slotbus-launcher of your own."],
  ["directory", runtimeDirectory, "Set SLOTBUS_DIR to a directory of your own.", "library"],
  ["buses", buses, "Run `slotbus clean`.", "directory"],
  ["space", space, "Remove files there (`slotbus clean`), or enlarge it: in Docker `--shm-size=256m`."],
  ["memory", memory, "Raise the memory limit, or lower `slots` and `payloadBytes` of the bus."],
  ["descriptors", descriptors, `Run \`ulimit -n ${4 * FILES}\`.`],
  ["wake mode", wakeMode, "Give the process two processors for lower latency."],
  [
    "round trip",
    roundTrip,
    "Run `slotbus doctor` again; if this stays, report the output of `slotbus doctor --json`.",
    "directory",
  ],
];

export function command(): Command {
  return withDirectory(
    withJson(newCommand("doctor", "check whether slotbus works here, and say how to fix faults", EXAMPLES)),
  )
    .addOption(new Option("--answer <name>").hideHelp())
    .addHelpText("after", "\nThe exit code is 1 if there is a fault; warnings are not faults.")
    .action(async ({ json, directory, answer }: CommonFlags & { answer?: string }) => {
      if (answer !== undefined) return answerRoundTrips(answer, directory);
      const findings: Finding[] = [];
      for (const check of CHECKS) findings.push(await carryOut(check, resolveDirectory(directory), findings));
      const ok = findings.every(({ state }) => state !== "fault");
      print(json ? JSON.stringify({ ok, findings }, null, 2) : report(findings));
      if (!ok) process.exitCode = EXIT.failed;
    });
}

const EXAMPLES = ["slotbus doctor", "slotbus doctor --json", "SLOTBUS_DIR=/run/shop slotbus doctor"];

const UNTRIED = {
  state: "fault",
  detail: "not checked.",
  fix: "Fix the faults above, then run `slotbus doctor` again.",
} as const;

async function carryOut([name, run, fix, needs]: Check, directory: string, before: Finding[]): Promise<Finding> {
  if (before.some((other) => other.name === needs && other.state === "fault")) return { name, ...UNTRIED };
  try {
    const detail = await run(directory);
    if (typeof detail === "string") return { name, state: "ok", detail, fix: null };
    return { name, state: "warning", detail: detail.warning, fix };
  } catch (error) {
    const hint = (error instanceof SlotbusError && error.hint) || "";
    const detail = (error as Error).message.replace(hint && ` ${hint}`, "").split("\n")[0]!;
    return { name, state: "fault", detail, fix: hint || fix };
  }
}

function platform(): string {
  const found = `${platformName()}, ${process.platform} ${release()}`;
  if (process.platform === "linux" && ["x64", "arm64"].includes(process.arch)) return found;
  throw new CommandError(found);
}

function bun(): string {
  checkBun(Bun.version);
  return Bun.version;
}

async function library(): Promise<Detail> {
  const path = findLibrary();
  const loading = import("../native/library.ts");
  const refused = await loading.then(() => null).catch((error: unknown) => error);
  if (isSystemRefusal(refused)) return { warning: refused.message.replace(` ${refused.hint}`, "") };
  const { ABI } = await loading;
  return `${path} (${origin(path)}), ABI ${ABI}, ${size(statSync(path).size)}`;
}

/** Says which wire a bus gets here, and why. */
async function wire(): Promise<Detail> {
  const { chooseWire } = await import("../wires/choose.ts");
  const { module, why, cure } = await chooseWire();
  const detail = `${module.kind}: ${why}`;
  return cure === null ? detail : { warning: detail };
}

/** Checks the launcher, which only supervised workers need. */
function launcher(): Detail {
  const path = findLauncher();
  if (path === null) return { warning: "not found: supervised workers may outlive a host that is killed" };
  checkPacked(path);
  return `${path} (${origin(path)})`;
}

/** Describes where a file comes from. Its checksum was compared before. */
function origin(path: string): string {
  const { from, packedSha256 } = originOf(path);
  return packedSha256 === null ? from : `${from}, checksum ok`;
}

async function runtimeDirectory(directory: string): Promise<string> {
  const { openDirectory } = await import("../native/directory.ts");
  const found = statSync(directory, { throwIfNoEntry: false });
  const mode = (found?.mode ?? 0) & 0o7777;
  const dir = openDirectory(directory, { shared: mode === 0o711 });
  if (dir !== null) {
    closeSync(dir);
    return `${directory}, mode ${mode.toString(8).padStart(4, "0")}, uid ${found!.uid}`;
  }
  accessSync(dirname(directory), constants.W_OK);
  return `${directory} does not exist yet; the first bus creates it`;
}

/** Counts the buses, and the clients of those that several share. */
async function buses(directory: string): Promise<string> {
  const { readNames } = await import("./directory.ts");
  const alive = readNames(directory).buses.filter(({ isAlive }) => isAlive);
  const shared = alive.filter(({ clients }) => clients.length > 0);
  const each = shared.slice(0, NAMES).map(({ name, clients }) => `${name} with ${count(clients.length, "client")}`);
  const more = shared.length > NAMES ? ` and ${shared.length - NAMES} more` : "";
  return `${count(alive.length, "bus", "buses")}${each.length > 0 ? `; shared: ${each.join(", ")}${more}` : ""}`;
}

function space(directory: string): Detail {
  const folder = existsSync(directory) ? directory : dirname(directory);
  const { bavail, blocks, bsize, ffree, files } = statfsSync(folder);
  const detail = `${size(bavail * bsize)} free of ${size(blocks * bsize)} at ${folder}`;
  if (bavail === 0 || (files > 0 && ffree === 0)) throw new CommandError(detail);
  return bavail * bsize < SPACE_BYTES ? { warning: detail } : detail;
}

/** Checks free memory of the machine and the cgroup: regions are memory, not files in /dev/shm. */
function memory(): Detail {
  const available = Number(/MemAvailable:\s+(\d+) kB/.exec(readText("/proc/meminfo"))?.[1] ?? 0) * 1_024;
  const limit = Number(readText("/sys/fs/cgroup/memory.max")) || Infinity;
  const used = Number(readText("/sys/fs/cgroup/memory.current")) || 0;
  const left = Math.min(available || Infinity, limit - used);
  if (!Number.isFinite(left)) return "unknown";
  const detail = `${size(Math.max(0, left))} available${limit === Infinity ? "" : ` under a limit of ${size(limit)}`}`;
  return left < MEMORY_BYTES ? { warning: detail } : detail;
}

function descriptors(): Detail {
  const limit = /Max open files\s+(\S+)/.exec(readText("/proc/self/limits"))?.[1] ?? "unknown";
  return Number(limit) < FILES ? { warning: `at most ${limit}` } : limit;
}

function wakeMode(): Detail {
  const processors = availableParallelism();
  if (processors === 1) return { warning: "1 processor: slotbus does not spin, it sleeps at once" };
  return `${processors} processors: slotbus spins for up to 50 µs, then sleeps until a doorbell rings`;
}

// ---- a real round trip ------------------------------------------------------------------------------------------------

/** Returns the command that started this program, to run it again. */
function ourselves(): string[] {
  return Bun.main.startsWith("/$bunfs/") ? [process.execPath] : [process.execPath, Bun.main];
}

async function roundTrip(directory: string): Promise<string> {
  const { SlotBus } = await import("../slotbus.ts");
  const name = `doctor-${process.pid}-${Date.now().toString(36)}`;
  await using bus = await SlotBus.create({ name, directory, slots: 4 });
  const child = Bun.spawn([...ourselves(), "doctor", "--answer", name, "--directory", directory], {
    stdio: ["ignore", "ignore", "pipe"],
  });
  try {
    const ended = child.exited.then(async (code) => {
      const [why] = (await child.stderr.text()).trim().split("\n");
      throw new CommandError(`The other process exited with code ${code}: ${why}`);
    });
    ended.catch(() => {});
    const times = await Promise.race([measure(bus), ended]);
    const at = (part: number): string => microseconds(times[Math.floor(times.length * part)]! * 1_000);
    return `p50 ${at(0.5)}, p99 ${at(0.99)}: ${ROUND_TRIPS} requests of 64 B to another process; measure with slotbus bench`;
  } finally {
    child.kill();
    await child.exited;
  }
}

/** Returns the sorted times of the round trips, in ms. */
async function measure(bus: import("../slotbus.ts").SlotBus): Promise<Float64Array> {
  await bus.ready({ timeout: READY_MS });
  const times = new Float64Array(WARM_UP + ROUND_TRIPS);
  for (let i = 0; i < times.length; i++) {
    const began = performance.now();
    await bus.request({ path: "/", body: new Uint8Array(64) });
    times[i] = performance.now() - began;
  }
  return times.subarray(WARM_UP).sort();
}

async function answerRoundTrips(name: string, directory: string | undefined): Promise<void> {
  const { SlotWorker } = await import("../slot-worker.ts");
  const worker = await SlotWorker.open({ name, reconnect: false, ...(directory !== undefined && { directory }) });
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
