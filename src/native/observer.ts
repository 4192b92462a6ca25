/** Observes a bus by mapping its statistics read-only. The client only answers the handshake. */

import { systemClock } from "../clock.ts";
import { checkName, resolveDirectory } from "../runtime-directory.ts";
import { C, cString, native, type Pointer } from "./library.ts";
import { readSnapshot, type Snapshot } from "./statistics.ts";
import { shake, shakeHands } from "./worker.ts";
import { SlotbusError } from "../errors.ts";

/** Options of {@link BusObserver.open}. */
export interface ObserverOptions {
  name: string;
  /** Runtime directory. Default `$SLOTBUS_DIR`, else `/dev/shm/slotbus-<euid>`. */
  directory?: string | undefined;
  /** Timeout of the handshake, in ms. Default 1000. */
  timeout?: number;
}

/** An observer of one bus, for the commands `top`, `stats` and `ls`. */
export class BusObserver implements Disposable {
  readonly name: string;
  readonly #copy = Buffer.alloc(C.SB_STATS_BYTES);
  #pointer: Pointer | null;

  /**
   * Attaches to the statistics of a bus.
   *
   * @throws (rejects) {BusNotFoundError}; `RESOURCE` when the handshake times out; `PERMISSION_DENIED`,
   * {VersionMismatchError}, {InvalidConfigError}.
   */
  static async open({ name, directory, timeout = 1_000 }: ObserverOptions): Promise<BusObserver> {
    checkName(name.replace(/@\d+$/, "")); // NAME@K: client K of a shared bus
    const address = { name, directory: resolveDirectory(directory), shared: directory !== undefined };
    const open = (dir: number): unknown => native.sb_observer_open(dir, cString(name));
    const result = await shakeHands(shake(address, open, systemClock, timeout, null), systemClock);
    if (typeof result === "object") throw result;
    return new BusObserver(name, result);
  }

  private constructor(name: string, pointer: Pointer) {
    this.name = name;
    this.#pointer = pointer;
  }

  /** Returns the current statistics. `isThere` is `false` after the bus has ended; then they are its last ones. */
  read(): Snapshot & { isThere: boolean } {
    if (!this.#pointer) throw new SlotbusError("RESOURCE", `The observer of bus "${this.name}" is closed.`);
    const result = native.sb_observer_read(this.#pointer, this.#copy);
    return { ...readSnapshot(this.#copy, native.sb_now_ms()), isThere: result === 0 };
  }

  close(): void {
    if (this.#pointer) native.sb_worker_close(this.#pointer, 1);
    this.#pointer = null;
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
