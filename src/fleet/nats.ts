/** A fleet over a NATS server: processes on many machines with one name. It has events and leases, but no memory. */

import type { NatsConnection } from "@nats-io/transport-node";
import { ClosedError, UnsupportedError } from "../errors.ts";
import type { NatsLink } from "../nats/link.ts";
import type { PortableFleet } from "./portable.ts";

/** @internal The fleet that `Fleet.join` returns with `via: nats(…)`. */
export class NatsFleet implements PortableFleet {
  readonly name: string;
  readonly link: NatsLink;
  readonly #listeners = new Set<() => void | Promise<void>>();
  #closed: Promise<void> | null = null;
  /** Whether the listeners for the close are done. */
  #left = false;

  /** Connects to the server. @throws (rejects) {UnsupportedError}; `DISCONNECTED`; `PERMISSION_DENIED` */
  static async join(name: string, link: NatsLink): Promise<NatsFleet> {
    await link.enter();
    return new NatsFleet(name, link);
  }

  private constructor(name: string, link: NatsLink) {
    this.name = name;
    this.link = link;
  }

  get closed(): boolean {
    return this.#closed !== null;
  }

  /**
   * The connection, until the listeners of {@link onClose} are done. @throws {ClosedError}; `DISCONNECTED` while the server cannot be
   * reached: nothing was sent
   */
  get connection(): NatsConnection {
    if (this.#left) throw new ClosedError(`Fleet "${this.name}"`);
    return this.link.connection;
  }

  /** Calls `listener` when the fleet closes, before the connection is closed. The returned function removes the listener. */
  onClose(listener: () => void | Promise<void>): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  /** A ring of memory, which this fleet does not have. @throws {UnsupportedError} */
  ring(): never {
    throw unsupported("A ring");
  }

  /** The list of members, which the server does not keep. @throws {UnsupportedError} */
  members(): never {
    throw unsupported("The list of members");
  }

  /** Leaves the fleet: closes subscriptions and releases leases. Never fails. Calling it again waits for the same end. */
  close(): Promise<void> {
    return (this.#closed ??= Promise.resolve().then(() => this.#close()));
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #close(): Promise<void> {
    await Promise.allSettled([...this.#listeners].map((listener) => listener()));
    this.#listeners.clear();
    this.#left = true;
    await this.link.leave().catch(() => {}); // the connection is gone either way
  }
}

/** Something that needs shared memory. `what` starts the message: `"A ring"`. */
export function unsupported(what: string): UnsupportedError {
  return new UnsupportedError(`${what} needs shared memory, and this fleet is on a NATS server.`, {
    hint: "Join the fleet without `via`, or leave out this call.",
  });
}

/** Returns the fleet if it is on a NATS server. */
export function overNats(fleet: PortableFleet): NatsFleet | null {
  return "link" in fleet ? (fleet as NatsFleet) : null;
}
