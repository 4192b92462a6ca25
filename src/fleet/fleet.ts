/** A fleet: equal processes that share a named file of rings and leases. */

import { closeSync, constants, openSync, readSync } from "node:fs";
import { shown } from "../check.ts";
import {
  FleetClosedError,
  FleetGeometryError,
  FleetNotFoundError,
  InvalidConfigError,
  ResourceError,
} from "../errors.ts";
import { openDirectory } from "../native/directory.ts";
import { C, cString, detach, FIELDS, native, type Pointer, view } from "../native/library.ts";
import { checkName, resolveDirectory } from "../runtime-directory.ts";
import { callError, fileOf, joinError } from "./failure.ts";
import {
  checkSizes,
  decodeHeader,
  differences,
  encodeWant,
  type FleetGeometry,
  type FleetSizes,
  HEADER_BYTES,
  withDefaults,
} from "./options.ts";
import { Ring } from "./ring.ts";
import { Wake } from "./wake.ts";

export interface FleetOptions extends FleetSizes {
  /** 1-64 of `A-Z a-z 0-9 . _ -`, starting with a letter or digit. */
  name: string;
  /** Runtime directory. Default `$SLOTBUS_DIR`, else `/dev/shm/slotbus-<euid>`. Made when it is absent. */
  directory?: string | undefined;
  /** No file: all joins of that name in this thread share it, until the last has left. Nobody can observe it. */
  memory?: boolean | undefined;
}

/** Which fleet is observed. */
export interface FleetObserveOptions {
  name: string;
  /** Runtime directory. Default `$SLOTBUS_DIR`, else `/dev/shm/slotbus-<euid>`. */
  directory?: string | undefined;
}

/** A living member, as it wrote itself down. That it lives is proved by the kernel. */
export interface FleetMember {
  readonly index: number;
  /** Differs between two members that had one index. */
  readonly incarnation: number;
  readonly pid: number;
  readonly uid: number;
  /** Wall clock, in ms. */
  readonly joinedAt: number;
}

const MEMBER_BYTES = 24; // of struct sb_member_info
/** Times a join looks again at a fleet whose geometry it takes over. */
const ATTEMPTS = 20;
const STAGING_BYTES = 4_096;
/** Pause between two looks of an observer at what its name leads to now. */
const LOOK_MS = 100;
/** First bytes of the file of a fleet. */
const MAGIC = "SL0FLEET";

/**
 * Membership in a fleet. The same object serves events and leases.
 *
 *     await using fleet = await Fleet.join({ name: "shop", rings: { events: {} } });
 *     fleet.ring("events").publish("hello");
 */
export class Fleet implements AsyncDisposable {
  readonly name: string;
  /** Whether it only looks: no member, nothing is written. */
  readonly isObserver: boolean;
  /** Of the file: the next one of that name has a higher one. */
  readonly epoch: number;
  /** Own place; -1 for an observer. */
  readonly index: number;
  /** Differs between two members that had one index; 0 for an observer. */
  readonly incarnation: number;
  /** @internal */
  readonly geometry: FleetGeometry;
  /** @internal */
  readonly wake: Wake;
  readonly #native: Pointer;
  readonly #rings = new Map<string, Ring>();
  readonly #leavers = new Set<() => void>();
  readonly #release: () => void;
  /** `null`: in memory. */
  readonly #file: string | null;
  #epochThere = 0;
  #lookedAt = -Infinity;
  #staging: Buffer<ArrayBuffer> | null = null;
  #open = true;

  /**
   * Joins the fleet of that name; makes it when it is absent, or when all its members have ended. Blocks the thread for
   * microseconds, for 2 s when a member is stopped while it joins or leaves.
   *
   * @throws (rejects) {InvalidConfigError}, {@link InvalidNameError}; {@link FleetGeometryError} when the living fleet has
   * other sizes; {@link FleetFullError}; {@link FleetBusyError}; {@link FleetCorruptError}; {@link PermissionDeniedError}
   * for a file or a directory that is not ours alone; {@link NoSpaceError}, {@link ResourceError}; {@link VersionMismatchError}.
   */
  static async join(options: FleetOptions): Promise<Fleet> {
    return Fleet.joinNow(options);
  }

  /** @internal The same at once. */
  static joinNow(options: FleetOptions): Fleet {
    const name = checkName(options?.name, "fleet");
    const sizes = checkSizes(options);
    if (options.memory) {
      return joinMemory(name, sizes, (handle, release) => new Fleet(name, handle, false, null, release));
    }
    const directory = resolveDirectory(options.directory);
    const dir = openDirectory(directory, { create: true })!;
    try {
      const join = (want: Buffer): Pointer | null => native.sb_fleet_join(dir, cString(name), want) as Pointer | null;
      return new Fleet(name, negotiate(name, directory, sizes, join), false, fileOf(directory, name), () => {});
    } finally {
      native.sb_fd_close(dir);
    }
  }

  /**
   * Looks at a fleet without joining it: members, rings and leases can be read. It does not sleep for events. It stays
   * with the file that it opened: when {@link isCurrent} is `false`, observe again.
   *
   * @throws (rejects) {FleetNotFoundError}; otherwise as {@link join}.
   */
  static async observe(options: FleetObserveOptions): Promise<Fleet> {
    const name = checkName(options?.name, "fleet");
    if ((options as FleetOptions).memory) {
      throw new InvalidConfigError("a fleet in memory has no file to observe.", { hint: "Join it." });
    }
    const directory = resolveDirectory(options.directory);
    const dir = openDirectory(directory);
    if (dir === null) throw new FleetNotFoundError(name, directory);
    try {
      const handle = native.sb_fleet_observe(dir, cString(name)) as Pointer | null;
      if (!handle) throw joinError(native.sb_error_last(), { name, directory, geometry: null });
      return new Fleet(name, handle, true, fileOf(directory, name), () => {});
    } finally {
      native.sb_fd_close(dir);
    }
  }

  private constructor(name: string, handle: Pointer, isObserver: boolean, file: string | null, release: () => void) {
    this.name = name;
    this.isObserver = isObserver;
    this.#file = file;
    this.#native = handle;
    this.#release = release;
    const { epoch, ...geometry } = decodeHeader(
      view(native.sb_fleet_header(handle) as unknown as number, HEADER_BYTES).slice(0),
    );
    this.epoch = epoch;
    this.geometry = geometry;
    this.wake = new Wake(handle);
    this.index = isObserver ? -1 : native.sb_fleet_index(handle);
    this.incarnation = isObserver ? 0 : this.members().find(({ index }) => index === this.index)!.incarnation;
  }

  get isOpen(): boolean {
    return this.#open;
  }

  /**
   * Whether the name still leads to the file of this fleet. `false` when that was removed, or replaced by the one of a
   * later epoch, and when the fleet was left. Looks at the file system. @throws {ResourceError}
   */
  get isCurrent(): boolean {
    return this.#open && (this.#file === null || epochOf(this.#file) === this.epoch);
  }

  /** @internal Epoch of the file that the name leads to, as it was {@link LOOK_MS} ago at most; 0: none is known. */
  get epochThere(): number {
    const now = performance.now();
    if (this.#file === null || now - this.#lookedAt < LOOK_MS) return this.#epochThere;
    this.#lookedAt = now;
    this.#epochThere = epochOf(this.#file);
    return this.#epochThere;
  }

  /** @internal The handle. @throws {FleetClosedError} */
  get native(): Pointer {
    if (!this.#open) throw new FleetClosedError(`fleet "${this.name}"`);
    return this.#native;
  }

  /** Members that live, this one among them. @throws {FleetClosedError} */
  members(): FleetMember[] {
    const out = Buffer.alloc(C.SB_MEMBERS_MAX * MEMBER_BYTES);
    const count = native.sb_fleet_members(this.native, out);
    if (count < 0) throw callError(count, `members of fleet "${this.name}"`);
    return Array.from({ length: count }, (_, i) => {
      const at = i * MEMBER_BYTES;
      return {
        index: out.readUInt32LE(at + 8),
        incarnation: out.readUInt32LE(at + 12),
        pid: out.readUInt32LE(at + 16),
        uid: out.readUInt32LE(at + 20),
        joinedAt: out.readDoubleLE(at),
      };
    });
  }

  /**
   * @internal Where cursors of a member are: name of the ring, and the position of the next frame. A member shows its first
   * five, and none that it has closed.
   */
  cursors(index: number): { ring: string; position: number }[] {
    const out = new Float64Array(2 * C.SB_MEMBER_CURSORS);
    const count = native.sb_fleet_cursors(this.native, index, out);
    const { rings } = this.geometry;
    return Array.from({ length: count }, (_, i) => ({ ring: rings[out[2 * i]!]!.name, position: out[2 * i + 1]! }));
  }

  /** The ring of that name. @throws {InvalidConfigError} when the fleet has none; {@link FleetClosedError}. */
  ring(name: string): Ring {
    void this.native;
    const known = this.#rings.get(name);
    if (known) return known;
    const index = this.geometry.rings.findIndex((one) => one.name === name);
    if (index < 0) {
      const names = this.geometry.rings.map((one) => one.name).join(", ");
      throw new InvalidConfigError(`fleet "${this.name}" has no ring ${shown(name)}.`, {
        hint: `It has ${names || "none"}; the first to join names them in \`rings\`.`,
      });
    }
    const { frames, payload } = this.geometry.rings[index]!;
    const ring = new Ring(this, index, name, frames, payload);
    this.#rings.set(name, ring);
    return ring;
  }

  /** @internal C's memory for what goes into a call, `bytes` long at least. Valid until the next call of this. */
  staging(bytes: number): Buffer<ArrayBuffer> {
    const known = this.#staging;
    if (known && known.length >= bytes) return known;
    const handle = this.native;
    const size = Math.max(STAGING_BYTES, 2 ** Math.ceil(Math.log2(bytes)));
    if (known) detach(known.buffer);
    this.#staging = null;
    const address = native.sb_fleet_staging(handle, size) as number | null;
    if (!address) throw new ResourceError(`${size} bytes of memory could not be had.`);
    this.#staging = Buffer.from(view(address, size));
    return this.#staging;
  }

  /** @internal Calls `listener` when the fleet is left, while its memory is still there. */
  onLeave(listener: () => void): () => void {
    this.#leavers.add(listener);
    return () => void this.#leavers.delete(listener);
  }

  /**
   * Leaves the fleet: cursors and subscriptions end, leases are given back. Never fails; may be called again. Blocks as
   * {@link join} does; the file of a last member that could not have the lock stays, for the next to join.
   */
  async leave(): Promise<void> {
    this.leaveNow();
  }

  /** @internal The same at once. */
  leaveNow(): void {
    if (!this.#open) return;
    for (const listener of this.#leavers) listener();
    this.#open = false;
    this.wake.close();
    const detached = !this.#staging || detach(this.#staging.buffer);
    this.#staging = null;
    native.sb_fleet_leave(this.#native, detached ? 1 : 0);
    this.#release();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.leave();
  }
}

// ---- joining --------------------------------------------------------------------------------------------------------

/** Asks for the sizes that were named, and otherwise for those that are there. */
function negotiate(
  name: string,
  directory: string | null,
  sizes: FleetSizes,
  join: (want: Buffer) => Pointer | null,
): Pointer {
  let want = withDefaults(sizes);
  for (let attempt = 0; ; attempt++) {
    const handle = join(encodeWant(want));
    if (handle) return handle;
    const code = native.sb_error_last();
    if (code !== -C.SB_EGEOMETRY) throw joinError(code, { name, directory, geometry: want });
    const found = decodeHeader(view(native.sb_fleet_found() as unknown as number, HEADER_BYTES).slice(0));
    const differing = differences(found, sizes);
    if (differing.length > 0) throw new FleetGeometryError(name, differing);
    if (attempt === ATTEMPTS) throw new ResourceError(`fleet "${name}" changed ${ATTEMPTS} times while it was joined.`);
    want = found;
  }
}

/** Epoch of the fleet whose file that is; 0: it is none. Throws {@link ResourceError}. */
function epochOf(file: string): number {
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
    throw new ResourceError(`${file} cannot be read: ${(cause as Error).message}.`, { cause });
  }
  const isFleet = head.toString("latin1", 0, MAGIC.length) === MAGIC;
  return isFleet ? Number(head.readBigUInt64LE(head.length - 8)) : 0;
}

/** Fleets without a file, by name: their memory, and how many joins of this thread share it. */
const memories = new Map<string, { fd: number; joins: number }>();

function joinMemory(name: string, sizes: FleetSizes, make: (handle: Pointer, release: () => void) => Fleet): Fleet {
  const shared = memories.get(name) ?? { fd: -1, joins: 0 };
  if (shared.fd < 0) {
    const geometry = withDefaults(sizes);
    shared.fd = native.sb_fleet_memory(encodeWant(geometry));
    if (shared.fd < 0) throw joinError(shared.fd, { name, directory: null, geometry });
    memories.set(name, shared);
  }
  shared.joins++;
  const release = (): void => {
    if (--shared.joins > 0) return;
    memories.delete(name);
    native.sb_fd_close(shared.fd);
  };
  try {
    const join = (want: Buffer): Pointer | null => native.sb_fleet_join_memory(shared.fd, want) as Pointer | null;
    return make(negotiate(name, null, sizes, join), release);
  } catch (error) {
    release();
    throw error;
  }
}
