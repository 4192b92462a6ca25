/** The open buses of this process, whose names are released on exit. */

/** Functions that release the names of open buses. */
const names = new Set<() => void>();

/** Removes the files of buses that were not closed before exit. (After a kill, the next client removes them.) */
function leaveAll(): void {
  for (const leave of names) leave();
}

/** Registers an open bus. */
export function noteOpen(leave: () => void): void {
  if (names.size === 0) process.on("exit", leaveAll);
  names.add(leave);
}

/** Removes a closed bus. */
export function noteClosed(leave: () => void): void {
  if (names.delete(leave) && names.size === 0) process.off("exit", leaveAll);
}
