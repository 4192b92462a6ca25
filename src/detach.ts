/** Detaches views from memory that is about to be freed or reused. */

/**
 * Detaches a buffer, so that all its views have length 0. Returns `false` if the memory must stay mapped: a native call
 * still holds a view, or user code has moved the memory to another buffer (`transfer`, `structuredClone`).
 *
 * It transfers the memory to a new buffer that is dropped at once.
 */
export function detach(buffer: ArrayBuffer): boolean {
  if (buffer.detached) return false;
  buffer.transfer();
  return buffer.detached;
}
