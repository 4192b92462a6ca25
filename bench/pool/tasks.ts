/** The tasks of the suite `pool`; of each contestant's worker processes or threads. */

/** Does nothing. */
export function empty(): number {
  return 1;
}

/** Keeps a processor busy for `ms`. */
export function busy(ms: number): number {
  const end = performance.now() + ms;
  while (performance.now() < end);
  return 1;
}

/** Returns the size of a buffer. */
export function size(bytes: Uint8Array): number {
  return bytes.length;
}

/** Crashes the process. */
export function crash(): void {
  process.kill(process.pid, "SIGSEGV");
}
