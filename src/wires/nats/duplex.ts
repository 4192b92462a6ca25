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
/** Number of bytes that may be on the way in one direction. 64 connections together stay far below the server's `max_pending`. */
export const WINDOW_BYTES = 262_144;
/** Number of bytes after which they are acknowledged. */
const STEP_BYTES = WINDOW_BYTES / 4;
/** Largest message, in bytes, where the server allows it. */
const MESSAGE_BYTES = 131_072;
/** Time between two signs of life, in ms. */
const LIFE_MS = 1_000;
/** Number of signs of life that may be missing. */
const MISSING = 3;

const NONE = new Uint8Array(0);
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
  readonly #bytesPerMessage: number;
  /** Bytes at most that wait for the next write, so that both go into one message. */
  readonly #heldBytes: number;
  #peer: string;
  #isKnown: boolean;
  #timer: Timer | null = null;
  #isClosed = false;
  /** Whether the writer waits for room. */
  #isFull = false;
  /** Bytes that go into the next message. */
  #held: Uint8Array = NONE;
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
    this.#bytesPerMessage = Math.min(connection.info?.max_payload ?? MESSAGE_BYTES, MESSAGE_BYTES) - HEADER_BYTES;
    this.#heldBytes = this.#bytesPerMessage / 8;
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
    if (this.#untold >= STEP_BYTES) this.#send(DATA, NONE);
  };

  write(bytes: Uint8Array, hasMore = false): number {
    const end = Math.min(bytes.length, WINDOW_BYTES - this.#onTheWay - this.#held.length);
    if (hasMore && end === bytes.length && end <= this.#heldBytes && this.#held === NONE) {
      this.#held = bytes.slice();
      return end;
    }
    let at = 0;
    while (at < end && !this.#isClosed) {
      const to = Math.min(end, at + this.#bytesPerMessage - this.#held.length);
      this.#send(DATA, at === 0 && to === bytes.length ? bytes : bytes.subarray(at, to));
      at = to;
    }
    this.#isFull = at < bytes.length;
    if (this.#held !== NONE) this.#send(DATA, NONE); // there is no room for what follows
    return at;
  }

  /** Publishes a message with a copy of the held bytes and of `bytes`: the client library reads it later. */
  #send(kind: number, bytes: Uint8Array): void {
    if (this.#isClosed) return;
    const held = kind === DATA ? this.#held : NONE; // before the end, nobody reads the begin of a frame
    this.#held = NONE;
    const length = held.length + bytes.length;
    const message = new Uint8Array(HEADER_BYTES + length);
    this.#sent = (this.#sent + 1) >>> 0;
    this.#told = this.#handled;
    message[0] = kind;
    putU32(message, 4, this.#sent);
    putU32(message, 8, this.#told);
    message.set(held, HEADER_BYTES);
    message.set(bytes, HEADER_BYTES + held.length);
    this.#sentBytes = (this.#sentBytes + length) >>> 0;
    this.#isHeard = this.#isProbed = true;
    try {
      this.#link.connection.publish(this.#peer, message, this.#options);
    } catch {
      queueMicrotask(() => this.#fail("server")); // not in the middle of a write
    }
  }

  /** The server answers at once if nobody subscribes to the other side's subject. */
  probe(): void {
    if (!this.#isProbed) this.#send(DATA, NONE);
    this.#isProbed = false;
  }

  /** Sends signs of life, and expects them from the other side. A tick after a pause of this process counts once. */
  #live(): void {
    this.#timer = this.#clock.after(LIFE_MS, () => {
      if (this.#silent++ >= MISSING) return this.#fail("silent");
      if (!this.#isHeard) this.#send(DATA, NONE);
      this.#isHeard = false;
      this.#live();
    });
    this.#timer.unref();
  }

  #fail(fate: keyof typeof FATES): void {
    if (this.#isClosed) return;
    this.fate = FATES[fate];
    if (this.#link.isConnected) this.#send(END, NONE);
    this.#close();
  }

  end(): void {
    if (this.#isClosed) return;
    if (this.#link.isConnected) this.#send(END, NONE);
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
