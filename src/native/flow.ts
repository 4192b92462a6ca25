/** The two rings of a slot, as one side sees them. */

import { C, wordOf } from "./library.ts";

/** Status of the rings that were moved last: the library fills it, and it is detached before it is freed. */
export type FlowStatus = Uint32Array<ArrayBuffer>;
/** Size of a {@link FlowStatus}, in bytes. */
export const FLOW_STATUS_BYTES = 32;

/** Words of a {@link FlowStatus}. Sizes are in bytes, places are offsets in an arena. */
export const LOOK = {
  /** What can be read in one piece, and where it lies. */
  readable: wordOf("sb_look.readable"),
  readAt: wordOf("sb_look.read_at"),
  /** What can be written in one piece, and where it goes. */
  room: wordOf("sb_look.room"),
  writeAt: wordOf("sb_look.write_at"),
  /** What can be read, and written, in all. */
  unread: wordOf("sb_look.unread"),
  free: wordOf("sb_look.free"),
  /** Length of the encoded error behind the stream. */
  errorBytes: wordOf("sb_look.error_bytes"),
} as const;
const ENDED = wordOf("sb_look.ended");

/** Whether the other side has ended its stream, so that no more than `unread` comes, and how. */
export function endOf(status: FlowStatus): "open" | "end" | "error" {
  const ended = status[ENDED];
  return ended === C.SB_FLOW_OPEN ? "open" : ended === C.SB_FLOW_END ? "end" : "error";
}

/** Result of a `flow`: done, and the other side was rung or not; the slot is not ours any more; its counts are impossible. */
export type Flowed = "quiet" | "rang" | "gone" | "corrupt";

/** Decodes the result of a native flow. */
export function flowed(result: number): Flowed {
  return result === 0 ? "quiet" : result > 0 ? "rang" : result === -C.SB_ECORRUPT ? "corrupt" : "gone";
}
