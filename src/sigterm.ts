/** What a process finishes before SIGTERM ends it. */

/** Workers of this process that are to be drained when SIGTERM comes. */
const drainers = new Set<{ close(): Promise<void> }>();

/** On SIGTERM, closes `worker`, then lets the signal do what it would have done. */
export function drainOnSigterm(worker: { close(): Promise<void> }): void {
  if (drainers.size === 0) process.once("SIGTERM", drainAll);
  drainers.add(worker);
}

export function forgetSigterm(worker: { close(): Promise<void> }): void {
  drainers.delete(worker);
  if (drainers.size === 0) process.off("SIGTERM", drainAll);
}

/** Once all have finished, the signal does what it would have done. */
async function drainAll(): Promise<void> {
  await Promise.all([...drainers].map((worker) => worker.close()));
  process.kill(process.pid, "SIGTERM");
}
