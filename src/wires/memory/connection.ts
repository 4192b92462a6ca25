/** One attached worker on the client's side: its region, and the exchange in each slot. */

import { type BodyLike, bodyOffset, encodeMethod, Head, writeBody } from "../../bus/codec.ts";
import type { Exchange, Executed, Verdict } from "../../bus/exchange.ts";
import { ERROR_STRINGS } from "../../bus/response.ts";
import type { Connection, SlotReport } from "../../bus/wire.ts";
import { RegionCorruptError } from "../../errors.ts";
import { type ClientEvent, type LinkHandle, STUCK_MS } from "../../native/client.ts";
import { cancelBody, MESSAGE } from "../../native/control.ts";
import { Arenas } from "./arenas.ts";
import type { Attachment } from "./attachment.ts";
import { ClientRings } from "./client-rings.ts";
import type { Company } from "./company.ts";
import { Loans } from "./loans.ts";
import { Stall } from "./stall.ts";

const NO_SLOT = -1;

/** A connection: each exchange has a slot of the worker's region, its `place`. */
export class MemoryConnection implements Connection {
  readonly id: number;
  readonly pid: number;
  readonly uid: number;
  readonly concurrency: number;
  /** It has not ended. */
  isOpen = true;
  readonly attachment: Attachment;
  /** Slots that are not free, quarantined and lent ones included. */
  load = 0;
  /** It said goodbye, or has drained: the end of the connection is not a death. */
  isLeaving = false;
  /** Why it was evicted; `null` unless it was. */
  evictedFor: string | null = null;
  process: { served(): void } | null = null;
  readonly link: LinkHandle;
  readonly #company: Company<MemoryConnection>;
  /** It gets nothing new, because it asked for that or the bus drains it. */
  #isDraining = false;
  /** It let a request wait for its whole timeout without claiming it and has done nothing since: it may be stopped. */
  #isSuspect = false;
  readonly #stall = new Stall();
  /** By slot. */
  readonly #exchanges: (Exchange | null)[] = [];
  /** By slot: its streams. */
  readonly #rings: (ClientRings | undefined)[] = [];
  readonly #arenas: Arenas;
  readonly loans: Loans;
  /** Its process closed the socket or ended: it reads no request any more. */
  #hasClosed = false;
  #drained: (() => void)[] = [];
  /** Slot of a response that is whole, while it is handled: it is freed at the end of that, whoever leaves it. */
  #whole = NO_SLOT;

  /** The worker of `attachment` has mapped its region; requests may go to it. */
  constructor(company: Company<MemoryConnection>, attachment: Attachment) {
    const { link, concurrency, peer } = attachment;
    this.#company = company;
    this.loans = new Loans(() => company.client.count("borrows_forgotten"));
    this.attachment = attachment;
    this.link = link!;
    this.#arenas = new Arenas(this.link);
    this.id = this.link.life;
    this.pid = peer.pid;
    this.uid = peer.uid;
    this.concurrency = concurrency;
    this.link.start(peer.pid, peer.uid);
  }

  get room(): number {
    return this.isOpen && !this.#isDraining && this.evictedFor === null ? this.concurrency - this.load : 0;
  }

  get isDoubtful(): boolean {
    if (this.#isSuspect && this.link.isParked) this.#isSuspect = false;
    return this.#isSuspect || this.isUnresponsive;
  }

  /** Whether it has requests to work on. */
  get isBusy(): boolean {
    return this.load > this.loans.count;
  }

  get isUnresponsive(): boolean {
    return this.#stall.isLong;
  }

  get isEvicted(): boolean {
    return this.evictedFor !== null;
  }

  get isGone(): boolean {
    return this.attachment.peer.hasEnded;
  }

  forget(): void {
    if (!this.evictedFor) this.attachment.peer.forget(); // one that was evicted may come again
  }

  slots(): SlotReport[] {
    return this.link.slots().map((status, slot) => ({ ...status, exchange: this.#exchanges[slot] ?? null }));
  }

  // ---- the way out ----------------------------------------------------------------------------------------------------

  send(exchange: Exchange): "sent" | "gone" | "full" {
    const { heads, payloadLimit } = this.#company;
    const parameters = exchange.collect(heads); // runs code of the user: before a slot is taken
    if (this.isOpen && this.load >= this.concurrency) return "full"; // that code asked, too
    const link = this.link;
    const slot = this.isOpen ? link.reserve() : -1;
    if (slot < 0) {
      this.evict("it changed a slot that was free");
      return "gone";
    }
    this.load++;
    let bytes: number;
    let rang: boolean;
    try {
      const arena = this.#arenas.request(slot);
      const head = exchange.writeHead(arena, heads, parameters);
      const offset = bodyOffset(head);
      const { body, request } = exchange;
      const streams = exchange.beginBody();
      const length = streams ? 0 : writeBody(arena, offset, body as BodyLike, payloadLimit, "request");
      bytes = offset + length;
      const method = request.method === undefined ? (streams || length > 0 ? 1 : 0) : encodeMethod(request.method);
      if (streams) this.#rings[slot] = this.#openRings(slot);
      exchange.carrier = this;
      exchange.place = slot;
      this.#exchanges[slot] = exchange; // registered first, published after
      this.#company.awaited++;
      rang = link.publish(slot, method, streams, head, offset, length, exchange.timeLeft(), exchange.serial);
    } catch (error) {
      this.load--;
      link.cancel(slot);
      throw error;
    }
    this.#company.moved(bytes, rang);
    return "sent";
  }

  withdraw(exchange: Exchange): Verdict {
    const slot = exchange.place;
    this.#release(exchange);
    if (!this.isOpen || slot === this.#whole) return "maybe";
    const verdict = this.link.withdraw(slot);
    switch (verdict) {
      case "free":
        this.#freed();
        return "no";
      case "answered":
        this.#company.client.count("dropped");
        this.#free(slot);
        break;
      case "abandoned":
        this.#cancel(slot, this.link.token(slot));
        break;
      case "corrupt":
        this.evict(`it left slot ${slot} in a state no legal step leads to`);
    }
    return "maybe";
  }

  #cancel(slot: number, token: number): void {
    this.attachment.writer.send(MESSAGE.cancel, cancelBody(slot, token));
  }

  timeLeft({ place }: Exchange): number {
    return this.link.timeLeft(place);
  }

  wait(exchange: Exchange, spinNs: number): void {
    const result = this.link.wait(exchange.place, exchange.timeoutMs, spinNs);
    if (result === "answered") this.handle(this.#company.client.answer);
    else if (result === "expired") this.#company.expire();
    else this.end("ended");
  }

  /** Takes an exchange out of its slot; no report follows. */
  #release(exchange: Exchange): void {
    if (this.#exchanges[exchange.place] === exchange) this.#exchanges[exchange.place] = null;
    this.#detach(exchange);
  }

  #detach(exchange: Exchange): void {
    if (exchange.carrier !== this) return;
    const slot = exchange.place;
    exchange.carrier = null;
    this.#rings[slot]?.close();
    this.#rings[slot] = undefined;
    this.#company.awaited--;
  }

  // ---- the way back ---------------------------------------------------------------------------------------------------

  /** Handles one event, or one answer that was found. */
  handle(event: ClientEvent): void {
    if (event.kind === "answered") this.#deliver(event);
    else if (event.kind === "moved") this.#moved(event);
    else this.#handleRare(event);
  }

  #handleRare({ kind, slot, token }: ClientEvent): void {
    switch (kind) {
      case "freed":
        this.#isSuspect = false;
        this.#freed();
        break;
      case "expired":
        this.#isSuspect = true;
        this.#expire(slot, "no");
        this.#freed();
        break;
      case "abandoned":
        this.#cancel(slot, token);
        this.#expire(slot, "maybe");
        break;
      case "corrupt":
        this.evict(`it left slot ${slot} in a state no legal step leads to`);
        break;
      case "stuck":
        this.evict(`more than half its slots hung for ${STUCK_MS} ms`);
        break;
    }
  }

  #expire(slot: number, executed: Executed): void {
    const exchange = this.#exchanges[slot];
    if (!exchange) return;
    exchange.expired(executed);
    this.#release(exchange);
  }

  /** A response is in a slot: copies it out and frees the slot before anything of it is used; or lends it. */
  #deliver({ slot, headBytes, bodyOffset: offset, bodyBytes, status }: ClientEvent): void {
    const exchange = this.#exchanges[slot];
    this.#isSuspect = false;
    this.process?.served();
    if (!exchange || exchange.isSettled) {
      if (exchange) this.#release(exchange);
      this.#free(slot);
      return;
    }
    const { timed } = this.#company;
    const isLent = exchange.kind === "borrow" && status !== 0;
    const body = isLent ? null : this.#arenas.response(slot).bytes.slice(offset, offset + bodyBytes);
    const head = this.#readHead(exchange, headBytes, status === 0);
    if (!head) return;
    if (body && !this.#free(slot)) {
      this.#corrupted(exchange);
      return;
    }
    if (timed) timed(exchange, this.pid, this.link.claimUs(slot), this.link.roundTripUs(slot));
    if (body) {
      exchange.answered(status, head, body, null);
      this.#release(exchange);
    } else {
      const memory = this.link.lend(slot, offset, bodyBytes);
      const giveBack = this.loans.lend(memory.buffer, () => this.#returned(slot));
      exchange.answered(status, head, memory, giveBack);
      this.#detach(exchange); // it is shown in its slot until that is given back
    }
  }

  /** Copies a head. `null`: it is malformed, the exchange has failed, and the worker is evicted. */
  #readHead(exchange: Exchange, bytes: number, isError: boolean): Head | null {
    const arena = this.#arenas.response(exchange.place);
    try {
      return isError ? new Head(arena.bytes.slice(0, bytes), ERROR_STRINGS) : this.#company.answers.read(arena, bytes);
    } catch (cause) {
      const message = `worker pid ${this.pid} answered request ${exchange.id} with a malformed head.`;
      exchange.fail(new RegionCorruptError(message, { cause, mayHaveExecuted: true }));
      this.#release(exchange);
      this.evict("it answered with a malformed head");
      return null;
    }
  }

  #corrupted(exchange: Exchange, cause?: unknown): void {
    const message = `worker pid ${this.pid} corrupted the slot of request ${exchange.id}.`;
    exchange.fail(new RegionCorruptError(message, { cause, mayHaveExecuted: true }));
    this.#release(exchange);
  }

  /** The rings of a slot moved, or its response began or ended. */
  #moved({ slot, headBytes, bodyBytes, status }: ClientEvent): void {
    this.#isSuspect = false;
    this.#whole = bodyBytes === 0 ? NO_SLOT : slot;
    if (status !== 0) this.#begin(slot, headBytes, status);
    const exchange = this.#exchanges[slot];
    const rings = this.#rings[slot];
    if (exchange?.hasSource && rings) exchange.claimed(rings.outgoing);
    rings?.moved();
    if (bodyBytes !== 0 && this.isOpen) this.#finish(slot);
    this.#whole = NO_SLOT;
  }

  #begin(slot: number, headBytes: number, status: number): void {
    const exchange = this.#exchanges[slot];
    if (!exchange || exchange.isSettled) return;
    const head = this.#readHead(exchange, headBytes, false);
    if (!head) return;
    const rings = (this.#rings[slot] ??= this.#openRings(slot));
    exchange.began(status, head, rings.incoming);
  }

  /** A streamed response is whole: what the ring holds is copied out, and the slot is free. */
  #finish(slot: number): void {
    const exchange = this.#exchanges[slot];
    const rings = this.#rings[slot];
    this.process?.served();
    if (exchange && rings) exchange.ended(rings.incoming);
    if (exchange) this.#release(exchange);
    if (this.isOpen) this.#free(slot);
  }

  #openRings(slot: number): ClientRings {
    const [written, own] = [this.#arenas.response(slot), this.#arenas.request(slot)];
    return new ClientRings(this.#company, this.link, slot, written, own, (reason) => this.evict(reason));
  }

  /** A response that was lent came back. */
  #returned(slot: number): void {
    this.#exchanges[slot] = null;
    if (this.isOpen) {
      this.#free(slot);
      this.#company.room();
    } else {
      this.#drop();
    }
  }

  /** Frees the slot of an answer. `false`: the worker changed it since it answered, and is evicted. */
  #free(slot: number): boolean {
    const isIntact = this.link.release(slot);
    if (isIntact) this.#freed();
    else this.evict(`it changed slot ${slot} after it had answered`);
    return isIntact;
  }

  #freed(): void {
    this.load--;
    this.#tellDrained();
  }

  // ---- its end --------------------------------------------------------------------------------------------------------

  drain(): Promise<void> {
    this.#isDraining = true;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#drained.push(resolve);
    this.#tellDrained();
    return promise;
  }

  #tellDrained(): void {
    if (this.#drained.length === 0 || (this.isOpen && this.isBusy)) return;
    this.isLeaving = true;
    for (const done of this.#drained.splice(0)) done();
  }

  /** A message of the worker, after the handshake. */
  message(type: number): void {
    if (type !== MESSAGE.drain && type !== MESSAGE.goodbye) {
      this.evict(`it sent a message of type ${type}`);
      return;
    }
    this.#isDraining = true;
    if (type === MESSAGE.goodbye) this.isLeaving = true;
  }

  evict(reason: string): void {
    if (!this.isOpen || this.evictedFor !== null) return;
    this.evictedFor = reason;
    this.#company.condemn(this);
  }

  /** Checks the worker, `ms` after the last check. Returns for how long its event loop has not turned, when that changed. */
  watch(ms: number, limit: number): number | null {
    for (const exchange of this.#exchanges) exchange?.age();
    if (!this.isBusy && !this.isUnresponsive) return null;
    if (this.isBusy && this.attachment.peer.isEnding) {
      this.end("ended");
      return null;
    }
    // A worker that waits in async handlers is parked and has no reason to turn: a bell is one.
    return this.#stall.look(this.link.hasTurned(), ms, limit, () => this.attachment.writer.ring());
  }

  /** Says goodbye and ends the connection. */
  leave(): void {
    if (!this.isOpen) return;
    this.attachment.writer.send(MESSAGE.goodbye);
    this.isLeaving = true;
    this.end("left");
  }

  /**
   * Ends the connection, whatever the reason: closes the socket, then judges each slot by its state, ignoring hints, and tells each
   * exchange. `how` continues "worker pid 7 …".
   */
  end(how: string): void {
    if (!this.isOpen) return;
    this.isOpen = false;
    this.attachment.state = "ended";
    this.#hasClosed = how === "ended";
    const had = this.#exchanges.filter((exchange) => exchange?.carrier === this) as Exchange[];
    this.link.stop();
    this.attachment.cut();
    // The last one first: each that goes back to the queue goes to its front.
    for (const exchange of had.toSorted((a, b) => b.serial - a.serial)) {
      try {
        this.#judge(exchange, how);
      } catch (cause) {
        this.#corrupted(exchange, cause);
      }
      this.#release(exchange);
    }
    this.#tellDrained();
    const departure = this.evictedFor ? "evicted" : this.isLeaving ? "left" : "died";
    this.#company.left(this, departure, how, had);
    this.#drop();
  }

  #judge(exchange: Exchange, how: string): void {
    const slot = exchange.place;
    const link = this.link;
    const verdict = link.withdraw(slot);
    const { answer } = this.#company.client;
    if (verdict === "answered" && answer.kind === "answered" && !exchange.isStreaming) {
      this.#deliver(answer);
    } else if (verdict === "answered") {
      if (answer.status !== 0 && !exchange.isStreaming) this.#begin(slot, answer.headBytes, answer.status);
      this.#finish(slot);
    } else if (verdict === "corrupt" && !exchange.isStreaming) {
      this.#corrupted(exchange);
    } else {
      exchange.lost(verdict === "free" ? "no" : "maybe", how, link.timeLeft(slot));
    }
  }

  /** Frees the region, when nothing of it is lent. */
  #drop(): void {
    if (this.loans.count > 0) return;
    const isUnmapped = this.link.drop(this.#hasClosed, this.loans.isHeld);
    this.#company.dropped(this, isUnmapped);
  }
}
