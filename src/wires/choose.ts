/** Chooses the wire of this process, and loads only that one: the memory wire needs Bun on Linux and the C library. */

import { InvalidConfigError, SlotbusError, UnsupportedError } from "../errors.ts";
import { isSystemRefusal } from "../errors/plain.ts";
import { isBun } from "../runtime.ts";
import type { Via, WireKind } from "../bus/via.ts";
import type { NatsVia } from "../nats/index.ts";
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
  if (given === "memory" || given === "socket" || given === "nats") return given;
  throw new InvalidConfigError(`SLOTBUS_WIRE is ${JSON.stringify(given)}; it must be memory, socket or nats.`);
}

/** The wire of this process. */
export interface WireChoice {
  readonly module: WireModule;
  /** Why the process uses this wire. */
  readonly why: string;
  /** How to get the memory wire, when the system refuses it; `null` otherwise. */
  readonly cure: string | null;
}

/** Whether the fallback to the socket wire was reported. */
let isWarned = false;

/** Chooses and loads the wire of this process. @throws (rejects) {UnsupportedError} */
export async function chooseWire(via?: Via): Promise<WireChoice> {
  const wanted = via?.wire ?? wireOfEnvironment();
  if (wanted === "nats") return loadNats(via as NatsVia | undefined);
  const by = via ? `the option \`via\` is ${via.wire}()` : `SLOTBUS_WIRE is ${wanted}`;
  const why = whyNoMemory();
  if (why !== null && wanted === "memory") {
    throw new UnsupportedError(`slotbus cannot share memory here: ${why}.`, {
      hint: "Leave out `via: memory()`: the bus then uses a socket.",
    });
  }
  if (wanted === "socket") return { module: await loadSocket(), why: by, cure: null };
  if (why !== null) return { module: await loadSocket(), why, cure: null };
  try {
    const { memory } = await loaded(import("./memory/index.ts"));
    return { module: memory as WireModule, why: wanted ? by : "this is Bun on Linux", cure: null };
  } catch (error) {
    if (wanted === "memory" || !isSystemRefusal(error)) throw error;
    const [what = ""] = error.message.split(` ${error.hint}`);
    return { module: await loadSocket(), why: what.replace(/\.$/, ""), cure: error.hint ?? null };
  }
}

/** The server that the environment names, for all buses and workers of the process. */
let natsOfEnvironment: NatsVia | null = null;

/** Returns the server that the environment names; `null` if `SLOTBUS_WIRE` is not nats. @throws (rejects) `RESOURCE` */
export function findRemote(): Promise<NatsVia> | null {
  return wireOfEnvironment() === "nats" ? loadRemote() : null;
}

async function loadRemote(): Promise<NatsVia> {
  const entry = ["slotbus", "nats"].join("/"); // not in a bundle: its client library is an optional package
  const { nats } = await loaded(import(entry) as Promise<typeof import("../nats/index.ts")>);
  return (natsOfEnvironment ??= nats({ servers: process.env["NATS_URL"] }));
}

async function loadNats(via: NatsVia | undefined): Promise<WireChoice> {
  const { natsWire } = await loaded(import("./nats/index.ts"));
  if (via) return { module: natsWire(via.link, via.instance), why: "the option `via` is nats()", cure: null };
  return { module: natsWire((await loadRemote()).link), why: "SLOTBUS_WIRE is nats", cure: null };
}

async function loadSocket(): Promise<WireModule> {
  return (await loaded(import("./socket/index.ts"))).socket as WireModule;
}

/** Resolves as an import does. @throws (rejects) the module's own errors; `RESOURCE` if a file cannot be read */
async function loaded<T>(module: Promise<T>): Promise<T> {
  try {
    return await module;
  } catch (cause) {
    if (cause instanceof SlotbusError) throw cause;
    throw new SlotbusError("RESOURCE", `Cannot load a part of slotbus: ${(cause as Error).message}.`, { cause });
  }
}

/** Loads the wire of this process. Warns once if the system refuses the faster one. @throws (rejects) {UnsupportedError} */
export async function loadWire(via?: Via): Promise<WireModule> {
  const { module, why, cure } = await chooseWire(via);
  if (cure !== null && !isWarned) {
    isWarned = true;
    process.emitWarning(`${why}. The bus uses a socket, which is slower. ${cure}`, { type: "SlotbusWarning" });
  }
  return module;
}
