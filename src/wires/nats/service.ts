/** Answers the NATS services protocol ($SRV.PING, INFO, STATS), so that tools such as `nats micro` see the workers. */

import { hostname } from "node:os";
import type { Msg, Subscription } from "@nats-io/transport-node";
import { C } from "../../native/abi.ts";
import type { NatsLink } from "../../nats/link.ts";

/** What a worker has done. */
export interface Counts {
  /** Number of requests that it took, and number of those that run. */
  readonly taken: number;
  readonly running: number;
  /** Number of requests that it runs at once. */
  readonly concurrency: number;
}

/** Version of the frames, as a semantic version. */
const VERSION = `${C.SB_ABI}.0.0`;

/** One worker as a service with the name of its bus, and an endpoint for each method of its contracts. */
export class NatsService {
  readonly #link: NatsLink;
  readonly #identity: {
    readonly name: string;
    readonly id: string;
    readonly version: string;
    readonly metadata: object;
  };
  readonly #subject: string;
  readonly #counts: () => Counts;
  readonly #started: string;
  /** Methods by the name of their contract. */
  readonly #contracts = new Map<string, readonly string[]>();
  readonly #subscriptions: Subscription[];

  /** `subject`: the private subject of the worker. `started`: when it was opened. */
  constructor(link: NatsLink, bus: string, id: string, subject: string, counts: () => Counts, started: string) {
    this.#link = link;
    const name = bus.replaceAll(".", "_"); // services have no dots in their names
    const metadata = { bus, host: hostname(), pid: String(process.pid), protocol: "slotbus" };
    this.#identity = { name, id, version: VERSION, metadata };
    this.#subject = subject;
    this.#counts = counts;
    this.#started = started;
    const callback = (error: Error | null, message: Msg): void => void (error ?? this.#answer(message));
    this.#subscriptions = ["$SRV.*", `$SRV.*.${name}`, `$SRV.*.${name}.${id}`].map((all) =>
      link.connection.subscribe(all, { callback }),
    );
  }

  offers(contract: string, methods: readonly string[]): void {
    this.#contracts.set(contract, methods);
  }

  #answer(message: Msg): void {
    if (!message.reply || !this.#link.isConnected) return;
    const verb = message.subject.split(".")[1]!;
    const answer = verb === "PING" ? {} : verb === "INFO" ? this.#info() : verb === "STATS" ? this.#stats() : null;
    if (!answer) return;
    const type = `io.nats.micro.v1.${verb.toLowerCase()}_response`;
    message.respond(JSON.stringify({ type, ...this.#identity, ...answer }));
  }

  #info(): object {
    const methods = [...this.#contracts].flatMap(([contract, names]) => names.map((name) => `${contract}-${name}`));
    const endpoint = (name: string): object => ({ name, subject: this.#subject, queue_group: "", metadata: {} });
    return { description: "a worker of slotbus", endpoints: ["requests", ...methods].map(endpoint) };
  }

  #stats(): object {
    const { taken, running, concurrency } = this.#counts();
    const times = { processing_time: 0, average_processing_time: 0 }; // not measured
    const requests = { num_requests: taken, num_errors: 0, last_error: "", ...times, data: { running, concurrency } };
    const endpoints = [{ name: "requests", subject: this.#subject, queue_group: "", ...requests }];
    return { started: this.#started, endpoints };
  }

  close(): void {
    for (const subscription of this.#subscriptions) subscription.unsubscribe();
  }
}
