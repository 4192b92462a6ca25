/** The socket wire. */

import type { WireModule } from "../module.ts";
import { SocketClient } from "./client.ts";
import type { SocketName } from "./name.ts";
import { SocketWorker } from "./worker.ts";

export const socket: WireModule<SocketName> = {
  kind: "socket",
  async takeName(how, { directory, name, allowedUids }) {
    const { NameLock } = await import("../../native/name.ts");
    return NameLock[how](directory, name, allowedUids.length > 0);
  },
  client: (parts, events) => new SocketClient(parts, events),
  worker: (options, clock, arrivals) => new SocketWorker(options, clock, arrivals),
};
