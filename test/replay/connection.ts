/** One attached worker, in the client: the exchange in each slot, and everything that the wire reports about it. */

import { type BodyLike, bodyOffset, encodeMethod, writeBody } from "../../src/bus/codec.ts";
import { Head } from "../../src/bus/head.ts";
import type { Exchange, Executed, Verdict } from "../../src/bus/exchange.ts";
import { ERROR_STRINGS } from "../../src/bus/response.ts";
import type { Connection, SlotReport } from "../../src/bus/wire.ts";
import type { Clock } from "../../src/clock.ts";
import { SlotbusError } from "../../src/errors.ts";
import type { Die } from "./choices.ts";
import type { Process } from "./clock.ts";
import type { End, Face, Link, Slot } from "./link.ts";
import { Pipe, type PipeOwner, PipeReader, PipeWriter } from "./pipe.ts";
import type { ReplayWire } from "./wire.ts";
import type { WorkerEnd } from "./worker-end.ts";

/** The client's view of one slot. `quarantine`: the caller has given up, and the worker has not finished yet. */
class Place {
  shadow: "free" | "flight" | "quarantine" | "lent" = "free";
  exchange: Exchange | null = null;
  deadline = Infinity;
  outgoing: PipeWriter | null = null;
  incoming: PipeReader | null = null;
  /** Whether the response has begun to stream. */
  hasBegun = false;
}

/** A connection of the replay wire. */
export class ReplayConnection implements Connection, PipeOwner, End {
  readonly id: number;
  readonly pid: number;
  readonly uid = 1_000;
  readonly concurrency: number;
  readonly wire = "memory";
  readonly link: Link;
  readonly host: Process;
  readonly die: Die;
  process: { served(): void } | null = null;
  isOpen = true;
  load = 0;
  readonly elsewhere = 0;
  readonly pace: number;
  isDoubtful = false;
  isUnresponsive = false;
  evictedFor: string | null = null;
  /** Whether the dispatcher got it. */
  wasJoined = false;
  readonly places: Place[];
  readonly #wire: ReplayWire;
  /** The process of the worker. */
  readonly #peer: Process;
  readonly #free: number[];
  #lent = 0;
  #isLeaving = false;
  #isDraining = false;
  #isForgotten = false;
  #drained: PromiseWithResolvers<void> | null = null;
  /** Slot of the complete streamed response that is being handled. */
  #whole: Slot | null = null;

  constructor(wire: ReplayWire, link: Link, peer: Process) {
    this.#wire = wire;
    this.host = wire.host;
    this.link = link;
    this.die = link.die;
    this.#peer = peer;
    this.id = link.id;
    this.pid = peer.pid;
    this.concurrency = link.slots.length;
    this.pace = [Infinity, 0.001, 0.02, 10][link.die.small("pace", 4)]!;
    this.places = link.slots.map(() => new Place());
    this.#free = link.slots.map(({ index }) => index).reverse();
  }

  get clock(): Clock {
    return this.host;
  }

  get room(): number {
    return this.isOpen && !this.#isDraining && this.evictedFor === null ? this.concurrency - this.load : 0;
  }

  get isBusy(): boolean {
    return this.load > this.#lent;
  }

  get isDraining(): boolean {
    return this.#isDraining;
  }

  get isEvicted(): boolean {
    return this.evictedFor !== null;
  }

  get isGone(): boolean {
    if (this.#isForgotten) this.#wire.watch.broken("isGone was read after forget");
    return this.#peer.isProvenDead;
  }

  forget(): void {
    this.#isForgotten = true;
  }

  get isForgotten(): boolean {
    return this.#isForgotten;
  }

  slots(): SlotReport[] {
    return this.places.map(({ exchange }, index) => ({
      state: this.link.slots[index]!.client.state,
      ageMs: 0,
      exchange,
    }));
  }

  timeLeft({ place }: Exchange): number {
    return this.places[place]!.deadline - this.host.now();
  }

  #note(event: string, slot: Slot | null, exchange: Exchange | null): void {
    this.#wire.watch.report(event, this, slot, exchange);
  }

  // ---- requests -------------------------------------------------------------------------------------------------------

  send(exchange: Exchange): "sent" | "gone" | "full" {
    const { heads, arena, options, watch } = this.#wire;
    if (this.room <= 0) {
      watch.broken("send without room");
      throw new Error("send without room"); // "full" would be chosen again without end
    }
    if (exchange.carrier !== null || exchange.isSettled || exchange.isQueued)
      watch.broken("send of an exchange in use");
    const parameters = exchange.collect(heads);
    if (!this.isOpen) return "gone";
    if (this.load >= this.concurrency) {
      this.#note("full", null, exchange);
      return "full";
    }
    const length = exchange.writeHead(arena, heads, parameters);
    const offset = bodyOffset(length);
    const { body, request } = exchange;
    const streams = exchange.beginBody();
    const bytes = streams ? 0 : writeBody(arena, offset, body as BodyLike, options.payloadBytes, "request");
    const method = request.method === undefined ? (streams || bytes > 0 ? 1 : 0) : encodeMethod(request.method);
    const timeLeft = exchange.timeLeft();
    watch.sent(exchange, timeLeft);
    this.#note("send", null, exchange);
    const slot = this.link.slots[this.#free.pop()!]!;
    const place = this.places[slot.index]!;
    this.load++;
    exchange.carrier = this;
    exchange.place = slot.index;
    place.shadow = "flight";
    place.exchange = exchange;
    place.hasBegun = false;
    place.deadline = timeLeft === Infinity ? Infinity : this.host.now() + timeLeft;
    const token = this.link.nextToken();
    const newPipe = (): Pipe => new Pipe(this.link.ringBytes, slot.index, token);
    const up = streams ? newPipe() : null;
    const down = newPipe();
    place.outgoing = up && new PipeWriter(this, up);
    place.incoming = new PipeReader(this, down);
    const sent = {
      method,
      head: this.#wire.maybeSpoiled(arena.bytes.slice(0, length), this.link),
      body: arena.bytes.slice(offset, offset + bytes),
      streams,
      timeoutMs: timeLeft === Infinity ? 0 : timeLeft,
      serial: exchange.serial,
      exchange,
    };
    const publish = (face: Face): void =>
      void Object.assign(face, { state: "ready", token, request: sent, reply: null, up, down });
    publish(slot.client);
    if (this.link.asks) this.link.postRequest(slot, token, () => publish(slot.worker));
    else this.link.ring("worker", slot);
    return "sent";
  }

  withdraw(exchange: Exchange): Verdict {
    const place = this.places[exchange.place]!;
    const slot = this.link.slots[exchange.place]!;
    if (exchange.carrier !== this || place.exchange !== exchange)
      this.#wire.watch.broken("withdraw of another exchange");
    this.#note("withdraw", slot, exchange);
    this.#release(place);
    if (!this.isOpen || slot === this.#whole) return "maybe";
    if (slot.client.state === "done") {
      this.#put(slot);
      return "maybe";
    }
    const verdict = this.#takeBack(slot);
    if (verdict === "no") this.#put(slot);
    return this.link.asks && verdict === "maybe" ? "asked" : verdict;
  }

  /** Takes a request back. After "maybe", its slot stays taken until the worker has finished. */
  #takeBack(slot: Slot): Executed {
    const { link } = this;
    const { token, state } = slot.client;
    const isBack = link.asks ? link.recall(token) : state === "ready";
    if (isBack) return "no";
    this.places[slot.index]!.shadow = "quarantine";
    if (!link.asks) slot.client.state = "abandoned";
    const cancel = (): void => (link.ends.worker as WorkerEnd).cancelled(slot, token);
    link.post("worker", slot, cancel);
    return "maybe";
  }

  /** Removes the exchange from its place; no report follows. */
  #release(place: Place): void {
    const { exchange } = place;
    place.exchange = null;
    if (exchange?.carrier === this) exchange.carrier = null;
  }

  #put(slot: Slot): void {
    const place = this.places[slot.index]!;
    if (place.shadow === "free") this.#wire.watch.broken("a free slot was freed");
    place.shadow = "free";
    place.incoming = place.outgoing = null;
    slot.client.state = "free";
    this.#free.push(slot.index);
    this.load--;
    this.#tellDrained();
  }

  // ---- what the worker did --------------------------------------------------------------------------------------------

  receive(slot: Slot, frame: (() => void) | null): void {
    this.#wire.received(this, slot, frame);
  }

  /** Handles the state of a slot. Runs no user code. */
  look(slot: Slot): void {
    if (!this.isOpen) return;
    const place = this.places[slot.index]!;
    const { state, reply } = slot.client;
    if (place.shadow === "quarantine" && (state === "free" || (state === "done" && this.link.asks))) {
      this.#note("freed", slot, null);
      this.#put(slot);
    } else if (place.shadow === "flight") {
      if (state === "done" && reply?.body) this.#deliver(slot);
      else if (state !== "ready" && state !== "free") this.#moved(slot);
    }
  }

  #deliver(slot: Slot): void {
    const place = this.places[slot.index]!;
    const { exchange } = place;
    const { status, head: bytes, body } = slot.client.reply!;
    this.isDoubtful = false;
    this.process?.served();
    if (!exchange || exchange.isSettled) {
      this.#release(place);
      this.#put(slot);
      return;
    }
    const head = this.#readHead(exchange, place, bytes, status === 0);
    if (!head) return;
    const isLent = exchange.kind === "borrow" && status !== 0;
    this.#note(status === 0 ? "failed" : isLent ? "lent" : "answered", slot, exchange);
    if (!isLent) {
      this.#put(slot);
      exchange.answered(status, head, body!.slice(), null);
      this.#release(place);
      return;
    }
    place.shadow = "lent";
    this.#lent++;
    exchange.answered(status, head, body!.slice(), () => {
      this.#lent--;
      this.#note("given back", slot, exchange);
      if (!this.isOpen) return;
      this.#put(slot);
      this.#wire.room();
    });
    this.#release(place);
  }

  /** Decodes a head. If it is malformed, fails the exchange, evicts the worker and returns `null`. */
  #readHead(exchange: Exchange, place: Place, bytes: Uint8Array, isError: boolean): Head | null {
    const { answers, replies } = this.#wire;
    try {
      if (isError) return Head.decode(bytes.slice(), ERROR_STRINGS);
      replies.bytes.set(bytes);
      return answers.read(replies, bytes.length);
    } catch (cause) {
      this.#note("malformed", this.link.slots[exchange.place]!, exchange);
      this.#corrupted(exchange, place, cause);
      this.evict("it responded with a malformed head");
      return null;
    }
  }

  #corrupted(exchange: Exchange, place: Place, cause: unknown): void {
    const message = `Worker pid ${this.pid} responded to request ${exchange.id} with a malformed head.`;
    exchange.fail(new SlotbusError("REGION_CORRUPT", message, { cause, mayHaveExecuted: true }));
    this.#release(place);
  }

  #moved(slot: Slot): void {
    const place = this.places[slot.index]!;
    const isDone = slot.client.state === "done";
    this.isDoubtful = false;
    this.#whole = isDone ? slot : null;
    if (slot.client.reply && !place.hasBegun) this.#begin(slot);
    const { exchange, outgoing } = place;
    if (exchange?.hasSource && outgoing) {
      this.#note("claimed", slot, exchange);
      exchange.claimed(outgoing);
    }
    if (exchange) this.#note("moved", slot, exchange);
    outgoing?.moved();
    place.incoming?.onMoved?.();
    if (isDone && this.isOpen) this.#finish(slot);
    this.#whole = null;
  }

  #begin(slot: Slot): void {
    const place = this.places[slot.index]!;
    const { exchange } = place;
    if (!exchange || exchange.isSettled) return;
    const { status, head: bytes } = slot.client.reply!;
    const head = this.#readHead(exchange, place, bytes, false);
    if (!head) return;
    place.hasBegun = true;
    this.#note("began", slot, exchange);
    exchange.began(status, head, place.incoming!);
  }

  #finish(slot: Slot): void {
    const place = this.places[slot.index]!;
    const { exchange, incoming } = place;
    this.process?.served();
    if (exchange && incoming) {
      this.#note(slot.client.down!.seenEnd === "error" ? "ended in error" : "ended", slot, exchange);
      exchange.ended(incoming);
      this.#release(place);
    }
    if (this.isOpen) this.#put(slot);
  }

  /** Delivers a response, or takes the exchange back if its timeout is over. */
  expire(slot: Slot, now: number): void {
    this.look(slot);
    const place = this.places[slot.index]!;
    const { exchange, deadline } = place;
    if (!this.isOpen || place.shadow !== "flight" || !exchange || place.hasBegun || now < deadline) return;
    const executed = this.#takeBack(slot);
    if (executed === "no") this.isDoubtful = !this.link.asks;
    this.#note(`expired ${executed}`, slot, exchange);
    exchange.expired(executed);
    this.#release(place);
    if (executed === "no") this.#put(slot);
  }

  // ---- streams --------------------------------------------------------------------------------------------------------

  holds(pipe: Pipe, isWriter: boolean): boolean {
    const place = this.places[pipe.slot]!;
    if (!place.exchange || (isWriter ? place.outgoing : place.incoming)?.pipe !== pipe) return false;
    if (pipe.visible - pipe.taken > pipe.capacity) {
      this.#note("invalid counts", this.link.slots[pipe.slot]!, place.exchange);
      this.evict("it wrote invalid counts");
      return false;
    }
    const { state } = this.link.slots[pipe.slot]!.client;
    return !isWriter || (this.isOpen && (state === "claimed" || state === "streaming"));
  }

  pushed(pipe: Pipe, bytes: number): void {
    this.link.pushed("worker", pipe, bytes);
  }

  pulled(pipe: Pipe, bytes: number): void {
    if (this.isOpen) this.link.pulled("worker", pipe, bytes);
  }

  finished(pipe: Pipe): void {
    if (!this.holds(pipe, true)) return;
    this.link.moved("worker", pipe, () => {
      pipe.seenEnd = pipe.end;
    });
  }

  // ---- the end --------------------------------------------------------------------------------------------------------

  drain(): Promise<void> {
    this.#note("bus drains it", null, null);
    this.#isDraining = true;
    this.#drained ??= Promise.withResolvers<void>();
    this.#tellDrained();
    return this.#drained.promise;
  }

  #tellDrained(): void {
    if (!this.#drained || (this.isOpen && this.isBusy)) return;
    this.#isLeaving = true;
    this.#drained.resolve();
  }

  message(type: "drain" | "goodbye"): void {
    if (!this.isOpen) return;
    this.#note(type, null, null);
    this.#isDraining = true;
    if (type === "goodbye") this.#isLeaving = true;
  }

  evict(reason: string): void {
    if (!this.isOpen || this.evictedFor !== null) return;
    this.#note("evict", null, null);
    this.evictedFor = reason;
    this.#wire.condemn(this);
  }

  /** Checks the worker at a tick, `now`. Returns the event loop's blocked time if that must be reported. */
  watch(stalledAfter: number): number | null {
    for (const { exchange } of this.places) exchange?.age();
    const blocked = this.isBusy && this.#peer.isStopped ? this.#peer.stoppedFor : 0;
    if (blocked >= stalledAfter === this.isUnresponsive) return null;
    this.isUnresponsive = !this.isUnresponsive;
    this.#note(this.isUnresponsive ? "stalled" : "responsive", null, null);
    return this.isUnresponsive ? blocked : 0;
  }

  /** Ends the connection because the bus closes. */
  leave(): void {
    this.#isLeaving = true;
    this.end("left");
  }

  /** Ends the connection: reports to each exchange, newest first, then to the dispatcher. */
  end(how = `was evicted (${this.evictedFor})`): void {
    if (!this.isOpen) return;
    this.isOpen = false;
    const departure = this.evictedFor ? "evicted" : this.#isLeaving ? "left" : "died";
    this.#note(departure, null, null);
    const worker = this.link.ends.worker as WorkerEnd | null;
    const { evictedFor } = this;
    this.link.inOrder("worker", 0, () => worker?.hungUp(evictedFor));
    const carried = this.link.slots.filter(({ index }) => this.places[index]!.exchange !== null);
    const had = carried.map(({ index }) => this.places[index]!.exchange!);
    for (const exchange of had.toSorted((a, b) => b.serial - a.serial)) {
      this.#judge(exchange, how);
      this.#release(this.places[exchange.place]!);
    }
    this.#tellDrained();
    this.#wire.left(this, departure, how, had);
  }

  #judge(exchange: Exchange, how: string): void {
    const slot = this.link.slots[exchange.place]!;
    const { state, reply, token } = slot.client;
    if (state === "done" && !exchange.isStreaming && reply!.body) {
      this.#deliver(slot);
    } else if (state === "done") {
      if (!exchange.isStreaming) this.#begin(slot);
      this.#finish(slot);
    } else {
      const isBack = this.link.asks ? this.link.recall(token) : state === "ready";
      this.#note(isBack ? "lost no" : "lost maybe", slot, exchange);
      if (isBack) slot.client.state = "free";
      exchange.lost(isBack ? "no" : "maybe", how, this.timeLeft(exchange));
    }
  }
}
