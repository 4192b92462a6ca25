/** A member or an observer of a fleet, in the C library: lists members and publishes to rings. */

import { closeSync, constants, openSync, readSync } from "node:fs";
import { join } from "node:path";
import { SlotbusError, ClosedError, InvalidConfigError } from "../errors.ts";
import { callError, type FleetPlace, joinError } from "./fleet-failure.ts";
import { encodeWant, type FleetGeometry, readHeader } from "./fleet-geometry.ts";
import { C, cString, detach, errorText, FIELDS, native, type Pointer, view } from "./library.ts";

/** A living member. The member wrote these fields itself; its lock proves that it lives. */
export interface FleetMember {
  readonly index: number;
  /** Differs between two members that had one index. */
  readonly incarnation: number;
  readonly pid: number;
  readonly uid: number;
  /** Wall-clock time of the join, in ms. */
  readonly joinedAt: number;
}

const MEMBER_BYTES = FIELDS["sb_member_info.uid"][0] + 4;
const HOLDER_BYTES = FIELDS["sb_holder.owner"][0] + FIELDS["sb_holder.owner"][1];

/** All methods throw {@link ClosedError} once the fleet is closed. */
export class FleetHandle {
  readonly name: string;
  /** Path of the fleet's file. */
  readonly file: string;
  /** Epoch of the file; each later file of this name has a higher one. */
  readonly epoch: number;
  readonly geometry: FleetGeometry;
  /** Index of this member; -1 for an observer. */
  readonly index: number;
  /** Differs between two members that had one index; 0 for an observer. */
  readonly incarnation: number;
  readonly #pointer: Pointer;
  #draft: Buffer<ArrayBuffer> | null = null;
  #holder: ArrayBuffer | null = null;
  #isOpen = true;

  /** Joins the fleet, or creates it. Returns the geometry of the running fleet if it differs from `want`. */
  static join(place: FleetPlace, want: FleetGeometry): FleetHandle | FleetGeometry {
    const pointer = native.sb_fleet_join(place.fd, cString(place.name), encodeWant(want)) as Pointer | null;
    if (pointer) return new FleetHandle(place, pointer, false);
    const code = native.sb_error_last();
    if (code === -C.SB_EGEOMETRY) return readHeader(native.sb_fleet_found());
    throw joinError(code, place, want);
  }

  static observe(place: FleetPlace): FleetHandle {
    const pointer = native.sb_fleet_observe(place.fd, cString(place.name)) as Pointer | null;
    if (!pointer) throw joinError(native.sb_error_last(), place, null);
    return new FleetHandle(place, pointer, true);
  }

  private constructor({ name, directory }: FleetPlace, pointer: Pointer, isObserver: boolean) {
    const { epoch, ...geometry } = readHeader(native.sb_fleet_header(pointer));
    this.name = name;
    this.file = join(directory, `${name}.fleet`);
    this.epoch = epoch;
    this.geometry = geometry;
    this.#pointer = pointer;
    this.index = isObserver ? -1 : native.sb_fleet_index(pointer);
    this.incarnation = isObserver ? 0 : this.members().find(({ index }) => index === this.index)!.incarnation;
  }

  get isObserver(): boolean {
    return this.index < 0;
  }

  /** `false` from the start of {@link leave}. */
  get isOpen(): boolean {
    return this.#isOpen;
  }

  /** The native fleet, for other handles. */
  get pointer(): Pointer {
    if (!this.#isOpen) throw new ClosedError(`Fleet "${this.name}"`);
    return this.#pointer;
  }

  /** The struct that native calls on leases fill; one for the whole fleet. */
  get holder(): ArrayBuffer {
    return (this.#holder ??= view(native.sb_lease_holder(this.pointer) as number, HOLDER_BYTES));
  }

  /** Returns the epoch of the file that has the name now; 0: it is not a fleet's file. @throws `RESOURCE` */
  fileEpoch(): number {
    const { file } = this;
    const head = Buffer.alloc(FIELDS["sb_fleet_header.epoch"][0] + 8);
    try {
      const fd = openSync(file, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
      try {
        readSync(fd, head, 0, head.length, 0);
      } finally {
        closeSync(fd);
      }
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code === "ENOENT") return 0;
      throw new SlotbusError("RESOURCE", `Cannot read ${file}: ${(cause as Error).message}.`, { cause });
    }
    const isFleet = head.toString("latin1", 0, 8) === "SL0FLEET";
    return isFleet ? Number(head.readBigUInt64LE(head.length - 8)) : 0;
  }

  /** Returns the living members, including this one. */
  members(): FleetMember[] {
    const out = Buffer.alloc(C.SB_MEMBERS_MAX * MEMBER_BYTES);
    const count = native.sb_fleet_members(this.pointer, out);
    if (count < 0) throw callError(count, `Cannot list the members of fleet "${this.name}"`);
    return Array.from({ length: count }, (_, i) => {
      const word = (name: keyof typeof FIELDS): number => out.readUInt32LE(i * MEMBER_BYTES + FIELDS[name][0]);
      return {
        index: word("sb_member_info.index"),
        incarnation: word("sb_member_info.incarnation"),
        pid: word("sb_member_info.pid"),
        uid: word("sb_member_info.uid"),
        joinedAt: out.readDoubleLE(i * MEMBER_BYTES + FIELDS["sb_member_info.joined_ms"][0]),
      };
    });
  }

  /**
   * Returns the cursors of a member: name of the ring and position of the next frame. A member publishes the positions
   * of its first five open cursors.
   */
  cursors(index: number): { ring: string; position: number }[] {
    const out = new Float64Array(2 * C.SB_MEMBER_CURSORS);
    const count = native.sb_fleet_cursors(this.pointer, index, out);
    const { rings } = this.geometry;
    return Array.from({ length: count }, (_, i) => ({ ring: rings[out[2 * i]!]!.name, position: out[2 * i + 1]! }));
  }

  /** Whether this incarnation of the member lives. */
  isAlive(index: number, incarnation: number): boolean {
    return native.sb_fleet_alive(this.pointer, index, incarnation) === 1;
  }

  /** Number of frames published to a ring so far. */
  head(ring: number): number {
    return native.sb_ring_head(this.pointer, ring);
  }

  /**
   * Returns memory of at least `bytes` bytes for the arguments of the next native call. Valid until the next call of
   * `draft`.
   */
  draft(bytes: number): Buffer<ArrayBuffer> {
    const known = this.#draft;
    if (known && known.length >= bytes) return known;
    const { pointer } = this;
    const size = Math.max(C.SB_PAGE, 2 ** Math.ceil(Math.log2(bytes)));
    if (known) detach(known.buffer);
    this.#draft = null;
    const address = native.sb_fleet_staging(pointer, size) as number | null;
    if (!address) throw new SlotbusError("RESOURCE", `Cannot allocate ${size} bytes of memory.`);
    this.#draft = Buffer.from(view(address, size));
    return this.#draft;
  }

  /**
   * Publishes the first bytes of the draft. Returns whether a sleeping reader was woken.
   *
   * @throws {InvalidConfigError} for an observer; {@link FleetBusyError}.
   */
  publish(ring: number, kind: number, bytes: number): boolean {
    const result = native.sb_ring_publish(this.pointer, ring, kind, bytes);
    if (result >= 0) return result > 0;
    if (this.isObserver) throw new InvalidConfigError("An observer cannot publish.", { hint: "Join the fleet." });
    throw callError(result, `Cannot publish to ring "${this.geometry.rings[ring]!.name}"`);
  }

  /** Leaves the fleet, once. `before` runs first and closes all handles that use this one. */
  leave(before: () => void): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    before();
    if (this.#holder) detach(this.#holder);
    const detached = !this.#draft || detach(this.#draft.buffer);
    this.#draft = null;
    native.sb_fleet_leave(this.#pointer, detached ? 1 : 0);
  }
}

/** Removes the file of a fleet without living members. Returns `false` if a member lives. @throws `RESOURCE` */
export function removeFleet(dir: number, name: string): boolean {
  const result = native.sb_fleet_clean(dir, cString(name));
  if (result >= 0 || result === -C.SB_ENOBUS) return result !== 0;
  throw new SlotbusError("RESOURCE", `Cannot remove fleet "${name}": ${errorText(result)}.`);
}
