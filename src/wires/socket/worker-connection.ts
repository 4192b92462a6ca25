/** The worker's end of its connection to a client by frames: the claim in each slot. */

import { encodeError } from "../../bus/answer.ts";
import type { Outgoing } from "../../bus/body-writer.ts";
import { callerGone, Claim, type ClaimOwner, type Delivery, type RequestName } from "../../bus/claim.ts";
import { Arena, type BodyLike, HeadWriter, REQUEST_STRINGS } from "../../bus/codec.ts";
import { HeadReader } from "../../bus/head.ts";
import { WorkerRequest } from "../../bus/request.ts";
import { RESPONSE_STRINGS } from "../../bus/response.ts";
import type { Turns } from "../../bus/turns.ts";
import { SlotbusError } from "../../errors.ts";
import { arenaBytes, copySmall, encodeBody, type Encoded, fillFrame, firstBytes } from "./bodies.ts";
import { Parts } from "./collector.ts";
import type { Duplex } from "./duplex.ts";
import { Flood } from "./flood.ts";
import { FrameWriter } from "./writer.ts";
import {
  FLAG,
  FRAME,
  type FrameSink,
  FrameReader,
  IDLE_FRAMES_PER_SECOND,
  putU32,
  RESPONSE_BYTES,
  u32,
} from "./frames.ts";
import type { Welcome } from "./handshake.ts";
import { Entry } from "./entry.ts";
import { type Limits, putResponse, readRequest } from "./messages.ts";
import { CreditPool, FIRST_CREDIT, FrameIncoming, FrameOutgoing } from "./streams.ts";

/** Largest encoded error, in bytes. */
const ERROR_BYTES = 16_384;
/** Unsent responses, in bytes, above which a client gets no more handlers: it does not read. */
const UNREAD_BYTES = 1_048_576;
/** Longest time that a closed connection waits until its last bytes are sent, in ms. */
const LINGER_MS = 2_000;

const NONE = new Uint8Array(0);
const NO_BODY: Encoded = { bytes: 0, inline: 0, large: null };
const utf8 = new TextDecoder();

/** What a worker runs for all its clients. */
export class Totals {
  /** Number of requests that were taken and whose last frame is not passed to the socket. */
  running = 0;
}

/** Reports of a connection to its worker. */
export interface SocketSide {
  readonly totals: Totals;
  /** A request can be taken: see {@link SocketWorkerConnection.take}. */
  arrived(): void;
  /** Bytes of a response were sent, or a request is over. */
  answered(): void;
  failedLate(request: RequestName, error: unknown): void;
  /** The client closed the connection or broke the protocol. The connection is not closed yet. */
  lost(connection: SocketWorkerConnection, reason: SlotbusError): void;
}

/** Reads requests from one client and writes responses to it. */
export class SocketWorkerConnection implements ClaimOwner, FrameSink {
  readonly turns: Turns;
  readonly heads = new HeadWriter();
  readonly payloadBytes: number;
  /** Address of the client: `NAME` or `NAME@K`. */
  readonly address: string;
  isOpen = true;
  /** Why the client evicted this worker; `""` if it did not. */
  evictedFor = "";
  readonly #side: SocketSide;
  readonly #duplex: Duplex;
  readonly #tag: string;
  readonly #limits: Limits;
  readonly #writer: FrameWriter;
  readonly #reader: FrameReader;
  readonly #headReader = new HeadReader(REQUEST_STRINGS);
  readonly #outgoing: Arena;
  readonly #incoming: Arena;
  readonly #entries: Entry[];
  readonly #pool = new CreditPool();
  readonly #flood: Flood;
  /** Requests that wait to be taken, in order. */
  readonly #waiting: Entry[] = [];

  constructor(side: SocketSide, duplex: Duplex, address: string, welcome: Welcome, turns: Turns) {
    this.#side = side;
    this.#duplex = duplex;
    this.address = address;
    this.turns = turns;
    this.payloadBytes = welcome.payloadLimit;
    this.#limits = welcome;
    this.#tag = welcome.tag.toString(36);
    this.#outgoing = new Arena(new ArrayBuffer(arenaBytes(welcome.headLimit)));
    this.#incoming = new Arena(new ArrayBuffer(welcome.headLimit));
    this.#entries = Array.from({ length: welcome.concurrency }, () => new Entry());
    this.#writer = new FrameWriter(duplex);
    this.#reader = new FrameReader(this, this.#writer);
    this.#flood = new Flood(turns.clock);
    duplex.onData = (bytes) => {
      if (this.isOpen) this.#reader.push(bytes);
    };
    duplex.onClose = () => {
      if (this.isOpen) this.#side.lost(this, this.#ended());
    };
  }

  #ended(): SlotbusError {
    const { fate } = this.#duplex;
    if (this.evictedFor === "" && fate) return new SlotbusError("DISCONNECTED", `The client ${fate}.`);
    if (this.evictedFor !== "") return new SlotbusError("EVICTED", this.evictedFor);
    return new SlotbusError("CLOSED", "The client is closed.", { retryable: true });
  }

  idOf(serial: number): string {
    return `${this.#tag}-${serial.toString(36)}`;
  }

  ref(): void {
    this.#duplex.ref();
  }

  // ---- requests -------------------------------------------------------------------------------------------------------

  malformed(what: string): void {
    this.#broke(`sent ${what}`);
  }

  /** `what` continues "The client". */
  #broke(what: string, cause?: unknown): void {
    if (this.isOpen) this.#side.lost(this, new SlotbusError("PROTOCOL", `The client ${what}.`, { cause }));
  }

  /** Returns an open exchange. Counts ids of other exchanges and returns `null`. */
  #entryOf(id: number): Entry | null {
    const entry = this.#entries[id & 0xff];
    if (entry && entry.id === id && entry.state !== "free") return entry;
    this.#idle();
    return null;
  }

  #idle(): void {
    if (this.#flood.isOver()) this.#broke(`sent more than ${IDLE_FRAMES_PER_SECOND} frames per second without work`);
  }

  frame(type: number, flags: number, id: number, bytes: Uint8Array): void {
    if (type === FRAME.request) return this.#request(id, flags, bytes);
    if (type === FRAME.cancel) return this.#cancel(id);
    if (type === FRAME.credit) return this.#credit(id, bytes);
    if (type === FRAME.end) return this.#endStream(id, flags, bytes);
    if (type === FRAME.none) return this.#idle();
    if (type === FRAME.ping) {
      if (this.#writer.waiting < UNREAD_BYTES) this.#writer.send(FRAME.pong);
      return this.#idle();
    }
    if (type === FRAME.goodbye) {
      this.evictedFor = utf8.decode(bytes.subarray(0, 1_000)).replace(/\p{Cc}/gu, "?"); // the end of the socket follows
      return;
    }
    this.#broke(`sent a frame of type ${type}, which only a worker sends`);
  }

  #request(id: number, flags: number, bytes: Uint8Array): void {
    const entry = this.#entries[id & 0xff];
    const message = entry?.state === "free" ? readRequest(flags, bytes, this.#limits) : null;
    if (!entry || !message) return this.#broke(`sent an invalid request ${id}`);
    const { head, body, streams, first, serial, timeoutMs, method } = message;
    entry.state = "arriving";
    entry.id = id;
    entry.serial = serial;
    entry.timeoutMs = timeoutMs;
    entry.headBytes = head;
    entry.method = method;
    entry.streams = streams;
    entry.isCancelled = false;
    if (message.isPart) entry.request = new Parts(head, body, first);
    else this.#complete(entry, first, body === 0 ? NONE : first.slice(head));
  }

  /** A head, and a body that does not stream, have arrived. */
  #complete(entry: Entry, head: Uint8Array, body: Uint8Array): void {
    const { headBytes } = entry;
    try {
      copySmall(head, this.#incoming.bytes, 0, headBytes);
      entry.head = this.#headReader.read(this.#incoming, headBytes);
    } catch (cause) {
      return this.#broke("sent a malformed head", cause);
    }
    entry.body = body;
    entry.state = "waiting";
    this.#waiting.push(entry);
    this.#side.arrived();
  }

  /** Whether {@link take} returns a request. */
  get hasWaiting(): boolean {
    return this.#waiting.length > 0 && this.isOpen && this.#writer.waiting < UNREAD_BYTES;
  }

  /** Takes the next request. */
  take(now: number): WorkerRequest {
    const entry = this.#waiting.shift()!;
    const { id, body, head, streams, method, serial, timeoutMs } = entry;
    const claim = new Claim(this, id & 0xff, id, 0, body.length, body);
    entry.state = "taken";
    entry.claim = claim;
    entry.head = null;
    this.#side.totals.running++;
    if (streams) {
      entry.incoming = new FrameIncoming(id, this.#writer, this.#pool, true);
      claim.streams(entry.incoming);
    }
    return new WorkerRequest(claim, method, serial, timeoutMs, now, head!);
  }

  piece(id: number, bytes: Uint8Array): void {
    const entry = this.#entryOf(id);
    if (!entry) return;
    const { request, incoming } = entry;
    if (request && bytes.length <= request.missing) {
      request.add(bytes);
      if (request.missing > 0) return;
      entry.request = null;
      this.#complete(entry, request.head, request.body);
    } else if (!request && incoming?.arrived(bytes)) {
      incoming.onMoved?.();
    } else {
      this.#broke(`sent too many bytes in request ${id}`);
    }
  }

  #endStream(id: number, flags: number, bytes: Uint8Array): void {
    const entry = this.#entryOf(id);
    if (!entry) return;
    const isError = (flags & FLAG.error) !== 0;
    if (isError || bytes.length > 0 || !entry.incoming?.ended(null)) {
      return this.#broke(`ended request ${id}, which does not stream`);
    }
    entry.incoming.onMoved?.();
  }

  #credit(id: number, bytes: Uint8Array): void {
    const entry = this.#entryOf(id);
    if (!entry) return;
    if (bytes.length !== 4 || !entry.outgoing?.addCredit(u32(bytes, 0))) {
      this.#broke(`gave invalid credit to request ${id}`);
    }
  }

  #cancel(id: number): void {
    const entry = this.#entryOf(id);
    if (!entry || entry.isCancelled) return;
    entry.isCancelled = true;
    if (entry.state === "arriving" || entry.state === "waiting") {
      const at = this.#waiting.indexOf(entry);
      if (at >= 0) this.#waiting.splice(at, 1);
      return this.#freed(entry);
    }
    if (entry.claim) return entry.claim.abort(callerGone());
    if (entry.rest) this.#writer.remove(entry.rest);
    if (entry.outgoing) entry.outgoing.close();
    else this.#over(entry);
  }

  /** Ends an exchange that was not taken, or that nobody waits for. */
  #freed(entry: Entry): void {
    this.#writer.send(FRAME.freed, entry.id);
    this.#free(entry);
  }

  /** An exchange that was taken is over. */
  #over(entry: Entry): void {
    if (entry.state === "free") return;
    if (entry.isCancelled && this.isOpen) this.#writer.send(FRAME.freed, entry.id);
    this.#free(entry);
    this.#side.totals.running--;
    this.#side.answered();
  }

  #free(entry: Entry): void {
    entry.state = "free";
    entry.incoming?.close();
    entry.incoming = null;
    entry.outgoing = null;
    entry.request = null;
    entry.rest = null;
    entry.head = null;
    entry.body = NONE;
  }

  // ---- calls of claims ------------------------------------------------------------------------------------------------

  #entry({ slot }: Claim): Entry {
    return this.#entries[slot]!;
  }

  isGivenUp(claim: Claim): boolean {
    const entry = this.#entry(claim);
    return !this.isOpen || entry.id !== claim.token || entry.isCancelled;
  }

  holds(claim: Claim): boolean {
    return this.isOpen && this.#entry(claim).claim === claim;
  }

  bodyOf(claim: Claim): Uint8Array {
    return this.#entry(claim).body;
  }

  lendBody(claim: Claim): Uint8Array<ArrayBuffer> {
    return this.bodyOf(claim).slice() as Uint8Array<ArrayBuffer>;
  }

  lendAnswer(_: Claim, bytes: number): Uint8Array<ArrayBuffer> {
    return new Uint8Array(bytes);
  }

  answer(claim: Claim, status: number, body: BodyLike): Delivery {
    const arena = this.#outgoing;
    const head = this.heads.write(arena, 0, RESPONSE_STRINGS, this.#limits.headLimit, "response");
    return this.#respond(claim, status, head, encodeBody(arena, head, body, this.payloadBytes, "response"));
  }

  fail(claim: Claim, error: unknown): Delivery {
    const head = encodeError(this.#outgoing, error, Math.min(this.#limits.headLimit, ERROR_BYTES));
    this.#outgoing.head = null;
    return this.#respond(claim, 0, head, encodeBody(this.#outgoing, head, null, 0, "response"));
  }

  #respond(claim: Claim, status: number, head: number, encoded: Encoded): Delivery {
    const entry = this.#entry(claim);
    const { large } = encoded;
    if (large) encoded.large = claim.outlive(large);
    claim.isAnswered = true;
    claim.settle();
    if (entry.isCancelled) {
      this.#over(entry);
      return "late";
    }
    const first = firstBytes(RESPONSE_BYTES, head, encoded.inline);
    const at = this.#begin(entry, 0, status, head, encoded.bytes, first);
    const isShort = encoded.large === null && first === head + encoded.inline;
    const onSent = isShort ? null : (): void => this.#over(entry);
    entry.rest = fillFrame(this.#writer, at, first, this.#outgoing, head, encoded, entry.id, onSent);
    if (!entry.rest) this.#over(entry);
    else if (encoded.large === large) this.#writer.addNow(entry.rest);
    else this.#writer.add(entry.rest);
    return "sent";
  }

  #begin({ id }: Entry, flags: number, status: number, head: number, body: number, first: number): number {
    const writer = this.#writer;
    const at = writer.begin(FRAME.response, flags, id, RESPONSE_BYTES + first);
    putResponse(writer.bytes, at, status, head, body);
    return at + RESPONSE_BYTES;
  }

  begin(claim: Claim, status: number): Outgoing | null {
    const entry = this.#entry(claim);
    const arena = this.#outgoing;
    const head = this.heads.write(arena, 0, RESPONSE_STRINGS, this.#limits.headLimit, "response");
    claim.keepBody(true);
    claim.isAnswered = true;
    if (entry.isCancelled) {
      claim.settle();
      this.#over(entry);
      return null;
    }
    const first = firstBytes(RESPONSE_BYTES, head, 0);
    const at = this.#begin(entry, FLAG.streams, status, head, 0, first);
    const rest = fillFrame(this.#writer, at, first, arena, head, NO_BODY, entry.id, null);
    if (rest) this.#writer.addNow(rest);
    const onEnd = (): void => {
      if (!this.isOpen) return;
      claim.settle();
      this.#over(entry);
    };
    return (entry.outgoing = new FrameOutgoing(entry.id, this.#writer, FIRST_CREDIT, onEnd));
  }

  errorHead(error: unknown): Uint8Array {
    const limit = Math.min(this.#limits.headLimit, ERROR_BYTES);
    const scratch = new Arena(new ArrayBuffer(limit));
    return scratch.bytes.subarray(0, encodeError(scratch, error, limit));
  }

  release(claim: Claim): boolean {
    const entry = this.#entry(claim);
    if (entry.claim !== claim) return false;
    entry.claim = null;
    return true;
  }

  keptMemory(): void {} // it is memory of the process, which the garbage collector frees

  failedLate(request: RequestName, error: unknown): void {
    this.#side.failedLate(request, error);
  }

  // ---- the end --------------------------------------------------------------------------------------------------------

  /** Tells the client to send no new requests. */
  drain(): void {
    this.#writer.send(FRAME.drain);
  }

  /** Ends the connection: aborts all claims. With `saysGoodbye`, responses that are not sent yet are sent first, then a goodbye. */
  close(reason: unknown, saysGoodbye: boolean): void {
    if (!this.isOpen) return;
    const claims = this.#entries.map(({ claim }) => claim).filter((claim) => claim !== null);
    for (const claim of claims) claim.reader?.end(() => ({ error: reason }));
    for (const claim of claims) claim.keepBody();
    this.isOpen = false;
    const begun = this.#entries.filter(({ state }) => state === "taken").map(({ id }) => id);
    for (const claim of claims) {
      claim.abort(reason);
      claim.detachViews();
      this.release(claim);
    }
    for (const entry of this.#entries) {
      if (entry.state === "taken") this.#side.totals.running--;
      this.#free(entry);
    }
    this.#waiting.length = 0;
    if (saysGoodbye) this.#linger(begun);
    else this.#hangUp();
  }

  #hangUp(): void {
    this.#writer.close();
    this.#duplex.terminate();
  }

  /**
   * Closes the socket when everything is sent, or after {@link LINGER_MS}. `begun`: the exchanges whose handlers may run. The worker
   * takes no others.
   */
  #linger(begun: readonly number[]): void {
    const writer = this.#writer;
    const timer = this.turns.clock.after(LINGER_MS, () => this.#hangUp());
    this.#duplex.onClose = () => timer.close();
    const at = writer.begin(FRAME.goodbye, 0, 0, 4 * begun.length);
    for (const [n, id] of begun.entries()) putU32(writer.bytes, at + 4 * n, id);
    writer.onEmpty = () => {
      timer.close();
      writer.close();
      this.#duplex.end();
    };
    writer.flush();
  }
}
