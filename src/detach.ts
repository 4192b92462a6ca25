/** Takes memory away from those who hold a view of it. */

/**
 * Detaches a buffer: all views of it have length 0 from now on. Returns `false` when its memory must stay mapped, because a native
 * call holds the view (then it cannot be taken), or somebody has carried the memory away before (`transfer`,
 * `structuredClone`).
 *
 * `transfer` here moves the memory into a buffer that nobody keeps.
 */
export function detach(buffer: ArrayBuffer): boolean {
  if (buffer.detached) return false;
  buffer.transfer();
  return buffer.detached;
}
