/** The two rings of a slot, as one side sees them. */

import { C, FIELDS } from "./library.ts";

const word = (name: keyof typeof FIELDS): number => FIELDS[name][0] / 4;
const READABLE = word("sb_look.readable");
const READ_AT = word("sb_look.read_at");
const ROOM = word("sb_look.room");
const WRITE_AT = word("sb_look.write_at");
const ENDED = word("sb_look.ended");
const ERROR_BYTES = word("sb_look.error_bytes");
const UNREAD = word("sb_look.unread");
const FREE = word("sb_look.free");

/** Bytes of the memory behind a {@link FlowStatus}. */
export const FLOW_STATUS_BYTES = 32;
/** Largest ring, in bytes; a smaller arena has smaller rings. */
export const RING_MAX = C.SB_RING_MAX;

/** Result of a `flow`: done, and the other side was rung or not; the slot is not ours any more; its counts are impossible. */
export type Flowed = "quiet" | "rang" | "gone" | "corrupt";

/** Decodes the result of a native flow. */
export function flowed(result: number): Flowed {
  return result === 0 ? "quiet" : result > 0 ? "rang" : result === -C.SB_ECORRUPT ? "corrupt" : "gone";
}

/** Status of the rings that were moved last, in bytes; places are offsets in an arena. */
export class FlowStatus {
  readonly #words: Uint32Array<ArrayBuffer>;

  /** `memory`: what the library fills. */
  constructor(memory: ArrayBuffer) {
    this.#words = new Uint32Array(memory);
  }

  /** Bytes that can be read at {@link readAt}, in one piece. */
  get readable(): number {
    return this.#words[READABLE]!;
  }

  get readAt(): number {
    return this.#words[READ_AT]!;
  }

  /** Bytes that can be written at {@link writeAt}, in one piece. */
  get room(): number {
    return this.#words[ROOM]!;
  }

  get writeAt(): number {
    return this.#words[WRITE_AT]!;
  }

  /** Bytes that can be read in all. */
  get unread(): number {
    return this.#words[UNREAD]!;
  }

  /** Bytes that can be written in all. */
  get free(): number {
    return this.#words[FREE]!;
  }

  /** Whether the other side has ended its stream, so that no more than {@link unread} comes, and how. */
  get end(): "open" | "end" | "error" {
    const ended = this.#words[ENDED];
    return ended === C.SB_FLOW_OPEN ? "open" : ended === C.SB_FLOW_END ? "end" : "error";
  }

  /** Length of the encoded error behind the stream, in bytes. */
  get errorBytes(): number {
    return this.#words[ERROR_BYTES]!;
  }

  /** Memory of the library; it must be detached before it is freed. */
  get memory(): ArrayBuffer {
    return this.#words.buffer;
  }
}
