/** What a process finishes before SIGTERM ends it. */

import { kept } from "./hot.ts";

interface Closable {
  close(): Promise<unknown>;
}

/** What is closed when SIGTERM comes: one entry for each call of {@link drainOnSigterm}. */
const drained = kept("sigterm", () => new Set<readonly Closable[]>());

/**
 * On SIGTERM, closes all of `things`, then lets the signal do what it would have done. Returns a function that forgets them.
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
  if (process.listenerCount("SIGTERM") === 0) process.kill(process.pid, "SIGTERM"); // others have handled it by now
}
