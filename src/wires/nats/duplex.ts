/**
 * A stream of bytes in both directions over a NATS server: each side has a private subject, to which the other side publishes. A message
 * has a header of 12 bytes, `kind u8, 0 u8 × 3, sequence u32, acknowledged u32`, little-endian, and then bytes of frames. The sequence
 * numbers are consecutive, so a lost message ends the stream with an error. `acknowledged` is the number of bytes that the sender has
 * handled since the start, modulo 2^32: at most {@link WINDOW_BYTES} are on the way.
 */

import type { Msg, Subscription } from "@nats-io/transport-node";
import type { Clock, Timer } from "../../clock.ts";
import { isUnheard, type NatsLink } from "../../nats/link.ts";
import type { Duplex } from "../socket/duplex.ts";
import { putU32, u32 } from "../socket/frames.ts";

/** Kinds of messages. END: the sender has closed the stream. */
const DATA = 1;
const END = 2;

/** Size of the header of a message, in bytes. */
export const HEADER_BYTES = 12;
/**
 * Number of bytes that may be on the way in one direction: four chunks of 64 KiB with the heads of their frames, so that none is cut.
 * 64 connections together stay far below the server's `max_pending`.
 */
export const WINDOW_BYTES = 266_240;
/** Number of bytes after which they are acknowledged. */
const STEP_BYTES = WINDOW_BYTES / 2;
/** Largest message, in bytes, where the server allows it: two chunks of 64 KiB with the heads of their frames. */
const MESSAGE_BYTES = 132_096;
/** A message that grows beyond this size gets memory for the largest one. */
const SMALL_BYTES = 16_384;
/** Time between two signs of life, in ms. */
const LIFE_MS = 1_000;
/** Number of signs of life that may be missing. */
const MISSING = 3;

const NONE = Buffer.alloc(0);
const nothing = (): void => {};

/** How a stream failed; continues "Worker pid 7 …". */
const FATES = {
  silent: `gave no sign of life for ${MISSING + 1} s`,
  gap: "is cut off: a message between it and this process was lost",
  invalid: "sent an invalid message",
  server: "is cut off: the connection to the NATS server was lost",
};

/** One end. */
export class NatsDuplex implements Duplex {
  readonly fd = -1;
  readonly isFar = true;
  onData: (bytes: Uint8Array) => void = nothing;
  onDrain: () => void = nothing;
  onClose: () => void = nothing;
  fate: string | null = null;
  readonly #link: NatsLink;
  readonly #clock: Clock;
  /** Whether a subject may be that of the other side. */
  readonly #isPeer: (subject: string | undefined) => boolean;
  readonly #subscription: Subscription;
  readonly #unwatch: () => void;
  readonly #options: { reply: string };
  /** Size of the largest message. */
  readonly #most: number;
  /** The message that is being filled, and its end. */
  #message: Buffer = NONE;
  #end = HEADER_BYTES;
  #peer: string;
  #isKnown: boolean;
  #timer: Timer | null = null;
  #isClosed = false;
  /** Whether the writer waits for room. */
  #isFull = false;
  /** Number of the last message in each direction. */
  #sent = 0;
  #received = 0;
  /** Bytes sent, and acknowledged by the other side, modulo 2^32. */
  #sentBytes = 0;
  #ackedBytes = 0;
  /** Bytes handled, and acknowledged to the other side, modulo 2^32. */
  #handled = 0;
  #told = 0;
  /** Number of signs of life that were missed since the last message. */
  #silent = 0;
  /** Whether a message was sent since the last sign of life, and since the last probe. */
  #isHeard = false;
  #isProbed = false;

  /**
   * `own`: the subject that this end reads. `peer`: the subject of the other end, or of its process; `isPeer` then says whether the
   * reply of the first message may be the subject of the other end.
   */
  constructor(
    link: NatsLink,
    clock: Clock,
    own: string,
    peer: string,
    isPeer: ((subject: string | undefined) => boolean) | null,
  ) {
    const { connection } = link;
    link.hold();
    this.#link = link;
    this.#clock = clock;
    this.#peer = peer;
    this.#isKnown = isPeer === null;
    this.#isPeer = isPeer ?? (() => true);
    this.#options = { reply: own };
    this.#most = Math.min(connection.info?.max_payload ?? MESSAGE_BYTES, MESSAGE_BYTES);
    this.#subscription = connection.subscribe(own, {
      callback: (error, message) => {
        if (error) this.#fail("server");
        else this.received(message);
      },
    });
    this.#unwatch = link.watch(() => this.#fail("server"));
    this.#live();
  }

  /** Handles a message of the other side. */
  received(message: Msg): void {
    if (this.#isClosed) return;
    if (isUnheard(message)) return this.#close();
    const { data } = message;
    const kind = data[0];
    if (data.length < HEADER_BYTES || (kind !== DATA && kind !== END)) return this.#fail("invalid");
    this.#received = (this.#received + 1) >>> 0;
    if (u32(data, 4) !== this.#received) return this.#fail("gap");
    if (!this.#isKnown && !this.#meet(message.reply)) return;
    this.#silent = 0;
    const length = data.length - HEADER_BYTES;
    if (!this.#acknowledged(u32(data, 8)) || (kind === END && length > 0)) return this.#fail("invalid");
    if (kind === END) return this.#close();
    if (length === 0) return;
    this.#handled = (this.#handled + length) >>> 0;
    this.onData(new Uint8Array(data.buffer, data.byteOffset + HEADER_BYTES, length)); // not a Buffer, whose `slice` copies nothing
    if (this.#untold >= STEP_BYTES) queueMicrotask(this.#tell); // an answer says it too
  }

  /** Learns the subject of the other end. */
  #meet(reply: string | undefined): boolean {
    this.#isKnown = this.#isPeer(reply);
    if (this.#isKnown) this.#peer = reply!;
    else this.#fail("invalid");
    return this.#isKnown;
  }

  /** `false`: the other side acknowledges what was not sent. */
  #acknowledged(bytes: number): boolean {
    const isPossible = (bytes - this.#ackedBytes) >>> 0 <= this.#onTheWay;
    if (!isPossible) return false;
    this.#ackedBytes = bytes;
    if (!this.#isFull || this.#onTheWay > WINDOW_BYTES / 2) return true;
    this.#isFull = false;
    this.onDrain();
    return true;
  }

  get #onTheWay(): number {
    return (this.#sentBytes - this.#ackedBytes) >>> 0;
  }

  get #untold(): number {
    return (this.#handled - this.#told) >>> 0;
  }

  readonly #tell = (): void => {
    if (this.#untold >= STEP_BYTES) this.#send(DATA);
  };

  /** What is written in one turn goes into one message, which is sent in a microtask: as the client library does with its messages. */
  write(bytes: Uint8Array): number {
    const end = this.#isClosed ? 0 : Math.min(bytes.length, WINDOW_BYTES - this.#onTheWay);
    let at = 0;
    while (at < end && !this.#isClosed) {
      const to = Math.min(end, at + this.#most - this.#end);
      this.#append(at === 0 && to === bytes.length ? bytes : bytes.subarray(at, to));
      at = to;
      if (this.#end === this.#most) this.#send(DATA);
    }
    this.#isFull = at < bytes.length;
    return at;
  }

  #append(bytes: Uint8Array): void {
    const end = this.#end + bytes.length;
    if (end > this.#message.length) {
      const larger = Buffer.allocUnsafeSlow(end > SMALL_BYTES ? this.#most : Math.max(end, 2 * this.#message.length));
      larger.set(this.#message.subarray(0, this.#end));
      this.#message = larger;
    }
    this.#message.set(bytes, this.#end);
    if (this.#end === HEADER_BYTES) queueMicrotask(this.#flushSoon);
    this.#end = end;
    this.#sentBytes = (this.#sentBytes + bytes.length) >>> 0;
  }

  /** Sends what waits. A quarter of the largest message waits for the next turn: the source of a stream may have more by then. */
  readonly #flushSoon = (): void => {
    if (this.#end < this.#most / 4) this.#flush();
    else this.#clock.immediate(this.#flush);
  };

  readonly #flush = (): void => {
    if (this.#end > HEADER_BYTES) this.#send(DATA);
  };

  /** Publishes the message that was filled. The client library reads it later. */
  #send(kind: number): void {
    if (this.#isClosed) return;
    const message =
      this.#end > HEADER_BYTES ? this.#message.subarray(0, this.#end) : Buffer.allocUnsafeSlow(HEADER_BYTES);
    this.#message = NONE;
    this.#end = HEADER_BYTES;
    this.#sent = (this.#sent + 1) >>> 0;
    this.#told = this.#handled;
    message.fill(0, 0, HEADER_BYTES);
    message[0] = kind;
    putU32(message, 4, this.#sent);
    putU32(message, 8, this.#told);
    this.#isHeard = this.#isProbed = true;
    try {
      this.#link.connection.publish(this.#peer, message, this.#options);
    } catch {
      queueMicrotask(() => this.#fail("server")); // not in the middle of a write
    }
  }

  #sendEnd(): void {
    if (!this.#link.isConnected) return;
    this.#flush();
    this.#send(END);
  }

  /** The server answers at once if nobody subscribes to the other side's subject. */
  probe(): void {
    if (!this.#isProbed) this.#send(DATA);
    this.#isProbed = false;
  }

  /** Sends signs of life, and expects them from the other side. A tick after a pause of this process counts once. */
  #live(): void {
    this.#timer = this.#clock.after(LIFE_MS, () => {
      if (this.#silent++ >= MISSING) return this.#fail("silent");
      if (!this.#isHeard) this.#send(DATA);
      this.#isHeard = false;
      this.#live();
    });
    this.#timer.unref();
  }

  #fail(fate: keyof typeof FATES): void {
    if (this.#isClosed) return;
    this.fate = FATES[fate];
    this.#sendEnd();
    this.#close();
  }

  end(): void {
    if (this.#isClosed) return;
    this.#sendEnd();
    queueMicrotask(() => this.#close());
  }

  terminate(): void {
    this.end();
  }

  #close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#timer?.close();
    this.#unwatch();
    this.#subscription.unsubscribe();
    void this.#link.leave();
    this.onClose();
  }

  ref(): void {}

  unref(): void {}
}
