/** The worker's end of its attachment to a client: the region, and the claim in each slot. */

import type { Socket } from "bun";
import { encodeError } from "../../bus/answer.ts";
import type { Outgoing } from "../../bus/body-writer.ts";
import { callerGone, Claim, type ClaimOwner, type Delivery, type RequestName } from "../../bus/claim.ts";
import { Arena, type BodyLike, bodyOffset, HeadWriter, METHODS, REQUEST_STRINGS, writeBody } from "../../bus/codec.ts";
import { HeadReader } from "../../bus/head.ts";
import { WorkerRequest } from "../../bus/request.ts";
import { RESPONSE_STRINGS } from "../../bus/response.ts";
import type { Turns } from "../../bus/turns.ts";
import { C } from "../../native/abi.ts";
import { MessageReader, MessageWriter, readCancel } from "../../native/control.ts";
import type { WorkerHandle } from "../../native/worker.ts";
import { Arenas } from "./arenas.ts";
import { Rings, type RingsOwner } from "./rings.ts";
import type { Occupant } from "./stopped.ts";
import { SlotbusError } from "../../errors.ts";

/** Reports of a connection to its worker. */
export interface WorkerConnectionEvents {
  /** Bytes of a response or a stream were sent. */
  answered(bytes: number): void;
  /** The client wrote invalid counts into the rings of a slot. */
  corrupt(connection: WorkerConnection, slot: number): void;
  /** Work of a handler failed after the handler returned: see `Arrivals.failedLate`. */
  failedLate(request: RequestName, error: unknown): void;
}

/** What a worker runs for all its clients. */
export class Totals {
  /** Number of claims without a response and of claims whose response streams. */
  running = 0;
  /** Number of claims whose request or response body streams. */
  streams = 0;
}

/** Reads requests from one region and writes responses into it. */
export class WorkerConnection implements ClaimOwner, RingsOwner<Claim>, Occupant {
  readonly handle: WorkerHandle;
  readonly turns: Turns;
  readonly reader = new MessageReader();
  readonly writer: MessageWriter;
  readonly heads = new HeadWriter();
  isOpen = true;
  /** Why the client evicted this worker; `""` if it did not. */
  evictedFor = "";
  socket: Socket<undefined> | null = null;
  /** Address of the client: see `Attacher`. */
  readonly address: string;
  /** Index in the sessions of the worker. */
  readonly index: number;
  readonly #totals: Totals;
  readonly #events: WorkerConnectionEvents;
  /** Whether {@link close} is running, which reads the remaining bytes of streams. */
  #isClosing = false;
  /** Claims by slot. */
  readonly #claims: (Claim | null)[] = [];
  /** Streams by slot. */
  readonly #rings: (Rings<Claim> | undefined)[] = [];
  /** Number of views that could not be detached. They may show later requests, and the region stays mapped. */
  #kept = 0;
  readonly #headReader = new HeadReader(REQUEST_STRINGS);
  readonly #arenas: Arenas;

  constructor(
    handle: WorkerHandle,
    address: string,
    index: number,
    totals: Totals,
    turns: Turns,
    events: WorkerConnectionEvents,
  ) {
    this.handle = handle;
    this.address = address;
    this.index = index;
    this.#totals = totals;
    this.#arenas = new Arenas(handle.arenas, handle.stride);
    this.turns = turns;
    this.#events = events;
    this.writer = new MessageWriter(handle.fd, turns.clock);
  }

  get payloadBytes(): number {
    return this.handle.payloadLimit;
  }

  idOf(serial: number): string {
    return `${this.handle.tag}-${serial.toString(36)}`;
  }

  get hasStreams(): boolean {
    return this.#rings.some((rings) => rings !== undefined);
  }

  hasTicked(): boolean {
    return this.handle.hasTicked();
  }

  /** Bytes moved in the rings of a running request. */
  moved(): void {
    this.#rings[this.handle.read().slot]?.moved();
  }

  /**
   * Returns the request that was claimed.
   *
   * @throws `PROTOCOL` if the client broke the protocol.
   */
  take(now: number): WorkerRequest {
    const { handle } = this;
    const { slot, token, headBytes, bodyOffset: offset, bodyBytes, timeoutMs, method, streams, serial } = handle.read();
    if (method >= METHODS.length) throw new SlotbusError("PROTOCOL", "The client published an invalid method.");
    const arena = this.#arenas.request(slot);
    const head = this.#headReader.read(arena, headBytes);
    const copies = bodyBytes <= handle.inlineSize;
    const own = copies ? arena.bytes.slice(offset, offset + bodyBytes) : null;
    const claim = new Claim(this, slot, token, offset, bodyBytes, own);
    this.#claims[slot] = claim;
    this.#totals.running++;
    if (streams) claim.streams(this.#openRings(claim).incoming);
    return new WorkerRequest(claim, method, serial, timeoutMs, now, head);
  }

  /** Handles a CANCEL message. `stale`: its request is not running. `malformed`: its length is wrong. */
  cancel(body: Uint8Array): "cancelled" | "stale" | "malformed" {
    const cancel = readCancel(body);
    if (!cancel) return "malformed";
    const claim = this.#claims[cancel.slot];
    const isRunning = claim?.token === cancel.token && !claim.isAborted;
    if (isRunning) claim.abort(callerGone());
    return isRunning ? "cancelled" : "stale";
  }

  // ---- calls of claims ------------------------------------------------------------------------------------------------

  isGivenUp({ slot, token }: Claim): boolean {
    return !this.isOpen || this.handle.isAborted(slot, token);
  }

  holds(claim: Claim): boolean {
    return this.isOpen && this.#claims[claim.slot] === claim;
  }

  bodyOf({ slot, bodyOffset: offset, bodyBytes }: Claim): Uint8Array {
    return this.#arenas.request(slot).bytes.subarray(offset, offset + bodyBytes);
  }

  lendBody({ slot, bodyOffset: offset, bodyBytes }: Claim): Uint8Array<ArrayBuffer> {
    return this.#arenas.lendRequest(slot, offset, bodyBytes);
  }

  lendAnswer({ slot }: Claim, bytes: number): Uint8Array<ArrayBuffer> {
    return this.#arenas.lendResponse(slot, this.handle.headLimit, bytes);
  }

  answer(claim: Claim, status: number, body: BodyLike): Delivery {
    const { headLimit, payloadLimit } = this.handle;
    const arena = this.#arenas.response(claim.slot);
    const head = this.heads.write(arena, 0, RESPONSE_STRINGS, headLimit, "response");
    if (body instanceof Uint8Array && claim.reserved && body.buffer === claim.reserved.buffer) {
      return this.#complete(claim, head, headLimit + body.byteOffset, body.length, status);
    }
    const offset = bodyOffset(head);
    return this.#complete(claim, head, offset, writeBody(arena, offset, body, payloadLimit, "response"), status);
  }

  fail(claim: Claim, error: unknown): Delivery {
    const { headLimit, inlineSize } = this.handle;
    const head = encodeError(this.#arenas.response(claim.slot), error, Math.min(headLimit, inlineSize));
    return this.#complete(claim, head, bodyOffset(head), 0, 0);
  }

  #complete(claim: Claim, head: number, offset: number, bytes: number, status: number): Delivery {
    claim.isAnswered = true;
    claim.settle();
    const isWanted = this.handle.complete(claim.slot, claim.token, head, offset, bytes, status);
    this.#events.answered(offset + bytes);
    return isWanted ? "sent" : "late";
  }

  begin(claim: Claim, status: number): Outgoing | null {
    const { slot, token } = claim;
    const arena = this.#arenas.response(slot);
    const head = this.heads.write(arena, 0, RESPONSE_STRINGS, this.handle.headLimit, "response");
    claim.keepBody(true); // if the caller has given up, `begin` below gives the slot back
    claim.isAnswered = true;
    const isWanted = this.handle.begin(slot, token, head, status);
    this.#events.answered(head);
    if (isWanted) return this.#openRings(claim).outgoing;
    claim.settle();
    this.#events.answered(0);
    return null;
  }

  errorHead(error: unknown): Uint8Array {
    const { headLimit, inlineSize, stride } = this.handle;
    const ringBytes = Math.min(C.SB_RING_MAX, stride - headLimit);
    const limit = Math.min(headLimit, inlineSize, Math.floor(ringBytes / 2));
    const scratch = new Arena(new ArrayBuffer(limit));
    return scratch.bytes.subarray(0, encodeError(scratch, error, limit));
  }

  /** Ends a streamed response that is complete or failed. */
  finish({ of: claim }: Rings<Claim>, errorBytes: number): void {
    if (!this.isOpen) return;
    claim.settle();
    this.handle.finish(claim.slot, claim.token, errorBytes);
    this.#events.answered(0);
  }

  release(claim: Claim): boolean {
    if (this.#claims[claim.slot] !== claim) return false;
    this.#claims[claim.slot] = null;
    this.#totals.running--;
    if (this.#rings[claim.slot]) this.#totals.streams--;
    this.#rings[claim.slot] = undefined;
    return true;
  }

  keptMemory(): void {
    if (this.#kept++ > 0 || !this.isOpen) return;
    process.emitWarning(
      "A borrowed request body or reserved response memory is still referenced after its end; it may show data of a later request.",
      "SlotbusWarning",
    );
  }

  failedLate(request: RequestName, error: unknown): void {
    this.#events.failedLate(request, error);
  }

  #openRings(claim: Claim): Rings<Claim> {
    const { slot } = claim;
    const known = this.#rings[slot];
    if (known) return known;
    this.#totals.streams++;
    const { headLimit, flow } = this.handle;
    const [written, own] = [this.#arenas.request(slot), this.#arenas.response(slot)];
    return (this.#rings[slot] = new Rings(this, claim, headLimit, written, own, flow, this.turns.clock));
  }

  move({ of: claim }: Rings<Claim>, sent: number, taken: number, need: number): boolean {
    if (!this.isOpen) return false;
    const result = this.handle.move(claim.slot, claim.token, sent, taken, need);
    if (result === "corrupt") this.#events.corrupt(this, claim.slot);
    // Aborts the signal before the generator of the response is closed.
    else if (result === "gone" && !this.#isClosing && this.holds(claim)) claim.abort(callerGone());
    if (result === "corrupt" || result === "gone") return false;
    if (sent > 0 || taken > 0) this.#events.answered(sent + taken);
    return true;
  }

  /** Ends the attachment: aborts all claims and unmaps the region, unless user code holds a view. */
  close(reason: unknown): void {
    if (!this.isOpen) return;
    this.#isClosing = true;
    const claims = this.#claims.filter((claim) => claim !== null);
    for (const claim of claims) claim.reader?.end(() => ({ error: reason }));
    for (const claim of claims) claim.keepBody();
    this.isOpen = false;
    for (const claim of claims) {
      claim.abort(reason);
      claim.detachViews();
      this.release(claim);
    }
    this.writer.close();
    const isDetached = this.#arenas.detach();
    this.handle.close(isDetached && this.#kept === 0);
  }
}
