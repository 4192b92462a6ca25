/** The socket wire. */

import type { BusName, WireModule } from "../module.ts";
import { PortableName } from "../name.ts";
import { SocketClient } from "./client.ts";
import { Finder, type FinderEvents } from "./finder.ts";
import { Listener } from "./listener.ts";
import { SocketWorker } from "./worker.ts";

export const socket: WireModule<BusName> = {
  kind: "socket",
  takeName: (how, { directory, name, allowedUids }) => PortableName.take(how, directory, name, allowedUids.length > 0),
  client: (parts, events) => {
    const { clock, name, bus, tag } = parts;
    return new SocketClient("socket", parts, events, (accept) => new Listener(clock, name, bus, tag, accept));
  },
  worker: (options, clock, arrivals) => {
    const find = (events: FinderEvents): Finder => new Finder(options, clock, events);
    return new SocketWorker("socket", options.directory, options, clock, arrivals, find);
  },
};
