/** A control socket and the process on its other end, from the handshake on. */

import type { Socket } from "bun";
import type { Clock, Timer } from "../../clock.ts";
import type { LinkHandle } from "../../native/client.ts";
import { MessageReader, MessageWriter } from "../../native/control.ts";
import type { PeerProcess } from "../../native/peer.ts";

export class Attachment {
  state: "joining" | "offered" | "attached" | "observing" | "ended" = "joining";
  readonly socket: Socket<Attachment>;
  readonly fd: number;
  readonly peer: PeerProcess;
  readonly reader = new MessageReader();
  readonly writer: MessageWriter;
  /** Ends a handshake that takes too long. */
  handshake: Timer | null = null;
  /** The region that was made for it. */
  link: LinkHandle | null = null;
  /** Requests that its worker takes at once. */
  concurrency = 0;

  constructor(socket: Socket<Attachment>, fd: number, peer: PeerProcess, clock: Clock) {
    this.socket = socket;
    this.fd = fd;
    this.peer = peer;
    this.writer = new MessageWriter(fd, clock);
  }

  /** Closes the connection at once. Bun calls `close` later; nothing is sent from here on. */
  cut(): void {
    this.writer.close();
    this.socket.terminate();
  }
}
