/** The buses that this process has open: their names are given back on exit. */

/** Each gives the name of a bus back. */
const names = new Set<() => void>();

/** A process that exits without `close` leaves no file behind. (After a kill, the next client clears up.) */
function leaveAll(): void {
  for (const leave of names) leave();
}

/** Notes a bus that is open now. */
export function noteOpen(leave: () => void): void {
  if (names.size === 0) process.on("exit", leaveAll);
  names.add(leave);
}

/** Forgets a bus that is closed. */
export function noteClosed(leave: () => void): void {
  if (names.delete(leave) && names.size === 0) process.off("exit", leaveAll);
}
