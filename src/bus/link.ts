/** One worker as its hub sees it: socket, region, slots in use. */

import type { Socket } from "bun";
import { C, detach, native, type Pointer, view } from "../native/library.ts";
import { Arena } from "./codec.ts";
import { MessageReader, MessageWriter } from "./control.ts";
import type { HubStream } from "./hub-stream.ts";
import type { Pending } from "./pending.ts";
import type { WorkerProcess } from "../supervisor/index.ts";

/** Where a connection stands. */
export type LinkState = "joining" | "offered" | "attached" | "observing" | "ended";

/** What the kernel says about the process on the other end. */
export interface PeerIdentity {
  pid: number;
  uid: number;
  /** Descriptor that becomes readable when the process has ended; -1 where the kernel has none. */
  pidfd: number;
  /** Its `/proc/PID/statm`; -1 where that cannot be read. */
  statm: number;
}

export class Link {
  state: LinkState = "joining";
  readonly socket: Socket<Link>;
  readonly fd: number;
  readonly peer: PeerIdentity;
  readonly reader = new MessageReader();
  readonly writer: MessageWriter;
  /** Ends a handshake that takes too long. */
  handshakeTimer: ReturnType<typeof setTimeout> | null = null;
  index = -1;
  life = 0;
  /** Requests it takes at once. */
  concurrency = 0;
  /** Requests it has, quarantined and borrowed ones included. */
  used = 0;
  /** It let a request wait for its whole timeout without claiming it, and has done nothing since: maybe it is stopped. */
  suspect = false;
  /** Since when its event loop has not turned while it had requests: ms of ticks that the bus really made. */
  stalledMs = 0;
  /** That was for too long. */
  unresponsive = false;
  /** It asked for nothing new. */
  draining = false;
  /** It said goodbye: the end of the connection is not a death. */
  leaving = false;
  /** Its process has closed the connection, or ended: it reads no request any more. */
  hasClosed = false;
  /** Why we ended it, when we did. */
  evictedFor: string | null = null;
  /** By slot. */
  readonly pending: (Pending | null)[] = [];
  /** By slot. */
  readonly streams: (HubStream | undefined)[] = [];
  /** Responses lent out; the region stays mapped until the last one is back. */
  borrowed = 0;
  /** Somebody kept the memory of a response that was lent: the region stays mapped for ever. */
  isHeld = false;
  /** Counts its requests: it is replaced after so many. */
  process: WorkerProcess | null = null;
  /** Retries that wait for proof that the process has ended. */
  retries = 0;
  readonly #hub: Pointer;
  readonly #stride: number;
  #arenas = 0;
  readonly #requests: (Arena | undefined)[] = [];
  readonly #responses: (Arena | undefined)[] = [];

  constructor(hub: Pointer, socket: Socket<Link>, fd: number, peer: PeerIdentity) {
    this.#hub = hub;
    this.#stride = native.sb_client_stride(hub);
    this.socket = socket;
    this.fd = fd;
    this.peer = peer;
    this.writer = new MessageWriter(fd);
  }

  /** The region exists now. */
  bind(index: number, concurrency: number): void {
    this.index = index;
    this.concurrency = concurrency;
    this.life = native.sb_link_life(this.#hub, index);
    this.#arenas = native.sb_link_arenas(this.#hub, index) as number;
  }

  /** Requests it could be given now. One that is to be evicted when the events are handled gets none any more. */
  get credit(): number {
    const isWilling = this.state === "attached" && !this.draining && this.evictedFor === null;
    return isWilling ? this.concurrency - this.used : 0;
  }

  requestArena(slot: number): Arena {
    return (this.#requests[slot] ??= new Arena(view(this.#address(slot, 0), this.#stride)));
  }

  responseArena(slot: number): Arena {
    return (this.#responses[slot] ??= new Arena(view(this.#address(slot, 1), this.#stride)));
  }

  /** A view of a response's body that can be taken back on its own. */
  lend(slot: number, offset: number, bytes: number): Uint8Array {
    return new Uint8Array(view(this.#address(slot, 1) + offset, bytes));
  }

  /** Closes the connection at once. Bun calls `close` later; nothing is sent from here on. */
  cut(): void {
    this.writer.close();
    this.socket.terminate();
  }

  /** Frees the region, for the worker too. `false`: somebody holds a view, so its addresses stay mapped. */
  drop(): boolean {
    if (this.index < 0) return true;
    let detached = !this.isHeld;
    for (const arena of [...this.#requests, ...this.#responses]) {
      if (arena && !detach(arena.buffer)) detached = false;
    }
    this.#requests.length = 0;
    this.#responses.length = 0;
    const how = (detached ? C.SB_DROP_DETACHED : 0) | (this.hasClosed ? C.SB_DROP_CLOSED : 0);
    native.sb_link_drop(this.#hub, this.index, how);
    this.index = -1;
    return detached;
  }

  /** Whether the process has certainly ended. */
  hasEnded(): boolean {
    return this.peer.pidfd < 0 || native.sb_peer_ended(this.peer.pidfd) === 1;
  }

  /**
   * Whether the process has begun to end. Its socket closes only when the kernel has freed its memory, which takes 10 ms
   * for each 100 MiB or so.
   */
  isEnding(): boolean {
    return native.sb_peer_ending(this.peer.statm) === 1;
  }

  /** Whether the process has ended; then nothing of it is kept. */
  isBuried(): boolean {
    if (!this.hasEnded()) return false;
    this.forgetProcess();
    return true;
  }

  /** Closes what watches the process. */
  forgetProcess(): void {
    native.sb_fd_close(this.peer.pidfd);
    native.sb_fd_close(this.peer.statm);
    this.peer.pidfd = -1;
    this.peer.statm = -1;
  }

  #address(slot: number, half: 0 | 1): number {
    return this.#arenas + (2 * slot + half) * this.#stride;
  }
}

const who = new Uint32Array(4);

/** Asks the kernel who is on the other end; `null` when that process is gone already. */
export function identify(fd: number): PeerIdentity | null {
  if (native.sb_peer_identify(fd, who) !== 0) return null;
  return { pid: who[0]!, uid: who[1]!, pidfd: who[2]! | 0, statm: who[3]! | 0 };
}

/** Reads a JOIN: `error` is 0, or the negative code; `abi` is the range of versions the worker speaks. */
export function readJoin(body: Uint8Array): { error: number; role: number; concurrency: number; abi: string } {
  const copy = Buffer.alloc(C.SB_MESSAGE_MAX);
  copy.set(body);
  const error = native.sb_join_check(copy, body.length, who);
  return { error, role: who[0]!, concurrency: who[1]!, abi: `${who[0]} to ${who[1]}` };
}
