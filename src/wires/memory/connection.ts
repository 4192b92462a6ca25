/** One attached worker, in the client: its region, and the exchange in each slot. */

import { type BodyLike, bodyOffset, encodeMethod, writeBody } from "../../bus/codec.ts";
import { Head } from "../../bus/head.ts";
import type { Exchange, Executed, Verdict } from "../../bus/exchange.ts";
import { ERROR_STRINGS } from "../../bus/response.ts";
import type { Connection, SlotReport } from "../../bus/wire.ts";
import { C } from "../../native/abi.ts";
import type { ClientEvent, LinkHandle } from "../../native/client.ts";
import { cancelBody, reasonBody } from "../../native/control.ts";
import { Arenas } from "./arenas.ts";
import type { Attachment } from "./attachment.ts";
import type { Company } from "./company.ts";
import { ringAll } from "./driver.ts";
import { Loans } from "./loans.ts";
import { Rings, type RingsOwner } from "./rings.ts";
import { Stall } from "./stall.ts";
import { SlotbusError } from "../../errors.ts";

/** A connection in shared memory. The `place` of an exchange is the index of its slot. */
export class MemoryConnection implements Connection, RingsOwner<number> {
  readonly id: number;
  readonly pid: number;
  readonly uid: number;
  readonly concurrency: number;
  readonly wire = "memory";
  isOpen = true;
  readonly attachment: Attachment;
  /** Number of slots that are not free, including quarantined and lent slots. */
  load = 0;
  /** Whether the worker said goodbye or has drained: the end of the connection then counts as "left". */
  isLeaving = false;
  /** Reason of the eviction; `null` if the worker was not evicted. */
  evictedFor: string | null = null;
  process: { served(): void } | null = null;
  readonly link: LinkHandle;
  readonly #company: Company<MemoryConnection>;
  /** Whether the worker gets no new requests, because it asked for that or the bus drains it. */
  #isDraining = false;
  readonly stall: Stall;
  /** Exchanges by slot. */
  readonly exchanges: (Exchange | null)[] = [];
  readonly #rings: (Rings<number> | undefined)[] = [];
  readonly #arenas: Arenas;
  readonly loans: Loans;
  /** Whether the worker's process ended or closed the socket: it reads no more requests. */
  #hasClosed = false;
  #drained: PromiseWithResolvers<void> | null = null;
  /** Slot of the complete streamed response that is being handled, which {@link #finish} frees; -1 for none. */
  #whole = -1;

  /** The worker of `attachment` must have mapped its region. */
  constructor(company: Company<MemoryConnection>, attachment: Attachment) {
    const { link, concurrency, peer } = attachment;
    this.#company = company;
    this.loans = new Loans(() => company.client.count("borrows_forgotten"));
    this.attachment = attachment;
    this.link = link!;
    this.stall = new Stall(this.link);
    this.#arenas = new Arenas(this.link.arenas, company.client.stride);
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
    return this.stall.isDoubtful;
  }

  get elsewhere(): number {
    return this.link.elsewhere;
  }

  get pace(): number {
    return this.stall.isSilent ? Infinity : this.link.pace;
  }

  get isBusy(): boolean {
    return this.load > this.loans.count;
  }

  get isUnresponsive(): boolean {
    return this.stall.isLong;
  }

  get isEvicted(): boolean {
    return this.evictedFor !== null;
  }

  get isGone(): boolean {
    return this.attachment.peer.hasEnded;
  }

  forget(): void {
    if (!this.evictedFor) this.attachment.peer.forget(); // an evicted worker may attach again
  }

  slots(): SlotReport[] {
    return this.link.slots().map((status, slot) => ({ ...status, exchange: this.exchanges[slot] ?? null }));
  }

  // ---- requests -------------------------------------------------------------------------------------------------------

  send(exchange: Exchange): "sent" | "gone" | "full" {
    const { heads, payloadLimit } = this.#company;
    const parameters = exchange.collect(heads); // runs user code, so before a slot is reserved
    if (this.isOpen && this.load >= this.concurrency) return "full"; // that code sent requests
    const slot = this.isOpen ? this.link.reserve() : -1;
    if (slot < 0) {
      this.evict("it changed a free slot");
      return "gone";
    }
    this.load++;
    let [bytes, rang] = [0, false];
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
      this.exchanges[slot] = exchange; // registered first, published after
      this.#company.awaited++;
      rang = this.link.publish(slot, method, streams, head, offset, length, exchange.timeLeft(), exchange.serial);
    } catch (error) {
      this.load--;
      this.link.cancel(slot);
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
    if (verdict === "free") {
      this.#freed();
      return "no";
    }
    if (verdict === "abandoned") {
      this.attachment.writer.send(C.SB_MSG_CANCEL, cancelBody(slot, this.link.token(slot)));
    } else if (verdict === "answered") {
      this.#company.client.count("dropped");
      this.#free(slot);
    } else {
      this.#illegal(slot);
    }
    return "maybe";
  }

  /** Puts an exchange back into the queue, unless the worker has just claimed it. */
  recall(exchange: Exchange): void {
    if (!this.link.recall(exchange.place)) return;
    const left = this.timeLeft(exchange);
    this.#release(exchange);
    this.#freed();
    exchange.recalled(left);
  }

  timeLeft({ place, timeoutMs }: Exchange): number {
    return timeoutMs === Infinity ? Infinity : this.link.timeLeft(place);
  }

  wait(exchange: Exchange, spinNs: number): void {
    ringAll();
    const result = this.link.wait(exchange.place, exchange.timeoutMs, spinNs);
    if (result === "answered") this.handle(this.#company.client.answer);
    else if (result === "expired") this.#company.expire();
    else this.end("ended");
  }

  /** Removes an exchange from its slot; no report follows. */
  #release(exchange: Exchange): void {
    if (this.exchanges[exchange.place] === exchange) this.exchanges[exchange.place] = null;
    this.#detach(exchange);
  }

  #detach(exchange: Exchange): void {
    if (exchange.carrier !== this) return;
    const slot = exchange.place;
    exchange.carrier = null;
    this.#rings[slot] = undefined;
    this.#company.awaited--;
  }

  // ---- responses ------------------------------------------------------------------------------------------------------

  handle(event: ClientEvent): void {
    if (event.kind === "answered") this.#deliver(event);
    else if (event.kind === "moved") this.#moved(event);
    else this.#handleRare(event);
  }

  #handleRare({ kind, slot, token }: ClientEvent): void {
    if (kind === "freed") this.#freed();
    else if (kind === "expired") {
      this.#expire(slot, "no");
      this.#freed();
    } else if (kind === "abandoned") {
      this.attachment.writer.send(C.SB_MSG_CANCEL, cancelBody(slot, token));
      this.#expire(slot, "maybe");
    } else if (kind === "stuck") {
      this.evict(`more than half of its slots were stuck for ${C.SB_STUCK_MS} ms`);
    } else {
      this.#illegal(slot);
    }
  }

  #illegal(slot: number): void {
    this.evict(`it put slot ${slot} into an invalid state`);
  }

  #expire(slot: number, executed: Executed): void {
    const exchange = this.exchanges[slot];
    if (!exchange) return;
    exchange.expired(executed);
    this.#release(exchange);
  }

  /** Delivers the response in a slot: copies it and frees the slot before any of it is used, or lends it. */
  #deliver({ slot, headBytes, bodyOffset: offset, bodyBytes, status }: ClientEvent): void {
    const exchange = this.exchanges[slot];
    this.process?.served();
    if (!exchange || exchange.isSettled) {
      if (exchange) this.#release(exchange);
      this.#free(slot);
      return;
    }
    const isLent = exchange.kind === "borrow" && status !== 0;
    const body = isLent ? null : this.#arenas.response(slot).bytes.slice(offset, offset + bodyBytes);
    const head = this.#readHead(exchange, headBytes, status === 0);
    if (!head) return;
    if (body && !this.#free(slot)) return this.#corrupted(exchange);
    if (body) {
      exchange.answered(status, head, body, null);
      this.#release(exchange);
    } else {
      const memory = this.#arenas.lendResponse(slot, offset, bodyBytes);
      const giveBack = this.loans.lend(memory.buffer, () => this.#returned(slot));
      exchange.answered(status, head, memory, giveBack);
      this.#detach(exchange); // `slots()` shows it until the slot is given back
    }
  }

  /** Copies a head. If it is malformed, fails the exchange, evicts the worker and returns `null`. */
  #readHead(exchange: Exchange, bytes: number, isError: boolean): Head | null {
    const arena = this.#arenas.response(exchange.place);
    try {
      return isError ? Head.copy(arena, bytes, ERROR_STRINGS) : this.#company.answers.read(arena, bytes);
    } catch (cause) {
      this.#corrupted(exchange, `responded to request ${exchange.id} with a malformed head`, cause);
      this.evict("it responded with a malformed head");
      return null;
    }
  }

  /** `how` continues "Worker pid 7 …". */
  #corrupted(exchange: Exchange, how = `corrupted the slot of request ${exchange.id}`, cause?: unknown): void {
    const message = `Worker pid ${this.pid} ${how}.`;
    exchange.fail(new SlotbusError("REGION_CORRUPT", message, { cause, mayHaveExecuted: true }));
    this.#release(exchange);
  }

  /** Handles a slot whose rings moved, or whose streamed response began or ended. */
  #moved({ slot, headBytes, bodyBytes, status }: ClientEvent): void {
    this.#whole = bodyBytes === 0 ? -1 : slot;
    if (status !== 0) this.#begin(slot, headBytes, status);
    const exchange = this.exchanges[slot];
    const rings = this.#rings[slot];
    if (exchange?.hasSource && rings) exchange.claimed(rings.outgoing);
    rings?.moved();
    if (bodyBytes !== 0 && this.isOpen) this.#finish(slot);
    this.#whole = -1;
  }

  #begin(slot: number, headBytes: number, status: number): void {
    const exchange = this.exchanges[slot];
    if (!exchange || exchange.isSettled) return;
    const head = this.#readHead(exchange, headBytes, false);
    if (!head) return;
    const rings = (this.#rings[slot] ??= this.#openRings(slot));
    exchange.began(status, head, rings.incoming);
  }

  /** Ends a complete streamed response: copies the bytes in the ring and frees the slot. */
  #finish(slot: number): void {
    const exchange = this.exchanges[slot];
    const rings = this.#rings[slot];
    this.process?.served();
    if (exchange && rings) exchange.ended(rings.incoming);
    if (exchange) this.#release(exchange);
    if (this.isOpen) this.#free(slot);
  }

  #openRings(slot: number): Rings<number> {
    const { client, clock, headLimit } = this.#company;
    const [written, own] = [this.#arenas.response(slot), this.#arenas.request(slot)];
    return new Rings(this, slot, headLimit, written, own, client.flow, clock);
  }

  move(rings: Rings<number>, sent: number, taken: number, need: number, isEnd = false): boolean {
    const slot = rings.of;
    if (this.#rings[slot] !== rings) return false; // another exchange may use the slot now
    const result = this.link.flow(slot, sent, taken, isEnd, need);
    if (result === "corrupt") this.evict(`it wrote invalid counts into the rings of slot ${slot}`);
    if (result === "corrupt" || result === "gone") return false;
    if (sent > 0 || taken > 0) this.#company.moved(sent + taken, result === "rang");
    return true;
  }

  finish(rings: Rings<number>): void {
    this.move(rings, 0, 0, 0, true);
  }

  #returned(slot: number): void {
    this.exchanges[slot] = null;
    if (this.isOpen) {
      this.#free(slot);
      this.#company.room();
    } else {
      this.#drop();
    }
  }

  /** Frees the slot of a response. If the worker changed the slot after it responded, evicts it and returns `false`. */
  #free(slot: number): boolean {
    this.stall.answered();
    const isIntact = this.link.release(slot);
    if (isIntact) this.#freed();
    else this.evict(`it changed slot ${slot} after it had responded`);
    return isIntact;
  }

  #freed(): void {
    this.load--;
    this.#tellDrained();
  }

  // ---- the end --------------------------------------------------------------------------------------------------------

  drain(): Promise<void> {
    this.#isDraining = true;
    this.#drained ??= Promise.withResolvers<void>();
    this.#tellDrained();
    return this.#drained.promise;
  }

  #tellDrained(): void {
    if (!this.#drained || (this.isOpen && this.isBusy)) return;
    this.isLeaving = true;
    this.#drained.resolve();
  }

  message(type: number): void {
    if (type !== C.SB_MSG_DRAIN && type !== C.SB_MSG_GOODBYE)
      return this.evict(`it sent an unexpected message of type ${type}`);
    this.#isDraining = true;
    if (type === C.SB_MSG_GOODBYE) this.isLeaving = true;
  }

  evict(reason: string): void {
    if (!this.isOpen || this.evictedFor !== null) return;
    this.evictedFor = reason;
    this.#company.condemn(this);
  }

  /** Checks the worker, `ms` after the last check. Returns for how many ms its event loop has been blocked, if that is news. */
  watch(ms: number, limit: number): number | null {
    for (const exchange of this.exchanges) exchange?.age();
    if (!this.isBusy && !this.isUnresponsive) return null;
    if (this.isBusy && this.attachment.peer.isEnding) {
      this.end("ended");
      return null;
    }
    // A worker that waits in async handlers is parked, and its event loop has no reason to run: the doorbell wakes it.
    return this.stall.look(ms, limit, () => this.attachment.writer.send(C.SB_MSG_BELL));
  }

  leave(): void {
    this.attachment.writer.send(C.SB_MSG_GOODBYE);
    this.isLeaving = true;
    this.end("left");
  }

  /**
   * Ends the connection, for any reason: closes the socket, then settles each slot by its status word, ignoring hints, and
   * reports to each exchange. `how` continues "Worker pid 7 …"; without it, the worker was evicted.
   */
  end(how = `was evicted (${this.evictedFor})`): void {
    if (!this.isOpen) return;
    this.isOpen = false;
    this.attachment.state = "ended";
    this.#hasClosed = how === "ended";
    const had = this.exchanges.filter((exchange) => exchange?.carrier === this) as Exchange[];
    this.link.stop();
    if (this.evictedFor !== null) this.attachment.writer.send(C.SB_MSG_GOODBYE, reasonBody(this.evictedFor));
    this.attachment.cut();
    // Newest first, because each exchange that returns to the queue goes to its front.
    for (const exchange of had.toSorted((a, b) => b.serial - a.serial)) {
      try {
        this.#judge(exchange, how);
      } catch (cause) {
        this.#corrupted(exchange, undefined, cause);
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
    const verdict = this.link.withdraw(slot);
    const { answer } = this.#company.client;
    if (verdict === "answered" && answer.kind === "answered" && !exchange.isStreaming) {
      this.#deliver(answer);
    } else if (verdict === "answered") {
      if (answer.status !== 0 && !exchange.isStreaming) this.#begin(slot, answer.headBytes, answer.status);
      this.#finish(slot);
    } else if (verdict === "corrupt" && !exchange.isStreaming) {
      this.#corrupted(exchange);
    } else {
      exchange.lost(verdict === "free" ? "no" : "maybe", how, this.timeLeft(exchange));
    }
  }

  /** Frees the region, unless a part of it is lent. */
  #drop(): void {
    if (this.loans.count > 0) return;
    const isUnmapped = this.#arenas.detach() && !this.loans.isHeld;
    this.link.drop(this.#hasClosed, isUnmapped);
    this.#company.dropped(isUnmapped);
  }
}
