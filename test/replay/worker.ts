/** The worker side of the replay wire. */

import type { RequestName } from "../../src/bus/claim.ts";
import { Arena } from "../../src/bus/codec.ts";
import type { Arrivals, Driven, WorkerWire } from "../../src/bus/wire.ts";
import { Turns } from "../../src/bus/turns.ts";
import { BusNotFoundError, ClosedError, SlotbusError } from "../../src/errors.ts";
import type { Die } from "./choices.ts";
import type { Process } from "./clock.ts";
import type { Replied, Slot } from "./link.ts";
import { HEAD_BYTES, PAYLOAD_BYTES } from "./sizes.ts";
import { WorkerEnd } from "./worker-end.ts";
import type { Net } from "./wire.ts";

/** Options of {@link ReplayWorker}. */
export interface ReplayWorkerOptions {
  /** Names of the clients: each has a bus of its own, or all share one. */
  readonly clients: readonly string[];
  readonly concurrency: number;
  /** Pause before the worker attaches again, in ms; 0: it does not. */
  readonly reconnectMs: number;
  /** Whether the worker breaks the protocol now and then. */
  readonly isHostile: boolean;
}

/** A connection, with the slots that one poll has not looked at yet. */
interface Look {
  readonly end: WorkerEnd;
  readonly first: number;
  looked: number;
}

/** The wire of one worker: a connection to each of its clients. */
export class ReplayWorker implements WorkerWire {
  readonly host: Process;
  readonly turns: Turns;
  readonly options: ReplayWorkerOptions;
  hasEnded = false;
  /** All attachments so far. */
  readonly ends: WorkerEnd[] = [];
  readonly #net: Net;
  readonly #die: Die;
  readonly #arrivals: Arrivals;
  readonly #arena = new Arena(new ArrayBuffer(HEAD_BYTES + PAYLOAD_BYTES));
  /** The connections that are open. */
  #open: readonly WorkerEnd[] = [];
  #isAttaching = false;
  #inbox: { end: WorkerEnd; slot: Slot; frame: (() => void) | null }[] = [];
  #isPollDue = false;
  #isListening = false;
  #isDraining = false;
  #isClosed = false;

  constructor(net: Net, host: Process, die: Die, options: ReplayWorkerOptions, arrivals: Arrivals) {
    this.#net = net;
    this.host = host;
    this.#die = die;
    this.options = options;
    this.turns = new Turns(host);
    this.#arrivals = arrivals;
  }

  get isConnected(): boolean {
    return this.#open.length > 0;
  }

  get running(): number {
    return this.#open.reduce((sum, { running }) => sum + running, 0);
  }

  driven(): Driven {
    return { wakeups: 0, spinning: "off" };
  }

  // ---- attaching ------------------------------------------------------------------------------------------------------

  async open(waitMs: number): Promise<void> {
    const started = this.host.now();
    for (;;) {
      await this.host.pause(1 + this.#die.small("handshake", 10));
      if (this.#isClosed || this.#attach()) return;
      if (this.host.now() - started >= waitMs) throw new BusNotFoundError(this.options.clients.join(), "", waitMs);
    }
  }

  /** Attaches to each client that is there and has no connection. Returns `false` if there is none. */
  #attach(): boolean {
    for (const name of this.options.clients) {
      if (this.#open.some(({ link }) => link.bus === name)) continue;
      const link = this.#net.attach(name, this.options.concurrency);
      if (!link) continue;
      const end = new WorkerEnd(this, link, this.#arena);
      this.ends.push(end);
      this.#net.join(link, end);
      this.#open = [...this.#open, end];
      if (this.#isDraining) end.say((connection) => connection.message("drain"));
      this.#wake();
      this.host.immediate(() => this.#arrivals.connected());
    }
    return this.isConnected;
  }

  async #attachAgain(): Promise<void> {
    if (this.#isAttaching) return;
    this.#isAttaching = true;
    while (!this.#isClosed && !this.#isDraining && this.#net.isOpen) {
      await this.host.pause(this.options.reconnectMs);
      if (this.#isClosed || this.#isDraining) break;
      if (this.#attach()) break;
    }
    this.#isAttaching = false;
    this.hasEnded = !this.isConnected;
  }

  // ---- requests -------------------------------------------------------------------------------------------------------

  listen(): void {
    this.#isListening = true;
    this.#wake();
  }

  received(end: WorkerEnd, slot: Slot, frame: (() => void) | null): void {
    this.#inbox.push({ end, slot, frame });
    this.#wake();
  }

  #wake(): void {
    if (this.#isPollDue) return;
    this.#isPollDue = true;
    const poll = (): void => {
      this.#isPollDue = false;
      this.#poll();
    };
    const ms = this.#die.small("poll", 8);
    if (ms === 0) this.host.immediate(poll);
    else this.host.later(ms / 4, poll);
  }

  #poll(): void {
    const inbox = this.#inbox;
    this.#inbox = [];
    for (const { end, slot, frame } of inbox) {
      if (!end.isOpen) continue;
      frame?.();
      end.look(slot);
    }
    if (!this.#isListening) return;
    let looks: Look[] = this.#open.map((end) => {
      return { end, first: this.#die.below("first slot", end.link.slots.length), looked: 0 };
    });
    while (looks.length > 0) {
      looks = looks.filter((look) => this.#arrivals.canTake && this.#takeOne(look)); // claims go round the clients
    }
  }

  /** Takes the next request of a connection. Returns `false` if it has no other. */
  #takeOne(look: Look): boolean {
    const { end, first } = look;
    const { slots } = end.link;
    while (look.looked < slots.length && end.isOpen) {
      const slot = slots[(first + look.looked++) % slots.length]!;
      if (slot.worker.state !== "ready") continue;
      this.#net.watch.taking(end, slot);
      let request;
      try {
        request = end.take(slot);
      } catch (cause) {
        this.#lose(end, new SlotbusError("PROTOCOL", "The client published a malformed request.", { cause }));
        return false;
      }
      this.#arrivals.arrived(request);
      return true;
    }
    return false;
  }

  answered(): void {
    this.#wake();
    this.#arrivals.answered();
  }

  failedLate(request: RequestName, error: unknown): void {
    this.#arrivals.failedLate(request, error);
  }

  /** A claim responds once, while it owns its slot. */
  checkOwned(isOwned: boolean): void {
    if (!isOwned) this.#net.watch.broken("a claim responded twice, or after the end of its connection");
  }

  // ---- faults ---------------------------------------------------------------------------------------------------------

  /** Returns a response whose head a hostile worker may have changed. */
  maybeSpoiled(end: WorkerEnd, reply: Replied): Replied {
    if (!this.options.isHostile || !this.#die.chance("malformed head", 120)) return reply;
    this.#net.watch.hostile(end.link);
    return { ...reply, head: spoil(reply.head, this.#die) };
  }

  /** Returns the number of bytes that a hostile worker says it has sent. */
  maybeMiscounted(end: WorkerEnd, bytes: number): number {
    if (!this.options.isHostile || !this.#die.chance("invalid count", 60)) return bytes;
    this.#net.watch.hostile(end.link);
    return bytes + 100_000;
  }

  // ---- the end --------------------------------------------------------------------------------------------------------

  /** Called when the client broke the protocol. */
  broke(end: WorkerEnd, what: string): void {
    this.#lose(end, new SlotbusError("REGION_CORRUPT", `The client wrote ${what}.`));
  }

  /** Called when the client closed the connection, or its process ended. */
  lost(end: WorkerEnd, evictedFor: string | null): void {
    const reason = evictedFor
      ? new SlotbusError("EVICTED", `evicted: ${evictedFor}`)
      : new ClosedError("The client", { retryable: true });
    this.#lose(end, reason);
  }

  #lose(end: WorkerEnd, reason: SlotbusError): void {
    if (!this.#open.includes(end)) return;
    this.#detach(end, reason);
    const staysAway = this.options.reconnectMs === 0 || this.#isClosed || this.#isDraining;
    this.hasEnded = staysAway && !this.isConnected;
    this.#arrivals.disconnected(reason);
    if (!staysAway) void this.#attachAgain();
  }

  #detach(end: WorkerEnd, reason: SlotbusError): void {
    this.#open = this.#open.filter((open) => open !== end);
    end.say((connection) => connection.end("ended"));
    end.close(reason);
  }

  block(): void {
    throw new Error("The replay wire does not block.");
  }

  drain(): void {
    if (!this.#isDraining) for (const end of this.#open) end.say((connection) => connection.message("drain"));
    this.#isDraining = true;
    this.#wake();
  }

  close(reason: SlotbusError): void {
    this.#isClosed = true;
    for (const end of this.#open) {
      end.say((connection) => connection.message("goodbye"));
      this.#detach(end, reason);
    }
  }

  /** The process of the worker is killed: its client notices. */
  kill(): void {
    this.host.kill();
    for (const end of this.#open) end.say((connection) => connection.end("ended"));
  }

  /** A connection breaks while both processes live. */
  cut(): void {
    const end = this.#open[this.#open.length < 2 ? 0 : this.#die.below("cut", this.#open.length)];
    if (end) this.#lose(end, new ClosedError("The client", { retryable: true }));
  }

  /** Number of requests without a response, over all attachments that are open. */
  get leftOver(): number {
    return this.ends.reduce((sum, { isOpen, running }) => sum + (isOpen ? running : 0), 0);
  }
}

/** Returns a head with changed bytes or length. */
export function spoil(head: Uint8Array, die: Die): Uint8Array {
  const bytes = head.slice();
  const how = die.below("how", 4);
  if (how === 0) bytes[0] = bytes[0]! + 1;
  else if (how === 1) bytes[4] = bytes[4]! ^ 127;
  else if (how === 2) return bytes.subarray(0, die.below("length", bytes.length));
  else bytes[die.below("place", bytes.length)]! ^= 1 << die.below("bit", 8);
  return bytes;
}
