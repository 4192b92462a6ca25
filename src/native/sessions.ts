/** All sessions of one worker in the C library: one poll, one park, one wait over the regions of all its clients. */

import { SlotbusError } from "../errors.ts";
import { C, errorText, native, type Pointer } from "./library.ts";
import { SPINNING, type Spinning } from "./statistics.ts";
import type { WorkerHandle } from "./worker.ts";

const KINDS = ["none", "taken", "moved", "ended", "knock"] as const;
const KIND_MASK = (1 << C.SB_SESSION_SHIFT) - 1;

/**
 * What a poll or a wait found. `taken`: a claimed request. `moved`: bytes moved in the rings of a slot. `ended`: the client has
 * ended or broke the protocol. `knock`: a client has come.
 */
export type Found = (typeof KINDS)[number];

/** The sessions of one worker. */
export class Sessions {
  /** Index of the session to which the last result belongs. */
  index = 0;
  readonly #pointer: Pointer;

  /** @throws `RESOURCE` */
  constructor() {
    const pointer = native.sb_sessions_open() as Pointer | null;
    if (!pointer) throw new SlotbusError("RESOURCE", `Cannot open a worker: ${errorText(native.sb_error_last())}.`);
    this.#pointer = pointer;
  }

  /** Returns the index of the new session. */
  add({ pointer }: WorkerHandle): number {
    return native.sb_sessions_add(this.#pointer, pointer);
  }

  remove(index: number): void {
    native.sb_sessions_remove(this.#pointer, index);
  }

  /** Claims one request, going round the sessions; spins for up to `spinNs` until there is one. */
  take(spinNs: number, canTake: boolean): Found {
    return this.#found(native.sb_sessions_take(this.#pointer, spinNs, canTake ? 1 : 0));
  }

  #found(result: number): Found {
    this.index = result >> C.SB_SESSION_SHIFT;
    return KINDS[result & KIND_MASK]!;
  }

  /** Whether there may be more to take. */
  hasMore(): boolean {
    return native.sb_sessions_has_more(this.#pointer) === 1;
  }

  /** Tells the clients whether the worker spins. */
  spins(spinning: Spinning): void {
    native.sb_sessions_spins(this.#pointer, SPINNING.indexOf(spinning));
  }

  /** Asks the clients for a bell at the next request. `false`: there already is work. */
  park(canTake: boolean): boolean {
    return native.sb_sessions_park(this.#pointer, canTake ? 1 : 0) !== 0;
  }

  unpark(): void {
    native.sb_sessions_unpark(this.#pointer);
  }

  /** Holds the bells until {@link ring}. */
  hold(): void {
    native.sb_sessions_hold(this.#pointer);
  }

  ring(): void {
    native.sb_sessions_ring(this.#pointer);
  }

  spread(): void {
    native.sb_sessions_spread(this.#pointer);
  }

  /** Blocks until a bell, an end or a knock at the door with the descriptor `door` (-1: no door), for up to `ms`. */
  wait(door: number, ms: number): Found {
    return this.#found(native.sb_sessions_wait(this.#pointer, door, Math.min(Math.ceil(ms), 0xffff_ffff), 1));
  }

  /** Frees the handle; the sessions have ended. */
  close(): void {
    native.sb_sessions_close(this.#pointer);
  }
}
