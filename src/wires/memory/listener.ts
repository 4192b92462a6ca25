/** Accepts workers and observers: the listening socket, the conditions for joining, the handshake. */

import type { Socket, UnixSocketListener } from "bun";
import type { ResolvedBusOptions } from "../../bus/options.ts";
import type { Peer } from "../../bus/wire.ts";
import type { Clock, Timer } from "../../clock.ts";
import { C } from "../../native/abi.ts";
import type { ClientHandle } from "../../native/client.ts";
import { readJoin, refuse } from "../../native/control.ts";
import type { NameLock } from "../../native/name.ts";
import { PeerProcess } from "../../native/peer.ts";
import { BunDuplex, type Duplex } from "../socket/duplex.ts";
import { encodeWelcome, HandshakeReader } from "../socket/handshake.ts";
import { Attachment } from "./attachment.ts";
import { SlotbusError } from "../../errors.ts";

/** Longest handshake, in ms. */
const HANDSHAKE_MS = 2_000;
/**
 * Largest number of concurrent handshakes with processes of this user, so that 64 workers can attach at once, and with processes of
 * all other users. Further peers are refused as busy and retry.
 */
const HANDSHAKES = { own: 64, foreign: 8 };
/** Largest number of observers. */
const OBSERVERS = 16;
/**
 * Largest number of connections accepted per turn. Bun accepts without a limit, so a connection flood would block the event loop.
 */
const ACCEPTS = 128;
/** Pause after {@link ACCEPTS} connections, in ms. */
const PAUSE_MS = 20;
/** Number of evicted workers whose processes still run from which on these processes are refused. */
const ZOMBIES = 4;

/** Reports of the listener. */
export interface ListenerEvents {
  /** A worker has mapped its region and can get requests. */
  attached(attachment: Attachment): void;
  /** A worker can get requests by frames. `rest`: frames that came with the last message of its handshake. */
  framed(duplex: Duplex, peer: PeerProcess, concurrency: number, rest: Uint8Array): void;
  /** Bytes arrived from an attached worker. */
  bytes(attachment: Attachment, bytes: Uint8Array): void;
  /** A message arrived together with the message that attached its worker. */
  message(attachment: Attachment, type: number): void;
  /** The attachment of an attached worker is closed. */
  closed(attachment: Attachment): void;
  /** A peer was refused. */
  refused(peer: Peer, reason: string): void;
}

/** Listens on the socket of a bus and performs the handshakes. */
export class Listener {
  readonly #client: ClientHandle;
  readonly #clock: Clock;
  readonly #options: ResolvedBusOptions;
  readonly #events: ListenerEvents;
  readonly #name: NameLock;
  readonly #tag: number;
  /** `null` during a pause. */
  #listener: UnixSocketListener<Attachment> | null = null;
  /** Connections accepted in this turn of the event loop. */
  #accepted = 0;
  #pause: Timer | null = null;
  readonly #handshakes = new Set<Attachment>();
  #zombies: Attachment[] = [];
  readonly #observers = new Set<Attachment>();
  #closing = false;

  /** Listens on the socket of the name. @throws `RESOURCE` */
  constructor(
    client: ClientHandle,
    clock: Clock,
    name: NameLock,
    options: ResolvedBusOptions,
    tag: number,
    events: ListenerEvents,
  ) {
    this.#client = client;
    this.#tag = tag;
    this.#clock = clock;
    this.#name = name;
    this.#options = options;
    this.#events = events;
    this.#listen();
  }

  #listen(): void {
    const { name, allowedUids } = this.#options;
    try {
      this.#listener = Bun.listen<Attachment>({
        unix: this.#name.socketPath,
        socket: {
          open: (socket) => this.#accept(socket),
          data: (socket, bytes) => this.#data(socket.data, bytes),
          drain: (socket) => socket.data?.duplex?.onDrain(),
          close: (socket) => this.#closed(socket.data),
          error: () => {}, // `close` follows
        },
      });
    } catch (cause) {
      throw new SlotbusError("RESOURCE", `Cannot listen for workers of bus "${name}": ${(cause as Error).message}`, {
        cause,
      });
    }
    this.#listener.unref();
    try {
      this.#name.expose(allowedUids.length > 0);
      this.#name.knock();
    } catch (error) {
      this.#listener.stop(true);
      this.#listener = null;
      throw error;
    }
  }

  /** Remembers an evicted worker, whose process may connect again. */
  remember(zombie: Attachment): void {
    this.#zombies.push(zombie);
  }

  close(): void {
    this.#closing = true;
    for (const attachment of this.#handshakes) this.refuse(attachment, C.SB_ECLOSED, "the bus was closed");
    for (const zombie of this.#zombies) zombie.peer.forget();
    this.#zombies = [];
    for (const attachment of this.#observers) {
      this.#leave(attachment);
      attachment.cut();
    }
    this.#pause?.close();
    this.#listener?.stop(true);
  }

  /** Sends the error to the peer and closes the attachment. */
  refuse(attachment: Attachment, error: number, reason: string): void {
    if (attachment.state === "ended") return;
    this.#client.count("peers_refused");
    refuse(attachment.fd, error);
    this.#leave(attachment);
    attachment.cut();
    this.#events.refused({ pid: attachment.peer.pid, uid: attachment.peer.uid }, reason);
  }

  /** Accepts no connections for a while. Closing the listener ends Bun's loop over the waiting connections. */
  #rest(): void {
    this.#listener?.stop();
    this.#listener = null;
    this.#pause = this.#clock.after(PAUSE_MS, this.#open);
    this.#pause.unref();
  }

  readonly #open = (): void => {
    this.#pause = null;
    try {
      this.#listen();
    } catch {
      this.#rest(); // the process may be out of descriptors: tries again after another pause
    }
  };

  #accept(socket: Socket<Attachment>): void {
    socket.unref();
    if (this.#accepted++ === 0) this.#clock.immediate(() => (this.#accepted = 0));
    if (this.#accepted === ACCEPTS) this.#rest();
    const fd = (socket as unknown as { fd: number }).fd; // exists, but not in Bun's types
    const peer = PeerProcess.of(fd);
    if (!peer) {
      socket.terminate();
      return;
    }
    const attachment = new Attachment(socket, fd, peer, this.#clock);
    socket.data = attachment;
    const objection = this.#objection(attachment);
    if (objection) return this.refuse(attachment, ...objection);
    this.#handshakes.add(attachment);
    attachment.handshake = this.#clock.after(HANDSHAKE_MS, () => {
      this.refuse(attachment, C.SB_ETIMEDOUT, `the handshake timed out after ${HANDSHAKE_MS} ms`);
    });
    attachment.handshake.unref();
  }

  /** Returns the code and the reason why a peer may not join; `null` if it may. */
  #objection({ peer }: Attachment): [error: number, reason: string] | null {
    const isOwn = peer.uid === process.geteuid?.();
    if (!isOwn && !this.#options.allowedUids.includes(peer.uid)) {
      return [C.SB_EPERM, `user ${peer.uid} is not allowed`];
    }
    if (this.#closing) return [C.SB_ECLOSED, "the bus is closing"];
    const limit = isOwn ? HANDSHAKES.own : HANDSHAKES.foreign;
    const running = [...this.#handshakes].filter((other) => (other.peer.uid === process.geteuid?.()) === isOwn);
    if (running.length >= limit) return [C.SB_EBUSY, `${limit} handshakes are already running`];
    this.#zombies = this.#zombies.filter((zombie) => !isBuried(zombie));
    const known = this.#zombies.some((zombie) => zombie.peer.pid === peer.pid);
    if (known && this.#zombies.length >= ZOMBIES) {
      return [C.SB_EPERM, `${ZOMBIES} evicted workers are still alive, including this one`];
    }
    return null;
  }

  #data(attachment: Attachment | undefined, bytes: Uint8Array): void {
    if (!attachment || attachment.state === "ended") return;
    if (attachment.duplex) {
      const { buffer, byteOffset, length } = bytes; // `slice` of a Buffer copies nothing
      return attachment.duplex.onData(new Uint8Array(buffer, byteOffset, length));
    }
    if (attachment.state === "attached") return this.#events.bytes(attachment, bytes);
    const bells = attachment.reader.read(bytes, (type, body) => this.#message(attachment, type, body));
    const state: string = attachment.state; // a message may have changed it
    if (bells > 0 && state !== "attached")
      this.refuse(attachment, C.SB_EPROTO, "it rang its doorbell before it joined");
  }

  #closed(attachment: Attachment | undefined): void {
    if (!attachment || attachment.state === "ended") return;
    if (attachment.duplex && attachment.state === "attached") return attachment.duplex.onClose();
    if (attachment.state === "attached") return this.#events.closed(attachment);
    this.#leave(attachment);
  }

  #message(attachment: Attachment, type: number, body: Uint8Array): void {
    if (attachment.state === "joining" && type === C.SB_MSG_JOIN) this.#join(attachment, body);
    else if (attachment.state === "offered" && type === C.SB_MSG_ATTACHED) this.#attached(attachment);
    else if (attachment.state === "attached") this.#events.message(attachment, type);
    else
      this.refuse(attachment, C.SB_EPROTO, `it sent an unexpected message of type ${type} while ${attachment.state}`);
  }

  #join(attachment: Attachment, body: Uint8Array): void {
    const join = readJoin(body);
    if (join.code === C.SB_EVERSION) {
      return this.refuse(attachment, join.code, `it speaks protocol ${join.versions}, this bus speaks ${C.SB_ABI}`);
    }
    if (join.code !== 0) return this.refuse(attachment, C.SB_EPROTO, "its JOIN message is malformed");
    if (join.isObserver) return this.#observe(attachment);
    if (join.usesFrames) return this.#welcome(attachment, join.concurrency);
    const offer = this.#client.offer(attachment.fd, join.concurrency);
    if ("code" in offer) return this.refuse(attachment, offer.code, `cannot create a region for it: ${offer.text}`);
    attachment.link = offer;
    attachment.concurrency = Math.min(join.concurrency, this.#options.slots);
    attachment.state = "offered";
  }

  /** Goes on by frames with a worker that cannot share memory. */
  #welcome(attachment: Attachment, wanted: number): void {
    const { slots, headBytes, payloadBytes } = this.#options;
    const concurrency = Math.min(wanted, slots);
    const duplex = (attachment.duplex = new BunDuplex(attachment.socket));
    const reader = new HandshakeReader();
    duplex.onData = (bytes) => {
      let isAttached = false;
      const rest = reader.read(bytes, (type) => {
        isAttached = type === C.SB_MSG_ATTACHED;
        if (!isAttached) this.refuse(attachment, C.SB_EPROTO, `it sent an unexpected message of type ${type}`);
        return false;
      });
      if (!isAttached) return;
      this.#settle(attachment);
      attachment.state = "attached";
      this.#events.framed(duplex, attachment.peer, concurrency, rest);
    };
    duplex.write(encodeWelcome({ tag: this.#tag, headLimit: headBytes, payloadLimit: payloadBytes, concurrency }));
  }

  #observe(attachment: Attachment): void {
    if (this.#observers.size >= OBSERVERS)
      return this.refuse(attachment, C.SB_EFULL, `${OBSERVERS} observers are already attached`);
    this.#client.observe(attachment.fd);
    this.#settle(attachment);
    attachment.peer.forget();
    attachment.state = "observing";
    this.#observers.add(attachment);
  }

  #attached(attachment: Attachment): void {
    this.#settle(attachment);
    attachment.state = "attached";
    this.#events.attached(attachment);
  }

  /** Ends the handshake, with any result. */
  #settle(attachment: Attachment): void {
    this.#handshakes.delete(attachment);
    attachment.handshake?.close();
    attachment.handshake = null;
  }

  #leave(attachment: Attachment): void {
    this.#observers.delete(attachment);
    this.#settle(attachment);
    attachment.state = "ended";
    attachment.link?.drop(false, true);
    attachment.peer.forget();
  }
}

/** Returns whether the process of an evicted worker has ended. If so, closes its descriptors. */
function isBuried({ peer }: Attachment): boolean {
  if (!peer.hasEnded) return false;
  peer.forget();
  return true;
}
