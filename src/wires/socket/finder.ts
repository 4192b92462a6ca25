/** Finds the clients of a bus and attaches to them by frames: to the owner, or to each of those that share it. */

import { backoff, type Backoff } from "../../backoff.ts";
import type { ResolvedWorkerOptions } from "../../bus/worker-options.ts";
import type { Clock, Timer } from "../../clock.ts";
import { BusNotFoundError, type SlotbusError } from "../../errors.ts";
import { findAddresses, isShared, socketIdentity } from "./addresses.ts";
import { type Attached, connectSocket, joinClient } from "./join.ts";

/** Pauses between attempts to attach to a client that is busy, in ms. */
const ATTEMPTS: Backoff = { initial: 10, max: 1_000 };
/** Pauses before it attaches again to a client whose session has ended, in ms. They grow until a session lasts for `max`. */
const RETURNS: Backoff = { initial: 10, max: 10_000 };
/** Pause between two looks for new clients of a shared bus, in ms. */
const LOOK_MS = 1_000;

/** The last session with the client at an address. */
interface Session {
  /** Identity of the client's socket file. */
  readonly socket: string;
  /** `clock.now()` when the attempt to attach began. */
  readonly since: number;
  /** Number of sessions that ended too early, one after another. */
  readonly short: number;
  /** `clock.now()` until which the worker does not attach to this socket; 0 while the session lasts. */
  readonly until: number;
}

/** Reports of a finder. */
export interface FinderEvents {
  /** The worker attached to the client at an address. */
  attached(address: string, ...session: Parameters<Attached>): void;
  /** A client cannot be attached to, and is not tried again before something changes. */
  refused(error: SlotbusError): void;
}

/** Finds the clients of one worker and attaches to them. */
export interface Finding {
  /**
   * Attaches to each client that is there and not attached. Resolves when the first is attached, to `null`; or when the first try
   * of each has failed, to an error. `tried` is called after the first try of the last.
   */
  look(tried?: (error: SlotbusError | null) => void): Promise<SlotbusError | null>;
  /** The session with the client at `address` has ended. Attaches to a client of a shared bus again after a pause. */
  left(address: string): void;
  close(): void;
}

/** Attaches one worker. Looks for new clients of a shared bus every second. */
export class Finder implements Finding {
  readonly #options: ResolvedWorkerOptions;
  readonly #clock: Clock;
  readonly #events: FinderEvents;
  /** Addresses of clients with a session or a handshake. */
  readonly #known = new Set<string>();
  readonly #sessions = new Map<string, Session>();
  readonly #timers = new Set<Timer>();
  #isLooking = false;
  #isOver = false;

  constructor(options: ResolvedWorkerOptions, clock: Clock, events: FinderEvents) {
    this.#options = options;
    this.#clock = clock;
    this.#events = events;
  }

  look(tried?: (error: SlotbusError | null) => void): Promise<SlotbusError | null> {
    const { name, directory } = this.#options;
    const found = findAddresses(directory, name).filter((one) => !this.#known.has(one) && !this.#rests(one));
    const { promise, resolve } = Promise.withResolvers<SlotbusError | null>();
    let left = found.length;
    const done = (error: SlotbusError | null): void => {
      left--;
      if (error === null || left <= 0) resolve(error);
      if (left <= 0) tried?.(error);
    };
    if (left === 0) done(new BusNotFoundError(name, directory, 0));
    for (const address of found) void this.#attach(address, done);
    return promise;
  }

  /** Whether the client at `address` is the one whose session has ended a moment ago. */
  #rests(address: string): boolean {
    const session = this.#sessions.get(address);
    if (!session || this.#clock.now() >= session.until) return false;
    return session.socket === socketIdentity(this.#options.directory, address);
  }

  async #attach(address: string, done: (error: SlotbusError | null) => void): Promise<void> {
    const { name, directory, concurrency } = this.#options;
    const connect = connectSocket(directory, address);
    this.#known.add(address);
    const { short = 0 } = this.#sessions.get(address) ?? {};
    const socket = socketIdentity(directory, address);
    this.#sessions.set(address, { socket, since: this.#clock.now(), short, until: 0 });
    for (let attempt = 0; ; attempt++) {
      const error = await joinClient(connect, name, directory, concurrency, this.#clock, (duplex, ...session) => {
        if (this.#isOver) duplex.end();
        else this.#attached(address, duplex, ...session);
      });
      if (attempt === 0) done(error);
      if (error === null) return;
      if (!isShared(address) || !error.retryable || error instanceof BusNotFoundError || this.#isOver) {
        this.#known.delete(address);
        if (!error.retryable) this.#events.refused(error);
        return;
      }
      await new Promise<void>((resolve) => this.#after(backoff(attempt, ATTEMPTS, this.#clock.random), resolve));
      if (this.#isOver) return;
    }
  }

  #attached(address: string, ...session: Parameters<Attached>): void {
    this.#events.attached(address, ...session);
    if (isShared(address) && !this.#isLooking) this.#lookAgain();
  }

  readonly #lookAgain = (): void => {
    this.#isLooking = true;
    void this.look();
    this.#after(LOOK_MS, this.#lookAgain);
  };

  #after(ms: number, then: () => void): void {
    const timer = this.#clock.after(ms, () => {
      this.#timers.delete(timer);
      if (!this.#isOver) then();
    });
    timer.unref();
    this.#timers.add(timer);
  }

  left(address: string): void {
    this.#known.delete(address);
    const session = this.#sessions.get(address);
    if (!session || this.#isOver) return;
    const now = this.#clock.now();
    const short = now - session.since < RETURNS.max ? session.short : 0;
    const initial = this.#options.reconnect?.initial ?? RETURNS.initial;
    const pause = backoff(short, { initial, max: Math.max(initial, RETURNS.max) }, this.#clock.random);
    this.#sessions.set(address, { ...session, short: short + 1, until: now + pause });
    if (isShared(address)) this.#after(pause, () => void this.look());
  }

  close(): void {
    this.#isOver = true;
    for (const timer of this.#timers) timer.close();
    this.#timers.clear();
  }
}
