/** The NATS wire: the frames of the socket wire, in messages of NATS. */

import { UnsupportedError } from "../../errors.ts";
import type { NatsLink } from "../../nats/link.ts";
import { BusSubjects, makeId } from "../../nats/subjects.ts";
import type { HeldName, WireModule } from "../module.ts";
import { SocketClient } from "../socket/client.ts";
import type { FinderEvents } from "../socket/finder.ts";
import { type HandshakeEvents, Handshakes } from "../socket/handshakes.ts";
import { SocketWorker } from "../socket/worker.ts";
import { NatsFinder, refusedBy } from "./finder.ts";
import { NatsListener } from "./listener.ts";

/** Number of clients that a name has on one machine; the number of a client is random here. */
const CLIENTS = 64;

/** Whether this process may be a client: the server says so only when it refuses. @throws (rejects) `PERMISSION_DENIED` */
async function checkClient(link: NatsLink, subjects: BusSubjects, name: string): Promise<void> {
  let refusal: Error | null = null;
  const callback = (error: Error | null): void => void (refusal ??= error);
  const { connection } = link;
  const subscription = connection.subscribe(subjects.client(makeId()), { callback });
  await connection.flush().catch(() => {}); // the connection is lost: the bus waits for the next one
  if (!refusal) return subscription.unsubscribe();
  await link.leave();
  throw refusedBy("a client", name, refusal);
}

/** Returns the wire over one connection. `instance`: the id of its worker; a new one by default. */
export function natsWire(link: NatsLink, instance?: string): WireModule {
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
      await checkClient(link, new BusSubjects(link.prefix, name), name);
      const random = crypto.getRandomValues(new Uint32Array(1))[0]!;
      return { client: random % CLIENTS, release: () => void link.leave() };
    },
    client: (parts, events) => {
      const { bus, clock, tag } = parts;
      const listen = (accept: HandshakeEvents): NatsListener => {
        const handshakes = new Handshakes(clock, bus, tag, accept);
        const subjects = new BusSubjects(link.prefix, bus.name);
        return new NatsListener(link, clock, subjects, handshakes, (lost) => events.linked(lost));
      };
      return new SocketClient("nats", parts, events, listen);
    },
    worker: (options, clock, arrivals) => {
      const subjects = new BusSubjects(link.prefix, options.name);
      const find = (events: FinderEvents): NatsFinder =>
        new NatsFinder(link, options, clock, subjects, events, instance ?? makeId());
      return new SocketWorker("nats", link.server, options, clock, arrivals, find);
    },
  };
}
