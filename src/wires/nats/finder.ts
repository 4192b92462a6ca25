/** Finds the clients of a bus over NATS and attaches one worker to them. */

import type { Msg, Subscription } from "@nats-io/transport-node";
import { backoff, type Backoff } from "../../backoff.ts";
import type { ResolvedWorkerOptions } from "../../bus/worker-options.ts";
import type { Clock, Timer } from "../../clock.ts";
import { BusNotFoundError, SlotbusError } from "../../errors.ts";
import { isUnheard, type NatsLink } from "../../nats/link.ts";
import { type BusSubjects, isId, makeId } from "../../nats/subjects.ts";
import type { FinderEvents, Finding } from "../socket/finder.ts";
import { joinClient } from "../socket/join.ts";
import { NatsDuplex } from "./duplex.ts";
import { type Counts, NatsService } from "./service.ts";

/** Pauses before it attaches again to a client, in ms. They grow until a session lasts for `max`. */
const RETURNS: Backoff = { initial: 20, max: 10_000 };
/** Time in which clients answer a look, in ms. */
const ANSWER_MS = 1_000;
/** Pause between two looks, in ms: only clients whose message was lost are found by them. */
const LOOK_MS = 10_000;

const utf8 = new TextDecoder();

/** The last session with a client. */
interface Session {
  /** `clock.now()` when the attempt to attach began. */
  since: number;
  /** Number of sessions that ended too early, one after another. */
  short: number;
}

/** A look that waits for its first answer. */
interface Look {
  settle(error: SlotbusError | null): void;
}

/** The server does not let a process subscribe to the subjects of its side. */
export function refusedBy(who: "a client" | "a worker", name: string, cause: Error): SlotbusError {
  const message = `The NATS server does not let this user be ${who} of bus "${name}": ${cause.message}.`;
  return new SlotbusError("PERMISSION_DENIED", message, {
    hint: "Give the user the permissions that docs/nats.md lists.",
    cause,
  });
}

/** The finder of one worker. */
export class NatsFinder implements Finding {
  readonly #link: NatsLink;
  readonly #options: ResolvedWorkerOptions;
  readonly #clock: Clock;
  readonly #subjects: BusSubjects;
  readonly #events: FinderEvents;
  readonly #id: string;
  // oxlint-disable-next-line no-restricted-globals -- the services protocol has the time of a calendar
  readonly #started = new Date().toISOString();
  /** Clients with a session or a handshake. */
  readonly #known = new Set<string>();
  readonly #sessions = new Map<string, Session>();
  readonly #timers = new Set<Timer>();
  readonly #looks = new Set<Look>();
  #subscriptions: Subscription[] | null = null;
  #entering: Promise<unknown> | null = null;
  #unwatch: () => void = () => {};
  #service: NatsService | null = null;
  /** Arguments of {@link offers}. */
  readonly #offers: Parameters<NatsService["offers"]>[] = [];
  #isOver = false;

  constructor(
    link: NatsLink,
    options: ResolvedWorkerOptions,
    clock: Clock,
    subjects: BusSubjects,
    events: FinderEvents,
    id: string,
  ) {
    this.#link = link;
    this.#id = id;
    this.#options = options;
    this.#clock = clock;
    this.#subjects = subjects;
    this.#events = events;
  }

  async look(tried?: (error: SlotbusError | null) => void): Promise<SlotbusError | null> {
    const error = await this.#look();
    tried?.(error);
    return error;
  }

  async #look(): Promise<SlotbusError | null> {
    try {
      await (this.#entering ??= this.#enter());
    } catch (error) {
      this.#entering = null;
      return error as SlotbusError;
    }
    if (this.#isOver || !this.#link.isConnected) return this.#notFound();
    const { promise, resolve } = Promise.withResolvers<SlotbusError | null>();
    const timer = this.#after(ANSWER_MS, () => look.settle(this.#notFound()));
    const look: Look = {
      settle: (error) => {
        this.#looks.delete(look);
        this.#forget(timer);
        resolve(error);
      },
    };
    this.#looks.add(look);
    this.#ask();
    return promise;
  }

  #notFound(): SlotbusError {
    return new BusNotFoundError(this.#options.name, this.#link.server, 0);
  }

  /** Connects, and listens for clients. */
  async #enter(): Promise<void> {
    const connection = await this.#link.enter();
    if (this.#isOver) return this.#link.leave();
    const { name } = this.#options;
    const own = this.#subjects.worker(this.#id);
    const counts = (): Counts => ({ ...this.#events.counts(), concurrency: this.#options.concurrency });
    this.#service = new NatsService(this.#link, name, this.#id, own, counts, this.#started);
    for (const offer of this.#offers) this.#service.offers(...offer);
    const callback = (error: Error | null, message: Msg): void => {
      if (error) this.#settle(refusedBy("a worker", this.#options.name, error));
      else if (isUnheard(message)) this.#settle(this.#notFound());
      else this.#heard(utf8.decode(message.data.subarray(0, 65)));
    };
    const { workers } = this.#subjects;
    this.#subscriptions = [workers, own].map((subject) => connection.subscribe(subject, { callback }));
    this.#unwatch = this.#link.watch((isConnected) => {
      if (!isConnected) return;
      this.#known.clear(); // all sessions ended with the last connection to the server
      this.#sessions.clear();
      this.#ask();
    });
    this.#lookAgain();
  }

  offers(contract: string, methods: readonly string[]): void {
    this.#offers.push([contract, methods]);
    this.#service?.offers(contract, methods);
  }

  #settle(error: SlotbusError | null): void {
    for (const look of this.#looks) look.settle(error);
  }

  readonly #lookAgain = (): void => {
    this.#after(LOOK_MS, () => {
      const now = this.#clock.now();
      for (const [client, { since }] of this.#sessions)
        if (!this.#known.has(client) && now - since > RETURNS.max) this.#sessions.delete(client);
      this.#ask();
      this.#lookAgain();
    });
  };

  #ask(): void {
    if (this.#isOver || !this.#link.isConnected) return;
    this.#link.connection.publish(this.#subjects.clients, "", { reply: this.#subjects.worker(this.#id) });
  }

  /** A client is there. */
  #heard(client: string): void {
    if (this.#isOver || !isId(client) || this.#known.has(client)) return;
    void this.#attach(client);
  }

  async #attach(client: string): Promise<void> {
    this.#known.add(client);
    const { name, concurrency } = this.#options;
    const { short = 0 } = this.#sessions.get(client) ?? {};
    this.#sessions.set(client, { since: this.#clock.now(), short });
    const { clients } = this.#subjects;
    const isPeer = (subject: string | undefined): boolean =>
      this.#subjects.isPrivate(clients, subject, 2) && subject.startsWith(`${this.#subjects.client(client)}.`);
    const own = this.#subjects.worker(this.#id, makeId());
    const error = await joinClient(
      async (opened) => opened(new NatsDuplex(this.#link, this.#clock, own, this.#subjects.client(client), isPeer)),
      name,
      this.#link.server,
      concurrency,
      this.#clock,
      (duplex, ...session) => {
        if (this.#isOver) duplex.end();
        else this.#events.attached(client, duplex, ...session);
      },
    );
    if (error) {
      if (!error.retryable) this.#events.refused(error);
      this.left(client, error instanceof BusNotFoundError || !error.retryable);
    }
    this.#settle(error);
  }

  left(client: string, isGone = false): void {
    const session = this.#sessions.get(client);
    if (!session || this.#isOver) return;
    const isShort = this.#clock.now() - session.since < RETURNS.max;
    const pause = backoff(isShort ? session.short : 0, RETURNS, this.#clock.random);
    session.short = isShort ? session.short + 1 : 1;
    this.#after(pause, () => {
      if (this.#sessions.get(client) !== session) return;
      this.#known.delete(client);
      if (isGone) this.#sessions.delete(client);
      else this.#ask();
    });
  }

  #after(ms: number, then: () => void): Timer {
    const timer = this.#clock.after(ms, () => {
      this.#timers.delete(timer);
      if (!this.#isOver) then();
    });
    timer.unref();
    this.#timers.add(timer);
    return timer;
  }

  #forget(timer: Timer): void {
    this.#timers.delete(timer);
    timer.close();
  }

  close(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#settle(this.#notFound());
    for (const timer of this.#timers) timer.close();
    this.#timers.clear();
    this.#unwatch();
    this.#service?.close();
    if (!this.#subscriptions) return; // `#enter` leaves by itself
    for (const subscription of this.#subscriptions) subscription.unsubscribe();
    void this.#link.leave();
  }
}
