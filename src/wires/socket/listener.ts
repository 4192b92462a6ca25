/** Accepts workers by frames: the listening socket, the conditions for joining, the handshake. */

import type { ResolvedBusOptions } from "../../bus/options.ts";
import type { Peer } from "../../bus/wire.ts";
import type { Clock, Timer } from "../../clock.ts";
import { SlotbusError } from "../../errors.ts";
import { C } from "../../native/abi.ts";
import type { PeerProcess } from "./company.ts";
import { type Duplex, type DuplexListener, sockets } from "./duplex.ts";
import { decodeAttached, decodeJoin, encodeRefused, encodeWelcome, HandshakeReader } from "./handshake.ts";
import type { SocketName } from "./name.ts";
import { StatedPeer } from "./peers.ts";

/** Longest handshake, in ms. */
const HANDSHAKE_MS = 2_000;
/** Largest number of concurrent handshakes. Further peers are refused as busy and retry. */
const HANDSHAKES = 64;
/** Largest number of connections accepted per turn, so that a connection flood does not block the event loop. */
const ACCEPTS = 128;
/** Pause after {@link ACCEPTS} connections, in ms. */
const PAUSE_MS = 20;

/** Reports of the listener. */
export interface ListenerEvents {
  /** A worker can get requests. `rest`: frames that came with the last message of its handshake. */
  attached(duplex: Duplex, peer: PeerProcess, concurrency: number, rest: Uint8Array): void;
  /** A peer was refused. */
  refused(peer: Peer, reason: string): void;
  /** Returns the number of attached workers. */
  count(): number;
}

/** A peer whose handshake runs. */
interface Handshake {
  readonly duplex: Duplex;
  readonly timer: Timer;
}

/** Listens on the socket of a bus and performs the handshakes. */
export class Listener {
  readonly #clock: Clock;
  readonly #options: ResolvedBusOptions;
  readonly #events: ListenerEvents;
  readonly #name: SocketName;
  readonly #tag: number;
  /** `null` during a pause. */
  #listener: DuplexListener | null = null;
  /** Connections accepted in this turn of the event loop. */
  #accepted = 0;
  #pause: Timer | null = null;
  readonly #handshakes = new Set<Handshake>();
  #isClosed = false;

  /** Listens on the socket of the name. @throws `RESOURCE` */
  constructor(clock: Clock, name: SocketName, options: ResolvedBusOptions, tag: number, events: ListenerEvents) {
    this.#clock = clock;
    this.#name = name;
    this.#options = options;
    this.#tag = tag;
    this.#events = events;
    this.#listen();
  }

  #listen(): void {
    try {
      this.#listener = sockets.listen(this.#name.socketPath, (duplex) => this.#accept(duplex));
    } catch (cause) {
      const message = `Cannot listen for workers of bus "${this.#options.name}": ${(cause as Error).message}`;
      throw cause instanceof SlotbusError ? cause : new SlotbusError("RESOURCE", message, { cause });
    }
    this.#listener.unref();
    try {
      this.#name.expose(this.#options.allowedUids.length > 0);
      this.#name.knock();
    } catch (error) {
      this.#listener.stop();
      this.#listener = null;
      throw error;
    }
  }

  /** Accepts no connections for a while. Closing the listener ends the runtime's loop over the waiting connections. */
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

  #accept(duplex: Duplex): void {
    duplex.unref();
    if (this.#isClosed) return duplex.terminate();
    if (this.#accepted++ === 0) this.#clock.immediate(() => (this.#accepted = 0));
    if (this.#accepted === ACCEPTS) this.#rest();
    const timer = this.#clock.after(HANDSHAKE_MS, () => {
      this.#refuse(handshake, C.SB_ETIMEDOUT, `the handshake timed out after ${HANDSHAKE_MS} ms`);
    });
    timer.unref();
    const handshake: Handshake = { duplex, timer };
    this.#handshakes.add(handshake);
    if (this.#handshakes.size > HANDSHAKES) {
      return this.#refuse(handshake, C.SB_EBUSY, `${HANDSHAKES} handshakes are already running`);
    }
    const reader = new HandshakeReader();
    let concurrency = 0;
    let peer: PeerProcess | null = null;
    duplex.onClose = () => this.#settle(handshake);
    duplex.onData = (bytes) => {
      const rest = reader.read(bytes, (type, body) => {
        if (concurrency === 0) return (concurrency = this.#join(handshake, type, body)) > 0;
        if (type === C.SB_MSG_ATTACHED) peer = new StatedPeer(decodeAttached(body));
        else this.#refuse(handshake, C.SB_EPROTO, `it sent an unexpected message of type ${type}`);
        return false;
      });
      if (!peer) return;
      this.#settle(handshake);
      this.#events.attached(duplex, peer, concurrency, rest);
    };
  }

  /** Handles the first message. Returns the number of requests that the worker gets at once; 0: it is refused. */
  #join(handshake: Handshake, type: number, body: Uint8Array): number {
    const join = type === C.SB_MSG_JOIN ? decodeJoin(body) : null;
    const refuse = (code: number, reason: string): number => {
      this.#refuse(handshake, code, reason);
      return 0;
    };
    if (!join) return refuse(C.SB_EPROTO, "its JOIN message is malformed");
    if (join.minVersion > C.SB_ABI || join.maxVersion < C.SB_ABI) {
      const versions = `${join.minVersion} to ${join.maxVersion}`;
      return refuse(C.SB_EVERSION, `it speaks protocol ${versions}, this bus speaks ${C.SB_ABI}`);
    }
    if (join.isObserver) return refuse(C.SB_EUNSUPPORTED, "it observes shared memory, and this bus has none");
    if (!join.usesFrames) return refuse(C.SB_EUNSUPPORTED, "it needs shared memory, and this bus has none");
    if (this.#events.count() >= C.SB_LINKS_MAX) return refuse(C.SB_EFULL, `${C.SB_LINKS_MAX} workers are attached`);
    const { slots, headBytes, payloadBytes } = this.#options;
    const concurrency = Math.min(join.concurrency, slots);
    const welcome = { tag: this.#tag, headLimit: headBytes, payloadLimit: payloadBytes, concurrency };
    handshake.duplex.write(encodeWelcome(welcome));
    return concurrency;
  }

  /** Ends the handshake, with any result. */
  #settle(handshake: Handshake): void {
    this.#handshakes.delete(handshake);
    handshake.timer.close();
    handshake.duplex.onData = handshake.duplex.onClose = () => {};
  }

  /** Sends the error to the peer and closes its socket. */
  #refuse(handshake: Handshake, code: number, reason: string): void {
    if (!this.#handshakes.has(handshake)) return;
    this.#settle(handshake);
    handshake.duplex.write(encodeRefused(code));
    handshake.duplex.end();
    this.#events.refused({ pid: 0, uid: process.geteuid?.() ?? 0 }, reason);
  }

  close(): void {
    this.#isClosed = true;
    for (const handshake of this.#handshakes) this.#refuse(handshake, C.SB_ECLOSED, "the bus was closed");
    this.#pause?.close();
    this.#listener?.stop();
  }
}
