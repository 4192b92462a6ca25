/**
 * The processes of a shared hub. Each change (a registration, an event, an eviction) is published to a ring of a fleet, and every
 * process applies the changes of the ring in its order. So all processes have the same routes, and an event has the same id in each.
 */

import { readdirSync, readlinkSync, renameSync, rmSync, symlinkSync } from "node:fs";
import { basename, join } from "node:path";
import { Contest } from "../contest/contest.ts";
import type { Guard } from "../contest/guard.ts";
import { Fleet } from "../fleet/fleet.ts";
import { type Cursor, Frame } from "../fleet/ring.ts";
import type { Actions } from "./direct.ts";
import { type Change, changeOf, publishChange } from "./change.ts";
import { checkEvent, type StreamEvent } from "./event-log.ts";
import { closing } from "./failure.ts";
import { controlSocketOf, isMemberSocket, memberSocketOf, PART_PATH, STATE_PATH } from "./names.ts";
import type { Registrant, RouteRequest } from "./names.ts";
import type { Registry } from "./registry.ts";
import type { Sockets } from "./sockets.ts";
import type { EventStreams } from "./sse.ts";
import type { Part } from "./whole.ts";

/** Sizes of the ring: 32 MiB, so that the largest event of the control plane (4 MiB) is below a quarter. */
const RING = { frames: 32_768, frameBytes: 1_024 };
const REGISTRATION = { kind: "hub", label: "registration" };
const SOCKET = { kind: "hub", label: "socket" };
const TTL_MS = 10_000;
/** Longest wait for the other processes: of a registration for its turn, and of a state. */
const PATIENCE_MS = 10_000;
const PEER_MS = 2_000;
/** Longest wait for the number of clients that other processes have sent an event to. */
const COUNT_MS = 100;

/** What a process that joins gets from another process. */
interface State {
  /** Number of the newest change that this state contains; 0: none. */
  readonly newest: number;
  /** Time since the first process started, in ms. */
  readonly age: number;
  readonly someReturned: boolean;
  readonly services: readonly {
    readonly name: string;
    readonly routes: readonly RouteRequest[];
    readonly registrations: readonly ({ readonly id: string } & Registrant)[];
  }[];
}

/** An event of this process, while other processes count their clients. */
interface Count {
  sum: number;
  missing: number;
  done(): void;
}

export class HubGroup implements Actions {
  /** Begins the ids of all events. */
  readonly epoch: string;
  /** Path of the control socket of this process. */
  readonly socket: string;
  readonly #name: string;
  readonly #directory: string;
  readonly #fleet: Fleet;
  readonly #contest: Contest;
  #registry!: Registry;
  #streams!: EventStreams;
  #sockets!: Sockets;
  #age: () => number = () => 0;
  #cursor: Cursor | null = null;
  /** Held from the begin of the join until the control socket is open. */
  #joining: Guard | null = null;
  /** Held while the socket of the hub's name leads to this process. */
  #linked: Guard | null = null;
  /** Number of the newest change that was applied. */
  #newest = 0;
  #tickets = 0;
  readonly #pending = new Map<number, PromiseWithResolvers<number>>();
  readonly #counts = new Map<number, Count>();
  readonly #left = new AbortController();

  /** Joins the fleet of a hub. Call {@link begin} next. */
  static async join(name: string, directory: string): Promise<HubGroup> {
    const fleet = await Fleet.join({ name: `${name}.hub`, directory, rings: { changes: RING } });
    const contest = await Contest.open({ fleet, owner: `hub-${process.pid}` });
    return new HubGroup(name, directory, fleet, contest);
  }

  private constructor(name: string, directory: string, fleet: Fleet, contest: Contest) {
    this.#name = name;
    this.#directory = directory;
    this.#fleet = fleet;
    this.#contest = contest;
    this.epoch = `s${fleet.epoch.toString(36)}`;
    this.socket = join(directory, memberSocketOf(name, fleet.index));
  }

  /**
   * Takes over the registrations of another process, reads the ring, and follows it from now on. `age` returns the time since this
   * process started. Resolves to the time since the first process started, in ms.
   */
  async begin(registry: Registry, streams: EventStreams, sockets: Sockets, age: () => number): Promise<number> {
    this.#registry = registry;
    this.#streams = streams;
    this.#sockets = sockets;
    sockets.share = (worker, commands) => this.command(worker, commands);
    this.#joining = await this.#contest.claim(REGISTRATION, { ttl: TTL_MS, renew: true, timeout: PATIENCE_MS });
    this.#sweep();
    const state = await this.#stateOfPeer();
    await this.#install(state, new Set());
    registry.someReturned ||= state?.someReturned ?? false;
    this.#newest = state?.newest ?? 0;
    this.#cursor = this.#fleet.ring("changes").cursor({ from: "oldest" });
    let isFirst = true;
    for (let items = this.#cursor.poll(); items.length > 0; items = this.#cursor.poll())
      for (const item of items) {
        if (!(item instanceof Frame)) continue;
        if (isFirst) streams.horizon = item.event;
        isFirst = false;
        await this.#applyOld(item);
      }
    await Promise.all(registry.services.map(({ bus }) => bus.ready({ timeout: PEER_MS }).catch(() => {})));
    void this.#follow(this.#cursor);
    const first = state?.age ?? 0;
    this.#age = () => age() + first;
    return first;
  }

  /** The control socket is open: others may join, and one process after another answers on the socket of the hub's name. */
  async opened(): Promise<void> {
    this.#joining?.release();
    this.#joining = null;
    const { signal } = this.#left;
    this.#contest.claim(SOCKET, { ttl: TTL_MS, renew: true, signal }).then(
      (guard) => {
        this.#linked = guard;
        if (signal.aborted) guard.release();
        else void this.#takeOver();
      },
      () => {}, // this process ends before its turn
    );
  }

  /** The process that answered on the socket of the hub's name has ended. */
  async #takeOver(): Promise<void> {
    this.#link();
    const { signal } = this.#left;
    const turn = await this.#contest.claim(REGISTRATION, { ttl: TTL_MS, signal }).catch(() => null);
    if (!signal.aborted) this.#sweep();
    turn?.release();
  }

  /** Accepts no more changes: the control socket closes. */
  leave(): void {
    if (this.#left.signal.aborted) return;
    this.#left.abort();
    this.#linkToOther();
    this.#linked?.release();
  }

  /** Leaves the fleet, after the control socket was closed. */
  async close(): Promise<void> {
    this.leave();
    this.#linkToOther(); // again, because all processes may end at the same time
    this.#joining?.release();
    this.#cursor?.close();
    for (const { reject } of this.#pending.values()) reject(closing());
    for (const { done } of this.#counts.values()) done();
    await this.#contest.close();
    await this.#fleet.close();
  }

  // ---- actions ----------------------------------------------------------------------------------------------------

  async register(name: string, routes: readonly RouteRequest[], process: Registrant, again: boolean) {
    try {
      const turn = await this.#contest.claim(REGISTRATION, { ttl: TTL_MS, timeout: PATIENCE_MS });
      try {
        await this.#publish({ is: "sync" }); // applies what others have registered
        const bus = this.#registry.busOf(name);
        this.#registry.check(name, routes);
        const id = crypto.randomUUID();
        await this.#publish({ is: "register", id, name, ...process, again, routes });
        return { id, bus };
      } finally {
        turn.release();
      }
    } catch (error) {
      this.#registry.refused(name, process.pid, (error as Error).message);
      throw error;
    }
  }

  async unregister(id: string): Promise<boolean> {
    return (await this.#publish({ is: "unregister", id })) > 0;
  }

  async emit(source: string, type: string, data: string): Promise<number> {
    checkEvent({ type, data });
    return this.#publish({ is: "emit", source, type, data });
  }

  async push(path: string, event: StreamEvent): Promise<number> {
    checkEvent(event);
    this.#streams.find(path);
    return this.#publish({ is: "push", path, event });
  }

  async pushByPattern(pattern: string, params: Readonly<Record<string, string>>, event: StreamEvent): Promise<number> {
    checkEvent(event);
    this.#streams.findPattern(pattern);
    return this.#publish({ is: "push-all", pattern, params, event });
  }

  async command(worker: string, commands: Uint8Array): Promise<void> {
    await this.#publish({ is: "command", worker, commands });
  }

  /** This process has evicted a worker process; the others do the same. */
  evicted(name: string, process: string, reason: string): void {
    this.#publish({ is: "evict", name, process, reason }).catch(() => {}); // the hub closes
  }

  // ---- state ------------------------------------------------------------------------------------------------------

  /** What a process that joins needs. */
  state(): State {
    return {
      newest: this.#newest,
      age: this.#age(),
      someReturned: this.#registry.someReturned,
      services: this.#registry.services.map(({ name, requests, registrations }) => ({
        name,
        routes: requests,
        registrations: registrations.map(({ id, pid, instance }) => ({ id, pid, instance })),
      })),
    };
  }

  /** Resolves to the figures of the other processes. A process that does not respond is left out. */
  async parts(): Promise<Part[]> {
    const parts = await Promise.all(this.#others().map((socket) => this.#ask<Part>(socket, PART_PATH)));
    return parts.filter((part) => part !== null);
  }

  async #stateOfPeer(): Promise<State | null> {
    for (const socket of this.#others()) {
      const state = await this.#ask<State>(socket, STATE_PATH);
      if (state) return state;
    }
    return null;
  }

  /** File names of the control sockets of other processes that live. */
  #others(): string[] {
    const files = readdirSync(this.#directory);
    const sockets = this.#fleet.members().map(({ index }) => memberSocketOf(this.#name, index));
    return sockets.filter((socket) => socket !== basename(this.socket) && files.includes(socket));
  }

  /** Removes the sockets of processes that were killed. Call it while this process holds the turn to register. */
  #sweep(): void {
    const living = new Set([basename(this.socket), ...this.#others()]);
    for (const file of readdirSync(this.#directory))
      if (isMemberSocket(this.#name, file) && !living.has(file)) rmSync(join(this.#directory, file), { force: true });
  }

  async #ask<T>(socket: string, path: string): Promise<T | null> {
    const options = { unix: join(this.#directory, socket), signal: AbortSignal.timeout(PEER_MS) };
    try {
      const response = await fetch(`http://hub${path}`, options);
      return response.ok ? ((await response.json()) as T) : null;
    } catch {
      return null; // the process has ended, and has left its socket
    }
  }

  /** Lets the socket of the hub's name lead to a process: to this one by default. */
  #link(socket = basename(this.socket)): void {
    const link = join(this.#directory, controlSocketOf(this.#name));
    const temporary = `${this.socket}.link`;
    rmSync(temporary, { force: true });
    symlinkSync(socket, temporary);
    renameSync(temporary, link);
  }

  /** Lets the socket of the hub's name lead to a process that stays; removes it if there is none. */
  #linkToOther(): void {
    const link = join(this.#directory, controlSocketOf(this.#name));
    const others = this.#others();
    try {
      if (others.includes(readlinkSync(link))) return;
      if (others.length > 0) this.#link(others[0]);
      else rmSync(link);
    } catch {} // there is no link
  }

  // ---- changes ----------------------------------------------------------------------------------------------------

  /** Resolves when this process has applied the change: to the number of clients of an event. */
  #publish(change: Change): Promise<number> {
    if (this.#left.signal.aborted) return Promise.reject(closing());
    const ticket = ++this.#tickets;
    const made = Promise.withResolvers<number>();
    this.#pending.set(ticket, made);
    try {
      publishChange(this.#fleet.ring("changes"), change, ticket);
    } catch (error) {
      this.#pending.delete(ticket);
      made.reject(error);
    }
    return made.promise;
  }

  async #follow(cursor: Cursor): Promise<void> {
    for await (const first of cursor) {
      const counts: [event: number, clients: number][] = [];
      for (let items = [first]; items.length > 0; items = cursor.poll())
        for (const item of items) {
          if (item instanceof Frame) await this.#applyNew(item, counts);
          else await this.#catchUp();
        }
      if (counts.length > 0) this.#publish({ is: "delivered", counts }).catch(() => {}); // the hub closes
    }
  }

  /** This process stood still for so long that changes were overwritten: takes over the registrations of another process. */
  async #catchUp(): Promise<void> {
    const known = new Set(this.#registry.services.flatMap(({ registrations }) => registrations.map(({ id }) => id)));
    await this.#install(await this.#stateOfPeer(), known);
    this.#streams.lose();
    this.#sockets.lose();
  }

  /** Installs the registrations of a state, except known ones. */
  async #install(state: State | null, known: ReadonlySet<string>): Promise<void> {
    for (const { name, routes, registrations } of state?.services ?? [])
      for (const { id, ...process } of registrations)
        if (!known.has(id)) await this.#registry.install(name, id, process, routes).catch(() => {}); // the hub closes
  }

  /** Applies a change that was published before this process joined: events are only kept. */
  async #applyOld(frame: Frame): Promise<void> {
    const change = changeOf(frame);
    const isEvent = change.is === "emit" || change.is === "push" || change.is === "push-all";
    const isInState = frame.event + 1 <= this.#newest;
    if (isEvent || !isInState) await this.#apply(change, frame.event + 1).catch(() => 0);
    this.#newest = Math.max(this.#newest, frame.event + 1);
  }

  async #applyNew(frame: Frame, counts: [event: number, clients: number][]): Promise<void> {
    const change = changeOf(frame);
    const number = frame.event + 1;
    const isOwn = frame.writer === this.#fleet.index && frame.incarnation === this.#fleet.incarnation;
    const isEvent = change.is === "emit" || change.is === "push" || change.is === "push-all";
    let result: number;
    try {
      if (change.is === "evict" && isOwn)
        result = 1; // it has
      else result = await this.#apply(change, number);
      this.#newest = number;
      if (isEvent && !isOwn) counts.push([number, result]);
    } catch (error) {
      if (isOwn) this.#pending.get(change.ticket)?.reject(error);
      this.#pending.delete(isOwn ? change.ticket : -1);
      return;
    }
    if (!isOwn) return;
    const made = this.#pending.get(change.ticket);
    this.#pending.delete(change.ticket);
    if (isEvent && made) this.#count(number, result, made);
    else made?.resolve(result);
  }

  /** Adds the clients of the other processes. */
  #count(number: number, own: number, { resolve }: PromiseWithResolvers<number>): void {
    const missing = this.#fleet.members().length - 1;
    if (missing === 0) return resolve(own);
    const count: Count = {
      sum: own,
      missing,
      done: () => {
        clearTimeout(timer);
        this.#counts.delete(number);
        resolve(count.sum);
      },
    };
    const timer = setTimeout(count.done, COUNT_MS); // a process that joins, stands still or has ended does not count
    this.#counts.set(number, count);
  }

  async #apply(change: Change, number: number): Promise<number> {
    const [registry, streams] = [this.#registry, this.#streams];
    streams.newest = number;
    switch (change.is) {
      case "register":
        await registry.install(change.name, change.id, change, change.routes);
        registry.someReturned ||= change.again;
        return 1;
      case "unregister":
        return Number(registry.unregister(change.id));
      case "evict":
        registry.evict(change.name, change.process, change.reason);
        return 1;
      case "emit":
        return streams.emit(change.source, change.type, change.data, number);
      case "push":
        return streams.push(change.path, change.event, number);
      case "push-all":
        return streams.pushByPattern(change.pattern, change.params, change.event, number);
      case "delivered":
        for (const [event, clients] of change.counts) this.#addCount(event, clients);
        return 0;
      case "command":
        this.#sockets.command(change.worker, change.commands);
        return 0;
      case "sync":
        return 0;
    }
  }

  #addCount(event: number, clients: number): void {
    const count = this.#counts.get(event);
    if (!count) return;
    count.sum += clients;
    if (--count.missing === 0) count.done();
  }
}
