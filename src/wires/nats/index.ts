/** The NATS wire: the frames of the socket wire, in messages of NATS. */

import { UnsupportedError } from "../../errors.ts";
import type { NatsLink } from "../../nats/link.ts";
import { BusSubjects } from "../../nats/subjects.ts";
import type { HeldName, WireModule } from "../module.ts";
import { SocketClient } from "../socket/client.ts";
import type { FinderEvents } from "../socket/finder.ts";
import { type HandshakeEvents, Handshakes } from "../socket/handshakes.ts";
import { SocketWorker } from "../socket/worker.ts";
import { NatsFinder } from "./finder.ts";
import { NatsListener, remotePeer } from "./listener.ts";

/** Number of clients that a name has on one machine; the number of a client is random here. */
const CLIENTS = 64;

/** Returns the wire over one connection. */
export function natsWire(link: NatsLink): WireModule {
  return {
    kind: "nats",
    async takeName(how, { name }): Promise<HeldName> {
      if (how === "own") {
        throw new UnsupportedError(
          `SlotBus.create owns the name "${name}" on one machine, and a NATS server serves many.`,
          {
            hint: "Call SlotBus.connect: the clients of a name share its workers.",
          },
        );
      }
      await link.enter();
      const random = crypto.getRandomValues(new Uint32Array(1))[0]!;
      return { client: random % CLIENTS, release: () => void link.leave() };
    },
    client: (parts, events) => {
      const { bus, clock, tag } = parts;
      const listen = (accept: HandshakeEvents): NatsListener => {
        const handshakes = new Handshakes(clock, bus, tag, accept, remotePeer);
        return new NatsListener(link, clock, new BusSubjects(link.prefix, bus.name), handshakes);
      };
      return new SocketClient("nats", parts, events, listen);
    },
    worker: (options, clock, arrivals) => {
      const subjects = new BusSubjects(link.prefix, options.name);
      const find = (events: FinderEvents): NatsFinder => new NatsFinder(link, options, clock, subjects, events);
      return new SocketWorker("nats", link.server, options, clock, arrivals, find);
    },
  };
}
