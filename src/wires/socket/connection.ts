/** One worker that is attached by frames, in the client: the exchange in each slot. */

import { type BodyLike, encodeMethod } from "../../bus/codec.ts";
import type { Head } from "../../bus/head.ts";
import type { Exchange, Executed, Verdict } from "../../bus/exchange.ts";
import type { WireKind } from "../../bus/via.ts";
import type { Connection, SlotReport } from "../../bus/wire.ts";
import { SlotbusError } from "../../errors.ts";
import { decodeHead, encodeBody, fillFrame, firstBytes } from "./bodies.ts";
import { Parts } from "./collector.ts";
import type { PeerProcess, SocketCompany } from "./company.ts";
import type { Duplex } from "./duplex.ts";
import { FLAG, FRAME, type FrameSink, FrameReader, REQUEST_BYTES, u32 } from "./frames.ts";
import { detachedBody } from "./errors.ts";
import { Flood } from "./flood.ts";
import { FrameWriter } from "./writer.ts";
import { cutReason } from "./handshake.ts";
import { Pulse } from "./pulse.ts";
import { putRequest, readIds, readResponse } from "./messages.ts";
import { type Place, Places } from "./place.ts";
import { CreditPool, FrameIncoming, FrameOutgoing } from "./streams.ts";

/** A connection by frames. The `place` of an exchange is the index of its slot. */
export class SocketConnection implements Connection, FrameSink {
  readonly id: number;
  readonly concurrency: number;
  readonly pid: number;
  readonly uid: number;
  readonly instance: string | undefined;
  readonly peer: PeerProcess;
  readonly wire: WireKind;
  isOpen = true;
  load = 0;
  readonly elsewhere = 0;
  readonly pace = Infinity;
  process: { served(): void } | null = null;
  readonly #company: SocketCompany;
  readonly #duplex: Duplex;
  readonly #writer: FrameWriter;
  readonly #reader: FrameReader;
  readonly #places: Places;
  readonly #pool = new CreditPool();
  readonly #pulse: Pulse;
  readonly #flood: Flood;
  #evictedFor: string | null = null;
  #isDraining = false;
  #isLeaving = false;
  #drained: PromiseWithResolvers<void> | null = null;
  /** The slot of the complete streamed response that is being handled. */
  #whole: Place | null = null;
  /** Whether a slot became free while a chunk was read. */
  #hasRoom = false;

  constructor(company: SocketCompany, duplex: Duplex, id: number, peer: PeerProcess, concurrency: number) {
    this.#company = company;
    this.wire = company.wire;
    this.#duplex = duplex;
    this.id = id;
    ({ pid: this.pid, uid: this.uid, instance: this.instance } = peer);
    this.peer = peer;
    this.concurrency = concurrency;
    this.#places = new Places(concurrency);
    this.#writer = new FrameWriter(duplex);
    this.#reader = new FrameReader(this, this.#writer);
    this.#pulse = new Pulse(company.clock, () => this.#writer.send(FRAME.ping));
    this.#flood = new Flood(company.clock);
    duplex.onData = (bytes) => this.read(bytes);
    duplex.onClose = () => this.end(duplex.fate ?? "ended", true);
  }

  get room(): number {
    return this.isOpen && !this.#isDraining && this.#evictedFor === null ? this.concurrency - this.load : 0;
  }

  get isDoubtful(): boolean {
    return this.#pulse.isLate;
  }

  get isUnresponsive(): boolean {
    return this.#pulse.isLong;
  }

  get isEvicted(): boolean {
    return this.#evictedFor !== null;
  }

  get isGone(): boolean {
    return this.peer.hasEnded;
  }

  forget(): void {
    this.peer.forget();
  }

  slots(): SlotReport[] {
    return this.#places.reports(this.#company.clock.now(), this.#writer);
  }

  timeLeft({ place }: Exchange): number {
    return this.#places.all[place]!.deadline - this.#company.clock.now();
  }

  // ---- requests -------------------------------------------------------------------------------------------------------

  send(exchange: Exchange): "sent" | "gone" | "full" {
    const company = this.#company;
    const { outgoing: arena, clock } = company;
    const parameters = exchange.collect(company.heads); // runs user code
    if (!this.isOpen) return "gone";
    if (this.load >= this.concurrency) return "full"; // that code sent requests
    const head = exchange.writeHead(arena, company.heads, parameters);
    const { body, request } = exchange;
    const streams = exchange.beginBody();
    const encoded = encodeBody(arena, head, streams ? null : (body as BodyLike), company.payloadLimit, "request");
    const { bytes } = encoded;
    const method = request.method === undefined ? (streams || bytes > 0 ? 1 : 0) : encodeMethod(request.method);
    const timeLeft = exchange.timeLeft();
    const place = this.#places.take(exchange, clock.now(), timeLeft, streams);
    const { id } = place;
    this.load++;
    exchange.carrier = this;
    const writer = this.#writer;
    const first = firstBytes(REQUEST_BYTES, head, encoded.inline);
    const at = (place.at = writer.begin(FRAME.request, streams ? FLAG.streams : 0, id, REQUEST_BYTES + first));
    place.batch = writer.batch;
    putRequest(writer.bytes, at, exchange.serial, timeLeft, head, bytes, method);
    place.rest = fillFrame(writer, at + REQUEST_BYTES, first, arena, head, encoded, id, null);
    if (place.rest) {
      place.rest.onDetached = () => queueMicrotask(() => this.#detached(exchange, place));
      writer.add(place.rest);
    }
    company.count("published");
    return "sent";
  }

  /** The caller has taken the memory of the body away while it was sent. */
  #detached(exchange: Exchange, place: Place): void {
    if (place.exchange !== exchange || !this.isOpen) return;
    exchange.fail(detachedBody(exchange.id, this.#takeBack(place) !== "no"));
    this.#release(place);
  }

  withdraw(exchange: Exchange): Verdict {
    const place = this.#places.all[exchange.place]!;
    this.#release(place);
    if (!this.isOpen || place === this.#whole) return "maybe";
    return this.#takeBack(place);
  }

  /** Takes a request back. If its slot stays taken, the worker says when it is free. */
  #takeBack(place: Place): "no" | "asked" {
    if (!this.#writer.hasSent(place.batch)) {
      this.#writer.recall(place.batch, place.at);
      this.#company.count("withdrawn");
      this.#put(place);
      return "no";
    }
    place.abandon();
    const isPart = place.dropRest(this.#writer);
    this.#writer.send(FRAME.cancel, place.id);
    this.#company.count(isPart ? "withdrawn" : "abandoned");
    return isPart ? "no" : "asked"; // no handler runs before the whole body is there
  }

  /** Removes an exchange from its slot; no report follows. */
  #release(place: Place): void {
    const { exchange } = place;
    place.exchange = null;
    if (exchange?.carrier === this) exchange.carrier = null;
    place.outgoing?.close();
    place.incoming?.close();
  }

  /** Frees a slot. */
  #put(place: Place): void {
    place.dropRest(this.#writer);
    this.#places.free(place);
    this.load--;
    this.#hasRoom = true;
    this.#tellDrained();
  }

  // ---- frames ---------------------------------------------------------------------------------------------------------

  /** Handles bytes from the worker. Runs no user code. */
  read(bytes: Uint8Array): void {
    if (!this.isOpen) return;
    this.#pulse.beat();
    this.#reader.push(bytes);
    if (this.#hasRoom) {
      this.#hasRoom = false;
      this.#company.room();
    }
  }

  malformed(what: string): void {
    this.evict(`it sent ${what}`);
  }

  /** Returns the slot of an open exchange. Counts ids of other exchanges and returns `null`. */
  #placeOf(id: number): Place | null {
    const place = this.#places.find(id);
    if (place) return place;
    if (this.#flood.isOver()) this.evict("it sent too many frames of no open exchange");
    return null;
  }

  frame(type: number, flags: number, id: number, bytes: Uint8Array): void {
    if (type === FRAME.response) return this.#respond(id, flags, bytes);
    if (type === FRAME.credit) return this.#credit(id, bytes);
    if (type === FRAME.end) return this.#endStream(id, flags, bytes);
    if (type === FRAME.freed) return this.#freed(id);
    if (type === FRAME.pong) return this.#idle();
    if (type === FRAME.drain || type === FRAME.goodbye) {
      this.#isDraining = true;
      if (type === FRAME.goodbye) this.#goodbye(bytes);
      return this.#idle();
    }
    this.evict(`it sent a frame of type ${type}, which only a client sends`);
  }

  /** The worker leaves, and will never begin the requests that it does not list. */
  #goodbye(bytes: Uint8Array): void {
    this.#isLeaving = true;
    const begun = readIds(bytes);
    for (const place of this.#places.all) place.isRefused ||= !begun.has(place.id) && !place.isAnswered;
  }

  #idle(): void {
    if (this.#flood.isOver()) this.evict("it sent too many frames without work");
  }

  #respond(id: number, flags: number, bytes: Uint8Array): void {
    const place = this.#placeOf(id);
    if (!place) return;
    const message = readResponse(flags, bytes, this.#company);
    const isNew = place.response === null && place.incoming === null && place.left < 0;
    if (!message || !isNew) return this.evict(`it sent an invalid response to exchange ${id}`);
    const { status, head, body, streams, first } = message;
    if (place.state === "quarantine") {
      if (streams) return; // END or FREED follows
      place.left = head + body - first.length;
      if (place.left === 0) this.#drop(place);
      return;
    }
    place.status = status;
    place.headBytes = head;
    place.isHead = streams;
    if (message.isPart) place.response = new Parts(head, body, first);
    else if (streams) this.#begin(place, first);
    else this.#deliver(place, first, first.slice(head));
  }

  /** A response that nobody waits for is complete. */
  #drop(place: Place): void {
    place.left = -1;
    this.process?.served();
    this.#company.count("responses");
    this.#company.count("dropped");
    this.#put(place);
  }

  piece(id: number, bytes: Uint8Array): void {
    const place = this.#placeOf(id);
    if (!place) return;
    if (place.state === "quarantine") {
      if (place.left < 0) return; // a stream; its end follows
      place.left -= bytes.length;
      if (place.left < 0) this.evict(`it sent too many bytes in exchange ${id}`);
      else if (place.left === 0) this.#drop(place);
      return;
    }
    const { response, incoming } = place;
    if (response && bytes.length <= response.missing) {
      response.add(bytes);
      if (response.missing > 0) return;
      place.response = null;
      if (place.isHead) this.#begin(place, response.head);
      else this.#deliver(place, response.head, response.body);
    } else if (!response && incoming?.arrived(bytes)) {
      incoming.onMoved?.();
    } else {
      this.evict(`it sent too many bytes in exchange ${id}`);
    }
  }

  /** Delivers a whole response. Frees the slot before any of it is used. */
  #deliver(place: Place, bytes: Uint8Array, body: Uint8Array): void {
    const { status } = place;
    const exchange = place.exchange!;
    const company = this.#company;
    this.process?.served();
    company.count("responses");
    company.roundTrip(company.clock.now() - place.since);
    const head = this.#readHead(place, exchange, bytes);
    if (!head) return;
    this.#put(place);
    exchange.answered(status, head, body, null);
    this.#release(place);
  }

  /** Decodes a copy of a head. If it is malformed, fails the exchange, evicts the worker and returns `null`. */
  #readHead(place: Place, exchange: Exchange, bytes: Uint8Array): Head | null {
    try {
      return decodeHead(this.#company, bytes, place.headBytes, place.status === 0);
    } catch (cause) {
      const message = `Worker pid ${this.pid} responded to request ${exchange.id} with a malformed head.`;
      exchange.fail(new SlotbusError("REGION_CORRUPT", message, { cause, mayHaveExecuted: true }));
      this.#release(place);
      this.evict("it responded with a malformed head");
      return null;
    }
  }

  /** Begins a streamed response. */
  #begin(place: Place, head: Uint8Array): void {
    const exchange = place.exchange!;
    const decoded = this.#readHead(place, exchange, head);
    if (!decoded) return;
    place.isHead = false;
    place.incoming = new FrameIncoming(place.id, this.#writer, this.#pool, false);
    exchange.began(place.status, decoded, place.incoming);
  }

  #endStream(id: number, flags: number, bytes: Uint8Array): void {
    const place = this.#placeOf(id);
    if (!place) return;
    if (place.state === "quarantine" && place.left < 0) return this.#drop(place);
    const { incoming, exchange } = place;
    const isError = (flags & FLAG.error) !== 0;
    if (!incoming?.ended(isError ? bytes : null)) return this.evict(`it ended exchange ${id}, which does not stream`);
    this.process?.served();
    this.#company.count("responses");
    this.#whole = place;
    incoming.onMoved?.();
    if (place.exchange) exchange!.ended(incoming);
    this.#release(place);
    this.#whole = null;
    if (this.isOpen) this.#put(place);
  }

  #credit(id: number, bytes: Uint8Array): void {
    const place = this.#placeOf(id);
    if (!place || place.state === "quarantine") return;
    const { exchange } = place;
    if (!place.streams || bytes.length !== 4 || !exchange) {
      return this.evict(`it gave invalid credit to exchange ${id}`);
    }
    if (!place.outgoing) {
      place.outgoing = new FrameOutgoing(id, this.#writer, 0, () => {});
      if (exchange.hasSource) exchange.claimed(place.outgoing);
    }
    if (!place.outgoing.addCredit(u32(bytes, 0))) this.evict(`it gave invalid credit to exchange ${id}`);
  }

  #freed(id: number): void {
    const place = this.#placeOf(id);
    if (!place) return;
    if (place.state === "quarantine") this.#put(place);
    else this.evict(`it freed exchange ${id}, which was not cancelled`);
  }

  // ---- time -----------------------------------------------------------------------------------------------------------

  /** Takes back the exchanges whose timeout is over. */
  expire(now: number): void {
    for (const place of this.#places.all) {
      const { exchange } = place;
      if (!exchange || place.state !== "flight" || place.incoming || now < place.deadline || !this.isOpen) continue;
      const executed: Executed = this.#takeBack(place) === "no" ? "no" : "maybe";
      exchange.expired(executed);
      this.#release(place);
    }
  }

  /** Checks the worker at a tick, `ms` after the last. Returns for how long it has been silent, if that is news. */
  watch(ms: number): number | null {
    for (const { exchange } of this.#places.all) exchange?.age();
    if (this.load > 0) this.#duplex.probe?.();
    return this.#pulse.watch(ms, this.load > 0, this.#company.stalledAfter);
  }

  // ---- the end --------------------------------------------------------------------------------------------------------

  drain(): Promise<void> {
    this.#isDraining = true;
    this.#drained ??= Promise.withResolvers<void>();
    this.#tellDrained();
    return this.#drained.promise;
  }

  #tellDrained(): void {
    if (!this.#drained || (this.isOpen && this.load > 0)) return;
    this.#isLeaving = true;
    this.#drained.resolve();
  }

  evict(reason: string): void {
    if (!this.isOpen || this.#evictedFor !== null) return;
    this.#evictedFor = reason;
    this.end();
  }

  /** Ends the connection because the bus closes. */
  leave(): void {
    this.#isLeaving = true;
    this.end("left");
  }

  /**
   * Ends the connection, and reports to each exchange and to the wire. `how` continues "Worker pid 7 …"; without it: an eviction.
   * `isClosed`: the worker has closed it.
   */
  end(how = `was evicted (${this.#evictedFor})`, isClosed = false): void {
    if (!this.isOpen) return;
    this.isOpen = false;
    const evictedFor = this.#evictedFor;
    const had = this.#places.all.filter(({ exchange }) => exchange !== null);
    const exchanges = had.map(({ exchange }) => exchange!);
    const provenNo = new Set(had.filter((place) => place.isUnseen(this.#writer)));
    this.#hangUp(isClosed ? null : (evictedFor ?? ""));
    // Newest first, because each exchange that returns to the queue goes to its front.
    for (const place of had.toSorted((a, b) => b.exchange!.serial - a.exchange!.serial)) {
      const exchange = place.exchange!;
      exchange.lost(provenNo.has(place) ? "no" : "maybe", how, place.deadline - this.#company.clock.now());
      this.#release(place);
    }
    this.#tellDrained();
    const departure = evictedFor !== null ? "evicted" : this.#isLeaving ? "left" : "died";
    this.#company.left(this, departure, how, exchanges);
  }

  /** Closes the socket, after a goodbye with `reason`; `null`: the worker has closed it. */
  #hangUp(reason: string | null): void {
    const writer = this.#writer;
    if (reason === null) {
      writer.close();
      return this.#duplex.terminate();
    }
    for (const place of this.#places.all) {
      if (!writer.hasSent(place.batch)) writer.recall(place.batch, place.at);
      place.dropRest(writer);
    }
    writer.sendBytes(FRAME.goodbye, 0, 0, cutReason(reason));
    writer.flush();
    writer.close();
    this.#duplex.end();
  }
}
