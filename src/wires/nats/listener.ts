/** Accepts the workers of a bus over NATS: says that this client is there, and where to join. */

import type { Msg, Subscription } from "@nats-io/transport-node";
import type { Clock } from "../../clock.ts";
import type { WireEvents } from "../../bus/wire.ts";
import { disconnected, type NatsLink } from "../../nats/link.ts";
import { type BusSubjects, makeId } from "../../nats/subjects.ts";
import type { PeerProcess } from "../socket/company.ts";
import type { Handshakes } from "../socket/handshakes.ts";
import { NatsDuplex } from "./duplex.ts";

/** A process on any machine. Nothing proves its end, so the end of its connection counts as its end. */
function remotePeer(pid: number, instance: string): PeerProcess {
  return { pid, uid: -1, instance, hasEnded: true, forget: () => {} };
}

/** One client. */
export class NatsListener {
  readonly #link: NatsLink;
  readonly #clock: Clock;
  readonly #subjects: BusSubjects;
  readonly #handshakes: Handshakes;
  readonly #looks: Subscription;
  /** Changes with each connection to the server, because all sessions ended with the last one: so workers come back at once. */
  #id = "";
  #joins: Subscription | null = null;
  readonly #unwatch: () => void;

  /** Accepts workers from now on. `linked`: see `WireEvents`. @throws `DISCONNECTED` */
  constructor(
    link: NatsLink,
    clock: Clock,
    subjects: BusSubjects,
    handshakes: Handshakes,
    linked: WireEvents["linked"],
  ) {
    this.#link = link;
    this.#clock = clock;
    this.#subjects = subjects;
    this.#handshakes = handshakes;
    this.#looks = this.#read(subjects.clients, (message) => this.#found(message));
    this.#unwatch = link.watch((isConnected) => {
      if (isConnected) this.#announce();
      linked(isConnected ? null : disconnected());
    });
    this.#announce();
  }

  get isLinked(): boolean {
    return this.#link.isConnected;
  }

  #read(subject: string, handle: (message: Msg) => void): Subscription {
    const callback = (error: Error | null, message: Msg): void => void (error ?? handle(message));
    return this.#link.connection.subscribe(subject, { callback });
  }

  #announce(): void {
    this.#joins?.unsubscribe();
    this.#id = makeId();
    this.#joins = this.#read(this.#subjects.client(this.#id), (message) => this.#join(message));
    this.#link.connection.publish(this.#subjects.workers, this.#id);
  }

  /** A worker looks for clients. */
  #found({ reply }: Msg): void {
    if (!this.#link.isConnected || !this.#subjects.isPrivate(this.#subjects.workers, reply, 1)) return;
    this.#link.connection.publish(reply, this.#id);
  }

  /** A worker joins. */
  #join(message: Msg): void {
    const { reply } = message;
    if (!this.#link.isConnected || !this.#subjects.isPrivate(this.#subjects.workers, reply, 2)) return;
    const duplex = new NatsDuplex(this.#link, this.#clock, this.#subjects.client(this.#id, makeId()), reply, null);
    const instance = reply.slice(this.#subjects.workers.length + 1).split(".")[0]!;
    this.#handshakes.accept(duplex, (pid) => remotePeer(pid, instance));
    duplex.received(message);
  }

  close(): void {
    this.#unwatch();
    this.#looks.unsubscribe();
    this.#joins?.unsubscribe();
    this.#handshakes.close();
  }
}
