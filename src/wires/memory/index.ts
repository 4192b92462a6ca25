/** The memory wire. Importing this file loads the C library. */

import { ClientHandle } from "../../native/client.ts";
import { NameLock } from "../../native/name.ts";
import type { WireModule } from "../module.ts";
import { MemoryClient } from "./client.ts";
import { nameLeaves } from "./leaves.ts";
import { MemoryWorker } from "./worker.ts";

ClientHandle.probe();
nameLeaves();

export const memory: WireModule<NameLock> = {
  kind: "memory",
  takeName: (how, { directory, name, allowedUids }) => NameLock[how](directory, name, allowedUids.length > 0),
  client: (parts, events) => new MemoryClient(parts, events),
  worker: (options, clock, arrivals) => new MemoryWorker(options, clock, arrivals),
};
