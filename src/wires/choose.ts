/** Chooses the wire of this process, and loads only that one: the memory wire needs Bun on Linux and the C library. */

import { InvalidConfigError, UnsupportedError } from "../errors.ts";
import { isBun } from "../runtime.ts";
import type { Via, WireKind } from "../bus/via.ts";
import type { WireModule } from "./module.ts";

/** Why this process cannot share memory; `null` if it can. */
export function whyNoMemory(): string | null {
  if (!isBun) return "Node has no access to shared memory";
  return process.platform === "linux" ? null : `shared memory needs Linux, and this is ${process.platform}`;
}

/** Returns the wire that `SLOTBUS_WIRE` asks for. @throws {InvalidConfigError} */
function wireOfEnvironment(): WireKind | undefined {
  const given = process.env["SLOTBUS_WIRE"];
  if (!given) return undefined;
  if (given === "memory" || given === "socket") return given;
  throw new InvalidConfigError(`SLOTBUS_WIRE is ${JSON.stringify(given)}; it must be memory or socket.`);
}

/** Loads the wire of this process. @throws (rejects) {UnsupportedError} */
export async function loadWire(via?: Via): Promise<WireModule> {
  const wanted = via?.wire ?? wireOfEnvironment();
  const why = whyNoMemory();
  if (why === null && wanted !== "socket") return (await import("./memory/index.ts")).memory as WireModule;
  if (wanted !== "memory") return (await import("./socket/index.ts")).socket as WireModule;
  throw new UnsupportedError(`slotbus cannot share memory here: ${why}.`, {
    hint: "Leave out `via: memory()`: the bus then uses a socket.",
  });
}
