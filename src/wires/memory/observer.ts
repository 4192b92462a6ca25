/** Observes a bus without taking part: maps its statistics read-only. The client answers once, at the handshake. */

import { systemClock } from "../../clock.ts";
import { ResourceError } from "../../errors.ts";
import type { Snapshot } from "../../native/statistics.ts";
import { ObserverHandle, shakeHands } from "../../native/worker.ts";
import { checkName, resolveDirectory } from "../../runtime-directory.ts";

/** What `BusObserver.open` takes. */
export interface ObserverOptions {
  name: string;
  /** Runtime directory. Default `$SLOTBUS_DIR`, else `/dev/shm/slotbus-<euid>`. */
  directory?: string | undefined;
  /** How long the client has to answer, in ms. Default 1000. */
  timeout?: number;
}

/** An observer of one bus, for the commands `top`, `stats` and `ls`. */
export class BusObserver implements Disposable {
  readonly name: string;
  readonly #handle: ObserverHandle;
  #isOpen = true;

  /**
   * Attaches to the statistics of a bus.
   *
   * @throws (rejects) {BusNotFoundError}; {@link ResourceError} when the client does not answer in time;
   * {PermissionDeniedError}, {VersionMismatchError}, {InvalidNameError}.
   */
  static async open({ name, directory, timeout = 1_000 }: ObserverOptions): Promise<BusObserver> {
    checkName(name);
    const address = { name, directory: resolveDirectory(directory), shared: directory !== undefined };
    const result = await shakeHands(ObserverHandle.attach(address, timeout, systemClock), systemClock);
    if (result instanceof ObserverHandle) return new BusObserver(name, result);
    throw result;
  }

  private constructor(name: string, handle: ObserverHandle) {
    this.name = name;
    this.#handle = handle;
  }

  /** The statistics now; `isThere` is `false` when the client has ended or closed the bus, and these are its last. */
  read(): Snapshot & { isThere: boolean } {
    if (!this.#isOpen) throw new ResourceError(`the observer of bus "${this.name}" is closed.`);
    return this.#handle.read();
  }

  close(): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    this.#handle.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
