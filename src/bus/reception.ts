/** Where workers come in: the listening socket, who may join, and the handshake. */

import type { Socket, UnixSocketListener } from "bun";
import { ResourceError } from "../errors.ts";
import { C, cString, errorText, native, type Pointer } from "../native/library.ts";
import { identify, Link, readJoin } from "./link.ts";
import type { ResolvedBusOptions } from "./options.ts";

/** Longest handshake, in ms. */
const HANDSHAKE_MS = 2_000;
/** Handshakes at once; a ninth peer is told to come again. */
const HANDSHAKES = 8;
/** Observers at once. */
const OBSERVERS = 16;
/** Connections taken in one turn of the event loop. Bun takes all that come, so who connects without end would stop it. */
const ACCEPTS = 64;
/** For how long nobody is let in after that, in ms. */
const PAUSE_MS = 20;
/** Evicted workers that may still be alive before one of them is refused. */
const ZOMBIES = 4;

/** What the reception reports. */
export interface ReceptionEvents {
  /** A worker has mapped its region; requests may go to it. */
  attached(link: Link): void;
  /** Bytes came from an attached worker. */
  data(link: Link, bytes: Uint8Array): void;
  /** A message came in one piece with the one that attached its worker. */
  message(link: Link, type: number): void;
  /** The connection of an attached worker is closed. */
  closed(link: Link): void;
  /** A peer was turned away. */
  refused(peer: { pid: number; uid: number }, reason: string): void;
}

export class Reception {
  readonly #hub: Pointer;
  readonly #options: ResolvedBusOptions;
  readonly #events: ReceptionEvents;
  readonly #dir: number;
  /** `null` in a pause. */
  #listener: UnixSocketListener<Link> | null = null;
  /** In this turn of the event loop. */
  #accepted = 0;
  #pause: ReturnType<typeof setTimeout> | null = null;
  readonly #handshakes = new Set<Link>();
  #zombies: Link[] = [];
  readonly #observers = new Set<Link>();
  #closing = false;

  /** Listens on NAME.sock in the directory behind `dir`. Throws {@link ResourceError}. */
  constructor(hub: Pointer, dir: number, options: ResolvedBusOptions, events: ReceptionEvents) {
    this.#hub = hub;
    this.#options = options;
    this.#events = events;
    this.#dir = dir;
    this.#listen();
  }

  #listen(): void {
    const { name, allowedUids } = this.#options;
    try {
      this.#listener = Bun.listen<Link>({
        unix: `/proc/self/fd/${this.#dir}/${name}.sock`,
        socket: {
          open: (socket) => this.#accept(socket),
          data: (socket, bytes) => this.#data(socket.data, bytes),
          close: (socket) => this.#closed(socket.data),
          error: () => {}, // `close` follows
        },
      });
    } catch (cause) {
      throw new ResourceError(`bus "${name}" cannot listen: ${(cause as Error).message}`, { cause });
    }
    this.#listener.unref();
    const error = native.sb_name_expose(this.#dir, cString(name), allowedUids.length > 0 ? 1 : 0);
    if (error === 0) return;
    this.#listener.stop(true);
    this.#listener = null;
    throw new ResourceError(`bus "${name}" cannot set its socket's rights: ${errorText(error)}.`);
  }

  /** An evicted worker: its process may live on and come again. */
  remember(zombie: Link): void {
    this.#zombies.push(zombie);
  }

  close(): void {
    this.#closing = true;
    for (const link of this.#handshakes) this.refuse(link, C.SB_ECLOSED, "the bus closed");
    for (const zombie of this.#zombies) zombie.forgetProcess();
    this.#zombies = [];
    for (const link of this.#observers) {
      this.#leave(link);
      link.cut();
    }
    if (this.#pause) clearTimeout(this.#pause);
    this.#listener?.stop(true);
  }

  /** Says why and closes the connection. */
  refuse(link: Link, error: number, reason: string): void {
    if (link.state === "ended") return;
    native.sb_stats_add(this.#hub, C.SB_C_REFUSED, 1);
    native.sb_join_refuse(link.fd, error);
    this.#leave(link);
    link.cut();
    this.#events.refused({ pid: link.peer.pid, uid: link.peer.uid }, reason);
  }

  /** Nobody is let in for a while: in the middle of Bun's loop, which ends with its listener. */
  #rest(): void {
    this.#listener?.stop();
    this.#listener = null;
    this.#pause = setTimeout(this.#open, PAUSE_MS);
    this.#pause.unref();
  }

  readonly #open = (): void => {
    this.#pause = null;
    try {
      this.#listen();
    } catch {
      this.#rest(); // no descriptor is left, maybe: once more
    }
  };

  #accept(socket: Socket<Link>): void {
    socket.unref();
    if (this.#accepted++ === 0) setImmediate(() => (this.#accepted = 0));
    if (this.#accepted === ACCEPTS) this.#rest();
    const fd = (socket as unknown as { fd: number }).fd; // there, but not in Bun's types
    const peer = identify(fd);
    if (!peer) {
      socket.terminate();
      return;
    }
    const link = new Link(this.#hub, socket, fd, peer);
    socket.data = link;
    const objection = this.#objection(link);
    if (objection) {
      this.refuse(link, objection.error, objection.reason);
      return;
    }
    this.#handshakes.add(link);
    link.handshakeTimer = setTimeout(() => {
      this.refuse(link, C.SB_ETIMEDOUT, `the handshake took longer than ${HANDSHAKE_MS} ms`);
    }, HANDSHAKE_MS);
    link.handshakeTimer.unref();
  }

  #objection({ peer }: Link): { error: number; reason: string } | null {
    if (peer.uid !== process.geteuid?.() && !this.#options.allowedUids.includes(peer.uid)) {
      return { error: C.SB_EPERM, reason: `user ${peer.uid} is not allowed` };
    }
    if (this.#closing) return { error: C.SB_ECLOSED, reason: "the bus is closing" };
    if (this.#handshakes.size >= HANDSHAKES) return { error: C.SB_EBUSY, reason: `${HANDSHAKES} handshakes run` };
    this.#zombies = this.#zombies.filter((zombie) => !zombie.isBuried());
    const known = this.#zombies.some((zombie) => zombie.peer.pid === peer.pid);
    if (known && this.#zombies.length >= ZOMBIES) {
      return { error: C.SB_EPERM, reason: `${ZOMBIES} evicted workers still live, this one among them` };
    }
    return null;
  }

  #data(link: Link | undefined, bytes: Uint8Array): void {
    if (!link || link.state === "ended") return;
    if (link.state === "attached") return this.#events.data(link, bytes);
    const bells = link.reader.read(bytes, (type, body) => this.#message(link, type, body));
    if (bells > 0 && !isAttached(link)) this.refuse(link, C.SB_EPROTO, "it rang before it had joined");
  }

  #closed(link: Link | undefined): void {
    if (!link || link.state === "ended") return;
    if (link.state === "attached") return this.#events.closed(link);
    this.#leave(link);
  }

  #message(link: Link, type: number, body: Uint8Array): void {
    if (link.state === "joining" && type === C.SB_MSG_JOIN) this.#join(link, body);
    else if (link.state === "offered" && type === C.SB_MSG_ATTACHED) this.#attached(link);
    else if (link.state === "attached") this.#events.message(link, type);
    else this.refuse(link, C.SB_EPROTO, `it sent a message of type ${type} while ${link.state}`);
  }

  #join(link: Link, body: Uint8Array): void {
    const join = readJoin(body);
    if (join.error === -C.SB_EVERSION) {
      return this.refuse(link, C.SB_EVERSION, `it speaks protocol ${join.abi}, this bus ${C.SB_ABI}`);
    }
    if (join.error !== 0) return this.refuse(link, C.SB_EPROTO, "its JOIN is malformed");
    if (join.role === C.SB_ROLE_OBSERVER) return this.#observe(link);
    const index = native.sb_link_offer(this.#hub, link.fd, join.concurrency);
    if (index < 0) return this.refuse(link, -index, `no region for it: ${errorText(index)}`);
    link.bind(index, Math.min(join.concurrency, this.#options.slots));
    link.state = "offered";
  }

  #observe(link: Link): void {
    if (this.#observers.size >= OBSERVERS) return this.refuse(link, C.SB_EFULL, `${OBSERVERS} observers are there`);
    native.sb_client_observe(this.#hub, link.fd);
    this.#settle(link);
    link.forgetProcess();
    link.state = "observing";
    this.#observers.add(link);
  }

  #attached(link: Link): void {
    this.#settle(link);
    link.state = "attached";
    native.sb_link_start(this.#hub, link.index);
    this.#events.attached(link);
  }

  /** The handshake is over, one way or the other. */
  #settle(link: Link): void {
    this.#handshakes.delete(link);
    if (link.handshakeTimer) clearTimeout(link.handshakeTimer);
    link.handshakeTimer = null;
  }

  #leave(link: Link): void {
    this.#observers.delete(link);
    this.#settle(link);
    link.state = "ended";
    link.drop();
    link.forgetProcess();
  }
}

function isAttached({ state }: Link): boolean {
  return state === "attached";
}
