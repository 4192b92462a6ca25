/** A connected peer: its control socket, its process and the state of its handshake. */

import type { Socket } from "bun";
import type { Clock, Timer } from "../../clock.ts";
import type { LinkHandle } from "../../native/client.ts";
import { MessageReader, MessageWriter } from "../../native/control.ts";
import type { PeerProcess } from "../../native/peer.ts";
import type { BunDuplex } from "../socket/duplex.ts";

/** The client's end of the control socket of one peer. */
export class Attachment {
  state: "joining" | "offered" | "attached" | "observing" | "ended" = "joining";
  readonly socket: Socket<Attachment>;
  readonly fd: number;
  readonly peer: PeerProcess;
  readonly reader = new MessageReader();
  readonly writer: MessageWriter;
  /** Timer that refuses the peer if the handshake takes too long. */
  handshake: Timer | null = null;
  /** The region that was created for the worker. */
  link: LinkHandle | null = null;
  /** The socket of a worker that joined by frames, from then on. */
  duplex: BunDuplex | null = null;
  /** Number of requests that the worker runs at once. */
  concurrency = 0;

  constructor(socket: Socket<Attachment>, fd: number, peer: PeerProcess, clock: Clock) {
    this.socket = socket;
    this.fd = fd;
    this.peer = peer;
    this.writer = new MessageWriter(fd, clock);
  }

  /** Closes the socket at once. Nothing is sent afterwards; Bun calls `close` later. */
  cut(): void {
    this.writer.close();
    this.socket.terminate();
  }
}
