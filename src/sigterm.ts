/** Closes buses and workers of a process before SIGTERM ends it. */

import { kept } from "./hot.ts";

interface Closable {
  close(): Promise<unknown>;
}

/** Things to close at SIGTERM: one entry for each call of {@link drainOnSigterm}. */
const drained = kept("sigterm", () => new Set<readonly Closable[]>());

/**
 * Closes all `things` at SIGTERM, then ends the process by SIGTERM unless it has other listeners. Returns a function that
 * undoes this.
 *
 *     const worker = await SlotWorker.open({ name: "shop" });
 *     drainOnSigterm(worker);
 */
export function drainOnSigterm(...things: Closable[]): () => void {
  if (drained.size === 0) process.once("SIGTERM", closeAll);
  drained.add(things);
  return () => {
    if (drained.delete(things) && drained.size === 0) process.off("SIGTERM", closeAll);
  };
}

async function closeAll(): Promise<void> {
  const things = new Set([...drained].flat());
  drained.clear();
  await Promise.allSettled([...things].map((thing) => thing.close()));
  if (process.listenerCount("SIGTERM") === 0) process.kill(process.pid, "SIGTERM"); // otherwise other listeners decide
}
