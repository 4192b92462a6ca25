/** Chooses the wire of this process, and loads only that one: the memory wire needs Bun on Linux and the C library. */

import { UnsupportedError } from "../errors.ts";
import { isBun } from "../runtime.ts";
import type { WireModule } from "./module.ts";

/** Why this process cannot share memory; `null` if it can. */
export function whyNoMemory(): string | null {
  if (!isBun) return "Node has no access to shared memory";
  return process.platform === "linux" ? null : `shared memory needs Linux, and this is ${process.platform}`;
}

/** Loads the wire of this process. @throws (rejects) {UnsupportedError} */
export async function loadWire(): Promise<WireModule> {
  if (process.env["SLOTBUS_WIRE"] === "socket" || whyNoMemory() !== null)
    return (await import("./socket/index.ts")).socket as WireModule;
  const why = whyNoMemory();
  if (why === null) return (await import("./memory/index.ts")).memory as WireModule;
  throw new UnsupportedError(`slotbus cannot open a bus here: ${why}.`, { hint: "Run the program with Bun on Linux." });
}
