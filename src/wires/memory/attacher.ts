/** Finds the clients of a bus and attaches to them: to the client that owns it, or to each of those that share it. */

import { statSync } from "node:fs";
import { join } from "node:path";
import { backoff, type Backoff } from "../../backoff.ts";
import type { ResolvedWorkerOptions } from "../../bus/worker-options.ts";
import type { Clock, Timer } from "../../clock.ts";
import { BusNotFoundError, type SlotbusError } from "../../errors.ts";
import { addressesOf, closeDirectory, openDirectory } from "../../native/directory.ts";
import { Door } from "../../native/door.ts";
import { WorkerHandle } from "../../native/worker.ts";

/** Pauses between attempts to attach to a client that is busy, in ms. */
const ATTEMPTS: Backoff = { initial: 10, max: 1_000 };
/** Pauses before it attaches again to a client whose session has ended, in ms. They grow until a session lasts for `max`. */
const RETURNS: Backoff = { initial: 10, max: 10_000 };
/** Pause between two looks of a worker without a door, in ms. */
const LOOK_MS = 1_000;

/** Time of the next step while a step runs. */
const RUNNING = Infinity;

/** What an attacher knows about the client at an address. */
interface Session {
  /** Identity of the client's socket file. */
  readonly socket: string;
  /** `clock.now()` when the attempt to attach began. */
  readonly since: number;
  /** Number of sessions that ended too early, one after another. */
  readonly short: number;
  /** `clock.now()` until which the worker does not attach to this socket; 0 while the session lasts. */
  until: number;
}

/** Reports of an attacher. */
export interface AttacherEvents {
  /** The worker attached to a client: the owner of a name at the address `NAME`, client K of a shared name at `NAME@K`. */
  attached(handle: WorkerHandle, address: string): void;
  /** A client cannot be attached to, and is not tried again before something changes. */
  refused(error: SlotbusError): void;
}

/**
 * Attaches one worker. On a shared bus the worker has a door, a socket at which each new client knocks. The worker opens its
 * door and then looks who is there, and a client listens and then knocks, so that one of them sees the other.
 */
export class Attacher {
  readonly #options: ResolvedWorkerOptions;
  readonly #clock: Clock;
  readonly #events: AttacherEvents;
  /** Addresses of clients with a session or a handshake. */
  readonly #known = new Set<string>();
  /** The last session with the client at each address: see {@link Session}. */
  readonly #sessions = new Map<string, Session>();
  /** Attempts to attach, by address. `due`: when the next step is due, in ms of the clock. */
  readonly #attempts = new Map<string, { steps: Generator<number, void>; due: number }>();
  /** Makes the next steps, unless the thread is blocked. */
  #timer: Timer | null = null;
  #door: Door | null = null;
  /** Descriptor of the door's directory; -1: none. */
  #dir = -1;
  /** Whether a look follows in the next turn. */
  #isDue = false;
  /** Whether it looks again and again. */
  #isLooking = false;
  #isOver = false;

  constructor(options: ResolvedWorkerOptions, clock: Clock, events: AttacherEvents) {
    this.#options = options;
    this.#clock = clock;
    this.#events = events;
  }

  /** Descriptor at which a knock arrives; -1: there is no door. */
  get door(): number {
    return this.#door?.fd ?? -1;
  }

  /**
   * Attaches to each client that is there and not attached. Resolves when the first is attached, to `null`; or when the first try
   * of each has failed, to an error. Busy clients are tried again after that. `tried` is called after the first try of the last.
   */
  look(tried?: (error: SlotbusError | null) => void): Promise<SlotbusError | null> {
    const { promise, resolve } = Promise.withResolvers<SlotbusError | null>();
    const found = this.#find();
    if (!Array.isArray(found)) {
      tried?.(found);
      return Promise.resolve(found);
    }
    let left = found.length;
    const done = (error: SlotbusError | null): void => {
      left--;
      if (error === null || left === 0) resolve(error);
      if (left === 0) tried?.(error);
    };
    for (const address of found) this.#attempts.set(address, { steps: this.#attach(address, done), due: 0 });
    this.#run();
    return promise;
  }

  /** As {@link look}, for a worker without an event loop: {@link step} makes the steps. */
  lookSync(): void {
    const found = this.#find();
    if (!Array.isArray(found)) return;
    for (const address of found) this.#attempts.set(address, { steps: this.#attach(address, () => {}), due: 0 });
  }

  /**
   * Makes the steps that are due, without blocking: a client that does not answer delays no other. Returns the time until the next
   * step, in ms; `Infinity`: there are no steps left.
   */
  step(): number {
    if (this.#attempts.size === 0) return Infinity;
    const now = this.#clock.now();
    let next = Infinity;
    for (const [address, attempt] of this.#attempts) {
      if (attempt.due <= now) {
        attempt.due = RUNNING; // a step may look for more clients, or close
        const { done, value } = attempt.steps.next();
        if (done) this.#attempts.delete(address);
        else attempt.due = now + (value as number);
      }
      next = Math.min(next, attempt.due - now);
    }
    return next;
  }

  /** Makes the steps from the event loop. */
  readonly #run = (): void => {
    const next = this.step();
    this.#timer?.close();
    this.#timer = next < Infinity ? this.#clock.after(next, this.#run) : null;
  };

  /**
   * The session with the client at `address` has ended. Attaches to that client again after a pause, so that a client that breaks
   * the protocol, or closes each session, keeps no worker busy. A new client at this address has another socket, and no pause: its
   * knock may have come before the end of the old session.
   */
  left(address: string): void {
    this.#known.delete(address);
    const session = this.#sessions.get(address);
    if (!session || this.#isOver) return;
    const now = this.#clock.now();
    const short = now - session.since < RETURNS.max ? session.short : 0;
    const initial = this.#options.reconnect?.initial ?? RETURNS.initial;
    const socket = this.#socketOf(address);
    const isNew = socket !== "" && socket !== session.socket;
    const pause = isNew ? 0 : backoff(short, { initial, max: Math.max(initial, RETURNS.max) }, this.#clock.random);
    this.#sessions.set(address, { ...session, short: short + 1, until: now + pause });
    if (!isShared(address)) return; // the worker looks again and again
    this.#attempts.set(address, { steps: this.#return(address), due: now + pause });
    this.#run();
  }

  /** Whether the client at `address` is the one whose session has ended a moment ago. */
  #rests(address: string): boolean {
    const session = this.#sessions.get(address);
    if (!session || this.#clock.now() >= session.until) return false;
    return session.socket === this.#socketOf(address);
  }

  /** Returns an identity of the socket file at `address`, which differs between two clients that listen there. */
  #socketOf(address: string): string {
    try {
      const { ino, ctimeMs } = statSync(join(this.#options.directory, `${address}.sock`));
      return `${ino} ${ctimeMs}`;
    } catch {
      return ""; // there is none
    }
  }

  close(): void {
    this.#isOver = true;
    for (const { steps, due } of this.#attempts.values()) if (due !== RUNNING) steps.return();
    this.#attempts.clear();
    this.#timer?.close();
    this.#closeDoor();
  }

  /** Returns the addresses that are not known, at least one; or an error. */
  #find(): string[] | SlotbusError {
    const { name, directory, shared } = this.#options;
    let found: string[] = [];
    try {
      const dir = openDirectory(directory, { shared });
      if (dir !== null) {
        found = addressesOf(dir, name).filter((address) => !this.#known.has(address) && !this.#rests(address));
        closeDirectory(dir);
      }
    } catch (error) {
      return error as SlotbusError;
    }
    for (const address of found) this.#known.add(address);
    return found.length > 0 ? found : new BusNotFoundError(name, directory, 0);
  }

  /**
   * The steps of all attempts, until the worker is attached, or the client has gone or refuses for good. `done` gets the result of
   * the first attempt.
   */
  *#attach(address: string, done: (error: SlotbusError | null) => void): Generator<number, void> {
    const at = { ...this.#options, name: address };
    const { short = 0 } = this.#sessions.get(address) ?? {};
    this.#sessions.set(address, { socket: this.#socketOf(address), since: this.#clock.now(), short, until: 0 });
    for (let attempt = 0; ; attempt++) {
      const result = yield* WorkerHandle.attach(at, at.concurrency, this.#clock, () => this.#isOver);
      if (this.#settle(address, result)) return done(null);
      const error = result as SlotbusError;
      if (attempt === 0) done(error);
      if (!isShared(address) || !error.retryable || error instanceof BusNotFoundError || this.#isOver) {
        this.#known.delete(address);
        if (!error.retryable) this.#events.refused(error);
        return;
      }
      yield backoff(attempt, ATTEMPTS, this.#clock.random);
    }
  }

  *#return(address: string): Generator<number, void> {
    this.#known.add(address);
    yield* this.#attach(address, () => {});
  }

  /** Passes on a new session. Returns `false` if there is none. */
  #settle(address: string, result: WorkerHandle | SlotbusError): boolean {
    if (!(result instanceof WorkerHandle)) return false;
    if (this.#isOver) {
      result.goodbye(); // the client may already count this worker as attached
      result.close(true);
      return true;
    }
    this.#events.attached(result, address);
    if (!isShared(address)) this.#closeDoor();
    else if (!this.#door) this.#open();
    return true;
  }

  /** Opens the door before there is a client, where that is possible: the first client of a shared bus knocks too. */
  expect(): void {
    if (!this.#door && this.#openDoor()) void this.look();
  }

  /** Opens the door, then looks. Where another user owns the directory there can be no door: looks again and again. */
  #open(): void {
    if (this.#openDoor()) void this.look();
    else if (!this.#isLooking) this.#lookAgain();
  }

  #openDoor(): boolean {
    const { name, directory, shared } = this.#options;
    try {
      this.#dir = openDirectory(directory, { shared }) ?? -1;
      if (this.#dir >= 0) this.#door = Door.open(this.#dir, name, shared);
    } catch {} // the process may be out of descriptors
    this.#door?.watch(this.#knocked);
    if (!this.#door) this.#closeDoor();
    return this.#door !== null;
  }

  #closeDoor(): void {
    this.#door?.close();
    this.#door = null;
    closeDirectory(this.#dir);
    this.#dir = -1;
  }

  /** Somebody knocked. Many knocks of one turn of the event loop cause one look. */
  readonly #knocked = (): void => {
    if (this.#isDue) return;
    this.#isDue = true;
    this.#clock.immediate(() => {
      this.#isDue = false;
      if (!this.#isOver) void this.look();
    });
  };

  readonly #lookAgain = (): void => {
    if (this.#isOver) return;
    this.#isLooking = true;
    void this.look();
    this.#clock.after(LOOK_MS, this.#lookAgain).unref();
  };
}

function isShared(address: string): boolean {
  return address.includes("@");
}
