/** Late requests of the suite `many`, and which of them the blocked worker had claimed. */

/** Bytes that a worker appends to the body of a response: its index, and when it claimed the request. */
export const STAMP_BYTES = 16;

/** Index of the worker that blocks its event loop. */
export const BLOCKED = 0;

/** A request that took longer than {@link LATE_MS}. Times are in ms since the epoch, and finer. */
export interface Late {
  ms: number;
  /** Index of the worker that responded, and when its handler started. */
  worker: number;
  claimedAt: number;
  answeredAt: number;
}

export const LATE_MS = 1;

/** Time in ms since the epoch from a clock that does not jump, the same in all processes up to a few µs. */
export function now(): number {
  return performance.timeOrigin + performance.now();
}

/** Returns a response to `body`: its bytes and a stamp. */
export function stamped(body: Uint8Array, worker: number, claimedAt: number): Uint8Array {
  const bytes = new Uint8Array(body.length + STAMP_BYTES);
  bytes.set(body);
  const stamp = new DataView(bytes.buffer, body.length);
  stamp.setFloat64(0, claimedAt);
  stamp.setUint32(8, worker);
  return bytes;
}

/** Reads the stamp at the end of a response. */
export function lateOf(reply: Uint8Array, sentAt: number, answeredAt: number): Late {
  const stamp = new DataView(reply.buffer, reply.byteOffset + reply.length - STAMP_BYTES);
  return { ms: answeredAt - sentAt, worker: stamp.getUint32(8), claimedAt: stamp.getFloat64(0), answeredAt };
}

/**
 * Whether the blocked worker had claimed the request: its handler started before one of the blocks or is the one that blocked,
 * and the response came after the start of that block. A request that the worker claims after a block was not claimed.
 *
 * @param blocks - when the blocks started
 */
export function wasClaimed({ worker, claimedAt, answeredAt }: Late, blocks: readonly number[]): boolean {
  return worker === BLOCKED && blocks.some((from) => claimedAt <= from && from <= answeredAt);
}
