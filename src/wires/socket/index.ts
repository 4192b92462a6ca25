/** The socket wire. */

import type { BusName, WireModule } from "../module.ts";
import { PortableName } from "../name.ts";
import { SocketClient } from "./client.ts";
import { SocketWorker } from "./worker.ts";

export const socket: WireModule<BusName> = {
  kind: "socket",
  takeName: (how, { directory, name, allowedUids }) => PortableName.take(how, directory, name, allowedUids.length > 0),
  client: (parts, events) => new SocketClient(parts, events),
  worker: (options, clock, arrivals) => new SocketWorker(options, clock, arrivals),
};
