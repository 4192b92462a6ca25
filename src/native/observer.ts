/** Observes a bus without taking part: maps its statistics read-only. The client answers once, at the handshake. */

import { systemClock } from "../clock.ts";
import { checkName, resolveDirectory } from "../runtime-directory.ts";
import { C, cString, native, type Pointer } from "./library.ts";
import { readSnapshot, type Snapshot } from "./statistics.ts";
import { shake, shakeHands } from "./worker.ts";
import { SlotbusError } from "../errors.ts";

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
  readonly #copy = Buffer.alloc(C.SB_STATS_BYTES);
  #pointer: Pointer | null;

  /**
   * Attaches to the statistics of a bus.
   *
   * @throws (rejects) {BusNotFoundError}; `RESOURCE` when the client does not answer in time;
   * `PERMISSION_DENIED`, {VersionMismatchError}, {InvalidConfigError}.
   */
  static async open({ name, directory, timeout = 1_000 }: ObserverOptions): Promise<BusObserver> {
    checkName(name);
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

  /** The statistics now; `isThere` is `false` when the client has ended or closed the bus, and these are its last. */
  read(): Snapshot & { isThere: boolean } {
    if (!this.#pointer) throw new SlotbusError("RESOURCE", `the observer of bus "${this.name}" is closed.`);
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
