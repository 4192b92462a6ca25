/** Accepts workers by frames at the listening socket of a bus. */

import type { ResolvedBusOptions } from "../../bus/options.ts";
import type { Clock, Timer } from "../../clock.ts";
import { SlotbusError } from "../../errors.ts";
import { type Duplex, type DuplexListener, sockets } from "./duplex.ts";
import { type HandshakeEvents, Handshakes } from "./handshakes.ts";
import type { SocketName } from "./name.ts";
import { StatedPeer } from "./peers.ts";

/** Largest number of connections accepted per turn, so that a connection flood does not block the event loop. */
const ACCEPTS = 128;
/** Pause after {@link ACCEPTS} connections, in ms. */
const PAUSE_MS = 20;

/** Listens on the socket of a bus and performs the handshakes. */
export class Listener {
  readonly #clock: Clock;
  readonly #options: ResolvedBusOptions;
  readonly #name: SocketName;
  /** `null` during a pause. */
  #listener: DuplexListener | null = null;
  /** Connections accepted in this turn of the event loop. */
  #accepted = 0;
  #pause: Timer | null = null;
  readonly #handshakes: Handshakes;
  #isClosed = false;

  /** Listens on the socket of the name. @throws `RESOURCE` */
  constructor(clock: Clock, name: SocketName, options: ResolvedBusOptions, tag: number, events: HandshakeEvents) {
    this.#clock = clock;
    this.#name = name;
    this.#options = options;
    this.#handshakes = new Handshakes(clock, options, tag, events);
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
    this.#handshakes.accept(duplex, (pid) => new StatedPeer(pid));
  }

  close(): void {
    this.#isClosed = true;
    this.#handshakes.close();
    this.#pause?.close();
    this.#listener?.stop();
  }
}
