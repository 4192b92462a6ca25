/** A fleet: equal processes that share a named file of rings and leases. */

import { resolve } from "node:path";
import { checkName, defaultDirectory } from "../bus/options.ts";
import {
  FleetClosedError,
  FleetGeometryError,
  FleetNotFoundError,
  InvalidConfigError,
  PermissionDeniedError,
  ResourceError,
  UnsupportedError,
} from "../errors.ts";
import { C, cString, detach, errorText, native, type Pointer, view } from "../native/library.ts";
import { callError, joinError } from "./failure.ts";
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
  directory?: string;
  /** No file: all joins of that name in this thread share it, until the last has left. */
  memory?: boolean;
}

export interface FleetObserveOptions {
  name: string;
  /** Runtime directory. Default `$SLOTBUS_DIR`, else `/dev/shm/slotbus-<euid>`. */
  directory?: string;
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
  #staging: Buffer<ArrayBuffer> | null = null;
  #open = true;

  /**
   * Joins the fleet of that name; makes it when it is absent, or when all its members have ended.
   *
   * @throws (rejects) {InvalidConfigError}, {@link InvalidNameError}; {@link FleetGeometryError} when the living fleet has
   * other sizes; {@link FleetFullError}; {@link FleetCorruptError}; {@link PermissionDeniedError} for a file or a
   * directory that is not ours alone; {@link NoSpaceError}, {@link ResourceError}; {@link VersionMismatchError}.
   */
  static async join(options: FleetOptions): Promise<Fleet> {
    return Fleet.joinNow(options);
  }

  /** @internal The same at once. */
  static joinNow(options: FleetOptions): Fleet {
    const name = checkName(options?.name, "fleet");
    const sizes = checkSizes(options);
    if (options.memory) return joinMemory(name, sizes, (handle, release) => new Fleet(name, handle, false, release));
    const directory = resolve(options.directory ?? defaultDirectory());
    const dir = openDirectory(name, directory, true);
    try {
      const handle = negotiate(name, sizes, (want) => native.sb_fleet_join(dir, cString(name), want) as Pointer | null);
      return new Fleet(name, handle, false, () => {});
    } finally {
      native.sb_fd_close(dir);
    }
  }

  /**
   * Looks at a fleet without joining it: members, rings and leases can be read. It does not sleep for events.
   *
   * @throws (rejects) {FleetNotFoundError}; otherwise as {@link join}.
   */
  static async observe(options: FleetObserveOptions): Promise<Fleet> {
    const name = checkName(options?.name, "fleet");
    const directory = resolve(options.directory ?? defaultDirectory());
    const dir = openDirectory(name, directory, false);
    try {
      const handle = native.sb_fleet_observe(dir, cString(name)) as Pointer | null;
      if (!handle) throw joinError(native.sb_error_last(), name, directory, 0);
      return new Fleet(name, handle, true, () => {});
    } finally {
      native.sb_fd_close(dir);
    }
  }

  private constructor(name: string, handle: Pointer, isObserver: boolean, release: () => void) {
    this.name = name;
    this.isObserver = isObserver;
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

  /** The ring of that name. @throws {InvalidConfigError} when the fleet has none; {@link FleetClosedError}. */
  ring(name: string): Ring {
    void this.native;
    const known = this.#rings.get(name);
    if (known) return known;
    const index = this.geometry.rings.findIndex((one) => one.name === name);
    if (index < 0) {
      const names = this.geometry.rings.map((one) => one.name).join(", ");
      throw new InvalidConfigError(`fleet "${this.name}" has no ring ${JSON.stringify(name)}.`, {
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

  /** Leaves the fleet: cursors and subscriptions end, leases are given back. Never fails; may be called again. */
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
function negotiate(name: string, sizes: FleetSizes, join: (want: Buffer) => Pointer | null): Pointer {
  let want = withDefaults(sizes);
  for (let attempt = 0; ; attempt++) {
    const handle = join(encodeWant(want));
    if (handle) return handle;
    const code = native.sb_error_last();
    if (code !== -C.SB_EGEOMETRY) throw joinError(code, name, "", want.members);
    const found = decodeHeader(view(native.sb_fleet_found() as unknown as number, HEADER_BYTES).slice(0));
    const differing = differences(found, sizes);
    if (differing.length > 0) throw new FleetGeometryError(name, differing);
    if (attempt === ATTEMPTS) throw new ResourceError(`fleet "${name}" changed ${ATTEMPTS} times while it was joined.`);
    want = found;
  }
}

function openDirectory(name: string, directory: string, create: boolean): number {
  const dir = native.sb_dir_open(cString(directory), create ? 1 : 0, 0);
  if (dir >= 0) return dir;
  if (dir === -C.SB_ENOBUS) throw new FleetNotFoundError(name, directory);
  if (dir === -C.SB_EUNSUPPORTED) throw new UnsupportedError(`slotbus cannot run here: ${errorText(dir)}.`);
  if (dir !== -C.SB_EDIR) throw new ResourceError(`${directory} cannot be opened: ${errorText(dir)}.`);
  throw new PermissionDeniedError(`${directory} is not a directory of ours that is closed to others.`, {
    hint: "It must belong to this user and have mode 0700.",
  });
}

/** Fleets without a file, by name: their memory, and how many joins of this thread share it. */
const memories = new Map<string, { fd: number; joins: number }>();

function joinMemory(name: string, sizes: FleetSizes, make: (handle: Pointer, release: () => void) => Fleet): Fleet {
  const shared = memories.get(name) ?? { fd: -1, joins: 0 };
  if (shared.fd < 0) {
    const geometry = withDefaults(sizes);
    shared.fd = native.sb_fleet_memory(encodeWant(geometry));
    if (shared.fd < 0) throw joinError(shared.fd, name, "", geometry.members);
    memories.set(name, shared);
  }
  shared.joins++;
  const release = (): void => {
    if (--shared.joins > 0) return;
    memories.delete(name);
    native.sb_fd_close(shared.fd);
  };
  try {
    const handle = negotiate(name, sizes, (want) => native.sb_fleet_join_memory(shared.fd, want) as Pointer | null);
    return make(handle, release);
  } catch (error) {
    release();
    throw error;
  }
}
