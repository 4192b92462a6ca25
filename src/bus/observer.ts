/** Looks at a bus without taking part: its statistics, mapped read-only. The hub is asked once, at the handshake. */

import {
  BusNotFoundError,
  PermissionDeniedError,
  ResourceError,
  type SlotbusError,
  VersionMismatchError,
} from "../errors.ts";
import { openDirectory } from "../native/directory.ts";
import { C, cString, errorText, native, type Pointer } from "../native/library.ts";
import { checkName, resolveDirectory } from "../runtime-directory.ts";
import { readSnapshot, type Snapshot } from "./metrics.ts";

export interface ObserverOptions {
  name: string;
  /** Runtime directory. Default `$SLOTBUS_DIR`, else `/dev/shm/slotbus-<euid>`. */
  directory?: string | undefined;
  /** How long the hub has to answer, in ms. Default 1000. */
  timeout?: number;
}

export class BusObserver implements Disposable {
  readonly name: string;
  readonly #native: Pointer;
  readonly #copy = Buffer.alloc(C.SB_STATS_BYTES);
  #open = true;

  /**
   * Attaches to the statistics of a bus.
   *
   * @throws (rejects) {@link BusNotFoundError}; {@link ResourceError} when the hub does not answer in time;
   * {@link PermissionDeniedError}, {@link VersionMismatchError}, {InvalidNameError}.
   */
  static async open({ name, directory, timeout = 1_000 }: ObserverOptions): Promise<BusObserver> {
    checkName(name);
    const folder = resolveDirectory(directory);
    const dir = openDirectory(folder, { shared: directory !== undefined });
    if (dir === null) throw new BusNotFoundError(name, folder, 0);
    try {
      const handle = native.sb_observer_open(dir, cString(name)) as Pointer | null;
      if (!handle) throw openError(native.sb_error_last(), name, folder, 0);
      const peer = new Uint32Array(2);
      const deadline = performance.now() + timeout;
      let step = native.sb_worker_step(handle, peer);
      while (step === -C.SB_EAGAIN && performance.now() < deadline) {
        await Bun.sleep(2);
        step = native.sb_worker_step(handle, peer);
      }
      if (step === 0) return new BusObserver(name, handle);
      native.sb_worker_close(handle, 1);
      throw openError(step, name, folder, timeout, peer[0]);
    } finally {
      native.sb_fd_close(dir);
    }
  }

  private constructor(name: string, handle: Pointer) {
    this.name = name;
    this.#native = handle;
  }

  /** The statistics now; `isThere` is `false` when the hub has ended or closed the bus, and these are its last. */
  read(): Snapshot & { isThere: boolean } {
    if (!this.#open) throw new ResourceError(`the observer of bus "${this.name}" is closed.`);
    const result = native.sb_observer_read(this.#native, this.#copy);
    return { ...readSnapshot(this.#copy, native.sb_now_ms()), isThere: result === 0 };
  }

  close(): void {
    if (!this.#open) return;
    this.#open = false;
    native.sb_worker_close(this.#native, 1);
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

function openError(code: number, name: string, directory: string, timeout: number, abi = 0): SlotbusError {
  const hub = `the hub of "${name}"`;
  switch (-code) {
    case C.SB_ENOBUS:
      return new BusNotFoundError(name, directory, 0);
    case C.SB_EVERSION:
      return new VersionMismatchError(hub, C.SB_ABI, abi === C.SB_ABI ? `${abi} of another build` : String(abi));
    case C.SB_EPERM:
      return new PermissionDeniedError(`${hub} does not take uid ${process.geteuid?.()}.`);
    case C.SB_EAGAIN:
    case C.SB_EBUSY:
      return new ResourceError(`${hub} does not answer: it did not take an observer within ${timeout} ms.`, {
        hint: "It is stopped (SIGSTOP, a debugger), or code of it keeps its event loop busy.",
      });
    default:
      return new ResourceError(`${hub} cannot be observed: ${errorText(code)}.`);
  }
}
