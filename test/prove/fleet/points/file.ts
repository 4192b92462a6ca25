/** A fleet's file as the harness reads it, without the library: what is published, and which locks are held. */

import { closeSync, openSync, readFileSync, readSync, statSync } from "node:fs";
import { C, FIELDS } from "../../../../src/native/abi.ts";

const RING_AT = FIELDS["sb_fleet_header.ring"][0] + FIELDS["sb_ring_geometry.offset"][0];
const LEASES_AT = FIELDS["sb_fleet_header.file_bytes"][0] + 8;
const JOIN_LOCK = C.SB_FLEET_LOCKS + C.SB_MEMBERS_MAX;
const OWNER = 0xffff;

export interface Locks {
  ring: boolean;
  leases: boolean;
  /** Of those who join and leave. */
  join: boolean;
}

export class FleetFile {
  readonly path: string;

  constructor(path: string) {
    this.path = path;
  }

  /** Frames published in the first ring; -1 when there is no file. */
  get head(): number {
    return this.#read((word) => word(word(RING_AT) + C.SB_LINE), -1);
  }

  /** As they are held now, by whomever. */
  get locks(): Locks {
    return this.#read(
      (word) => ({
        ring: (word(word(RING_AT)) & OWNER) !== 0,
        leases: (word(word(LEASES_AT)) & OWNER) !== 0,
        join: this.#isJoinLocked(),
      }),
      { ring: false, leases: false, join: false },
    );
  }

  /** The kernel lists the locks on the bytes of each open file. */
  #isJoinLocked(): boolean {
    const { ino } = statSync(this.path);
    const line = new RegExp(`OFDLCK .*:${ino} ${JOIN_LOCK} ${JOIN_LOCK}$`, "m");
    return line.test(readFileSync("/proc/locks", "latin1"));
  }

  /** `word` reads 64 bits at an offset. */
  #read<T>(use: (word: (at: number) => number) => T, absent: T): T {
    let fd: number;
    try {
      fd = openSync(this.path, "r");
    } catch {
      return absent;
    }
    try {
      const bytes = Buffer.alloc(8);
      return use((at) => {
        readSync(fd, bytes, 0, 8, at);
        return Number(bytes.readBigUInt64LE() & 0x1f_ffff_ffff_ffffn);
      });
    } finally {
      closeSync(fd);
    }
  }
}
