/** A peer that connected: its control socket and process, and how far its handshake is. */

import type { Socket } from "bun";
import type { Clock, Timer } from "../../clock.ts";
import type { LinkHandle } from "../../native/client.ts";
import { MessageReader, MessageWriter } from "../../native/control.ts";
import type { PeerProcess } from "../../native/peer.ts";

/** The control socket of one peer, as the client has it. */
export class Attachment {
  state: "joining" | "offered" | "attached" | "observing" | "ended" = "joining";
  readonly socket: Socket<Attachment>;
  readonly fd: number;
  readonly peer: PeerProcess;
  readonly reader = new MessageReader();
  readonly writer: MessageWriter;
  /** Timer that ends a handshake which takes too long. */
  handshake: Timer | null = null;
  /** The region that was made for the worker. */
  link: LinkHandle | null = null;
  /** Requests that the worker takes at once. */
  concurrency = 0;

  constructor(socket: Socket<Attachment>, fd: number, peer: PeerProcess, clock: Clock) {
    this.socket = socket;
    this.fd = fd;
    this.peer = peer;
    this.writer = new MessageWriter(fd, clock);
  }

  /** Closes the socket at once. Nothing is sent from here on; Bun calls `close` later. */
  cut(): void {
    this.writer.close();
    this.socket.terminate();
  }
}
