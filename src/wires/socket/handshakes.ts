/** The client's side of handshakes by frames: the conditions for joining. */

import type { ResolvedBusOptions } from "../../bus/options.ts";
import type { Peer } from "../../bus/wire.ts";
import type { Clock, Timer } from "../../clock.ts";
import { C } from "../../native/abi.ts";
import type { PeerProcess } from "./company.ts";
import type { Duplex } from "./duplex.ts";
import { decodeAttached, decodeJoin, encodeRefused, encodeWelcome, HandshakeReader } from "./handshake.ts";

/** Longest handshake, in ms. */
const HANDSHAKE_MS = 2_000;
/** Largest number of concurrent handshakes. Further peers are refused as busy and retry. */
const HANDSHAKES = 64;

/** Reports of the handshakes. */
export interface HandshakeEvents {
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

/** Performs the handshakes of a client. */
export class Handshakes {
  readonly #clock: Clock;
  readonly #options: ResolvedBusOptions;
  readonly #tag: number;
  readonly #events: HandshakeEvents;
  readonly #running = new Set<Handshake>();

  constructor(clock: Clock, options: ResolvedBusOptions, tag: number, events: HandshakeEvents) {
    this.#clock = clock;
    this.#options = options;
    this.#tag = tag;
    this.#events = events;
  }

  /** Begins a handshake. `peerOf` returns the process that the worker states. */
  accept(duplex: Duplex, peerOf: (pid: number) => PeerProcess): void {
    const timer = this.#clock.after(HANDSHAKE_MS, () => {
      this.#refuse(handshake, C.SB_ETIMEDOUT, `the handshake timed out after ${HANDSHAKE_MS} ms`);
    });
    timer.unref();
    const handshake: Handshake = { duplex, timer };
    this.#running.add(handshake);
    if (this.#running.size > HANDSHAKES) {
      return this.#refuse(handshake, C.SB_EBUSY, `${HANDSHAKES} handshakes are already running`);
    }
    const reader = new HandshakeReader();
    let concurrency = 0;
    let peer: PeerProcess | null = null;
    duplex.onClose = () => this.#settle(handshake);
    duplex.onData = (bytes) => {
      const rest = reader.read(bytes, (type, body) => {
        if (concurrency === 0) return (concurrency = this.#join(handshake, type, body)) > 0;
        if (type === C.SB_MSG_ATTACHED) peer = peerOf(decodeAttached(body));
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
    this.#running.delete(handshake);
    handshake.timer.close();
    handshake.duplex.onData = handshake.duplex.onClose = () => {};
  }

  /** Sends the error to the peer and closes its socket. */
  #refuse(handshake: Handshake, code: number, reason: string): void {
    if (!this.#running.has(handshake)) return;
    this.#settle(handshake);
    handshake.duplex.write(encodeRefused(code));
    handshake.duplex.end();
    this.#events.refused({ pid: 0, uid: process.geteuid?.() ?? 0 }, reason);
  }

  close(): void {
    for (const handshake of this.#running) this.#refuse(handshake, C.SB_ECLOSED, "the bus was closed");
  }
}
