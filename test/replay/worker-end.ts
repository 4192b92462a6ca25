/** The worker's end of its attachment to a client: the claim in each slot. */

import { encodeError } from "../../src/bus/answer.ts";
import type { Outgoing } from "../../src/bus/body-writer.ts";
import { callerGone, Claim, type ClaimOwner, type Delivery, type RequestName } from "../../src/bus/claim.ts";
import { Arena, type BodyLike, bodyOffset, HeadWriter, REQUEST_STRINGS, writeBody } from "../../src/bus/codec.ts";
import { HeadReader } from "../../src/bus/head.ts";
import { WorkerRequest } from "../../src/bus/request.ts";
import { RESPONSE_STRINGS } from "../../src/bus/response.ts";
import type { Turns } from "../../src/bus/turns.ts";
import type { Clock } from "../../src/clock.ts";
import { SlotbusError } from "../../src/errors.ts";
import type { Die } from "./choices.ts";
import type { Process } from "./clock.ts";
import type { ReplayConnection } from "./connection.ts";
import type { End, Link, Replied, Slot } from "./link.ts";
import { type Pipe, type PipeOwner, PipeReader, PipeWriter } from "./pipe.ts";
import { HEAD_BYTES, PAYLOAD_BYTES } from "./sizes.ts";
import type { ReplayWorker } from "./worker.ts";

/** Bodies up to this size are copied when a request is claimed. */
const INLINE_BYTES = 64;

/** One end of a link, in the worker. */
export class WorkerEnd implements ClaimOwner, PipeOwner, End {
  readonly host: Process;
  readonly turns: Turns;
  readonly link: Link;
  readonly die: Die;
  readonly heads = new HeadWriter();
  readonly payloadBytes = PAYLOAD_BYTES;
  isOpen = true;
  running = 0;
  readonly claims: (Claim | null)[];
  readonly #writers: (PipeWriter | null)[];
  readonly worker: ReplayWorker;
  readonly #reader = new HeadReader(REQUEST_STRINGS);
  readonly #arena: Arena;
  #isClosing = false;

  constructor(worker: ReplayWorker, link: Link, arena: Arena) {
    this.worker = worker;
    this.host = worker.host;
    this.turns = worker.turns;
    this.link = link;
    this.die = link.die;
    this.#arena = arena;
    this.claims = link.slots.map(() => null);
    this.#writers = link.slots.map(() => null);
  }

  get clock(): Clock {
    return this.host;
  }

  idOf(serial: number): string {
    return `${this.link.id}-${serial}`;
  }

  receive(slot: Slot, frame: (() => void) | null): void {
    this.worker.received(this, slot, frame);
  }

  /** Handles the state of a slot that is claimed: its streams may have moved. */
  look(slot: Slot): void {
    const claim = this.claims[slot.index];
    if (!this.isOpen || !claim) return;
    this.#writers[slot.index]?.moved();
    if (this.claims[slot.index] === claim) claim.reader?.moved();
  }

  /** Claims a request. @throws `PROTOCOL` if its head is malformed. */
  take(slot: Slot): WorkerRequest {
    const face = slot.worker;
    const { token } = face;
    const { method, head: bytes, body, streams, serial, timeoutMs } = face.request!;
    face.state = "claimed";
    this.#arena.bytes.set(bytes);
    this.#arena.head = null;
    const head = this.#reader.read(this.#arena, bytes.length);
    const claim = new Claim(this, slot.index, token, 0, body.length, body.length <= INLINE_BYTES ? body.slice() : null);
    this.claims[slot.index] = claim;
    this.#writers[slot.index] = null;
    this.running++;
    if (streams) {
      claim.streams(new PipeReader(this, face.up!));
      this.#change(slot, () => {
        if (slot.client.token === token) slot.client.state = "claimed";
      });
    }
    return new WorkerRequest(claim, method, serial, timeoutMs, this.host.now(), head);
  }

  /** Changes the slot as the client sees it, and tells the client. */
  #change(slot: Slot, change: () => void): void {
    if (this.link.asks) {
      this.link.post("client", slot, change);
    } else {
      change();
      this.link.ring("client", slot);
    }
  }

  /** The caller has given up a request. */
  cancelled(slot: Slot, token: number): void {
    const face = slot.worker;
    if (!this.isOpen || face.token !== token) return;
    const claim = this.claims[slot.index];
    if (this.link.asks) {
      if (face.state === "ready") {
        face.state = "free";
        this.#free(slot, token);
      } else if (claim) face.state = "abandoned";
    }
    if (claim?.token === token) claim.abort(callerGone());
  }

  #free(slot: Slot, token: number): void {
    this.#change(slot, () => {
      if (slot.client.token === token) slot.client.state = "free";
    });
  }

  // ---- calls of claims ------------------------------------------------------------------------------------------------

  holds(what: Claim | Pipe, isWriter = false): boolean {
    if (what instanceof Claim) return this.isOpen && this.claims[what.slot] === what;
    const claim = this.claims[what.slot];
    if (!this.isOpen || claim?.token !== what.token) return false;
    const { state } = this.link.slots[what.slot]!.worker;
    const isValid = !(isWriter ? what.credited > what.sent : what.visible - what.taken > what.capacity);
    if (!isValid) this.worker.broke(this, "invalid counts");
    if (isValid && (state === "claimed" || state === "streaming")) return true;
    if (!this.#isClosing && isValid) claim.abort(callerGone());
    return false;
  }

  isGivenUp({ slot, token }: Claim): boolean {
    const face = this.link.slots[slot]!.worker;
    return !this.isOpen || face.token !== token || face.state === "abandoned";
  }

  bodyOf({ slot }: Claim): Uint8Array {
    return this.link.slots[slot]!.worker.request!.body;
  }

  lendBody(claim: Claim): Uint8Array<ArrayBuffer> {
    return this.bodyOf(claim).slice() as Uint8Array<ArrayBuffer>;
  }

  lendAnswer(_: Claim, bytes: number): Uint8Array<ArrayBuffer> {
    return new Uint8Array(bytes);
  }

  answer(claim: Claim, status: number, body: BodyLike): Delivery {
    const arena = this.#arena;
    const length = this.heads.write(arena, 0, RESPONSE_STRINGS, HEAD_BYTES, "response");
    const offset = bodyOffset(length);
    const isReserved = body instanceof Uint8Array && claim.reserved !== null && body.buffer === claim.reserved.buffer;
    const bytes = isReserved ? 0 : writeBody(arena, offset, body, PAYLOAD_BYTES, "response");
    const whole = isReserved ? (body as Uint8Array).slice() : arena.bytes.slice(offset, offset + bytes);
    return this.#complete(claim, { status, head: arena.bytes.slice(0, length), body: whole });
  }

  fail(claim: Claim, error: unknown): Delivery {
    const length = encodeError(this.#arena, error, HEAD_BYTES);
    return this.#complete(claim, { status: 0, head: this.#arena.bytes.slice(0, length), body: new Uint8Array(0) });
  }

  #complete(claim: Claim, reply: Replied): Delivery {
    const slot = this.link.slots[claim.slot]!;
    const { token } = claim;
    this.worker.checkOwned(this.holds(claim));
    const spoiled = this.worker.maybeSpoiled(this, reply);
    claim.isAnswered = true;
    claim.settle();
    const isWanted = slot.worker.state === "claimed";
    slot.worker.state = "free";
    if (isWanted) this.#done(slot, token, spoiled);
    else this.#free(slot, token);
    this.worker.answered();
    return isWanted ? "sent" : "late";
  }

  #done(slot: Slot, token: number, reply: Replied | null): void {
    this.#change(slot, () => {
      if (slot.client.token !== token) return;
      slot.client.state = "done";
      if (reply) slot.client.reply = reply;
    });
  }

  begin(claim: Claim, status: number): Outgoing | null {
    const slot = this.link.slots[claim.slot]!;
    const { token } = claim;
    const length = this.heads.write(this.#arena, 0, RESPONSE_STRINGS, HEAD_BYTES, "response");
    const head = this.#arena.bytes.slice(0, length);
    claim.keepBody(true);
    claim.isAnswered = true;
    if (slot.worker.state === "abandoned") {
      slot.worker.state = "free";
      claim.settle();
      this.#free(slot, token);
      this.worker.answered();
      return null;
    }
    slot.worker.state = "streaming";
    const reply = this.worker.maybeSpoiled(this, { status, head, body: null });
    this.#change(slot, () => {
      if (slot.client.token !== token || slot.client.state === "free") return;
      if (slot.client.state !== "abandoned") slot.client.state = "streaming";
      slot.client.reply = reply;
    });
    this.worker.answered();
    return (this.#writers[claim.slot] = new PipeWriter(this, slot.worker.down!));
  }

  errorHead(error: unknown): Uint8Array {
    const scratch = new Arena(new ArrayBuffer(HEAD_BYTES));
    return scratch.bytes.subarray(0, encodeError(scratch, error, HEAD_BYTES));
  }

  release(claim: Claim): boolean {
    if (this.claims[claim.slot] !== claim) return false;
    this.claims[claim.slot] = null;
    this.#writers[claim.slot] = null;
    this.running--;
    return true;
  }

  keptMemory(): void {}

  failedLate(request: RequestName, error: unknown): void {
    this.worker.failedLate(request, error);
  }

  // ---- streams --------------------------------------------------------------------------------------------------------

  pushed(pipe: Pipe, bytes: number): void {
    this.link.pushed("client", pipe, this.worker.maybeMiscounted(this, bytes));
  }

  pulled(pipe: Pipe, bytes: number): void {
    this.link.pulled("client", pipe, bytes);
  }

  finished(pipe: Pipe): void {
    const slot = this.link.slots[pipe.slot]!;
    const claim = this.claims[pipe.slot];
    if (!this.isOpen || claim?.token !== pipe.token) return;
    const isWanted = slot.worker.state === "streaming";
    claim.settle();
    slot.worker.state = "free";
    if (isWanted) {
      this.#change(slot, () => {
        pipe.seenEnd = pipe.end;
        if (slot.client.token === pipe.token) slot.client.state = "done";
      });
    } else this.#free(slot, pipe.token);
    this.worker.answered();
  }

  // ---- the end --------------------------------------------------------------------------------------------------------

  /** The client has closed the connection. */
  hungUp(evictedFor: string | null): void {
    if (this.isOpen) this.worker.lost(this, evictedFor);
  }

  /** Ends the attachment: aborts all claims. */
  close(reason: SlotbusError): void {
    if (!this.isOpen) return;
    this.#isClosing = true;
    const claims = this.claims.filter((claim) => claim !== null);
    for (const claim of claims) claim.reader?.end(() => ({ error: reason }));
    for (const claim of claims) claim.keepBody();
    this.isOpen = false;
    for (const claim of claims) {
      claim.abort(reason);
      claim.detachViews();
    }
  }

  /** Tells the client something about the whole connection, after everything that was sent before. */
  say(message: (connection: ReplayConnection) => void): void {
    const connection = this.link.ends.client as ReplayConnection | null;
    if (connection) this.link.inOrder("client", 0, () => message(connection));
  }
}
