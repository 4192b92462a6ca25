/** The two rings of a slot, from the point of view of one side. */

import { C, wordOf } from "./library.ts";

/**
 * Status of the rings after the last flow call. The library writes it; the view is detached before its memory is freed.
 */
export type FlowStatus = Uint32Array<ArrayBuffer>;
/** Size of a {@link FlowStatus}, in bytes. */
export const FLOW_STATUS_BYTES = 32;

/** Index of each word of a {@link FlowStatus}. Sizes are in bytes; places are offsets in the arena. */
export const LOOK = {
  /** Bytes that can be read in one piece, and their place. */
  readable: wordOf("sb_look.readable"),
  readAt: wordOf("sb_look.read_at"),
  /** Bytes that can be written in one piece, and their place. */
  room: wordOf("sb_look.room"),
  writeAt: wordOf("sb_look.write_at"),
  /** All bytes that can be read, and written. */
  unread: wordOf("sb_look.unread"),
  free: wordOf("sb_look.free"),
  /** Length of the encoded error after the stream. */
  errorBytes: wordOf("sb_look.error_bytes"),
} as const;
const ENDED = wordOf("sb_look.ended");

/** Returns whether and how the other side has ended its stream; then only `unread` bytes are left. */
export function endOf(status: FlowStatus): "open" | "end" | "error" {
  const ended = status[ENDED];
  return ended === C.SB_FLOW_OPEN ? "open" : ended === C.SB_FLOW_END ? "end" : "error";
}

/**
 * Result of a flow call. `quiet`, `rang`: done, without or with a bell. `gone`: the slot was lost. `corrupt`:
 * impossible counts.
 */
export type Flowed = "quiet" | "rang" | "gone" | "corrupt";

/** Decodes the result of a native flow call. */
export function flowed(result: number): Flowed {
  return result === 0 ? "quiet" : result > 0 ? "rang" : result === -C.SB_ECORRUPT ? "corrupt" : "gone";
}
