/** The buses that this process has open, by directory and name: closed on `--hot` reload, given back on exit. */

interface OpenBus {
  /** Which evaluation of which file made it. */
  module: object;
  file: string;
  close(): Promise<void>;
  /** Gives the name back. */
  leave(): void;
}

const thisModule = {};
const registryKey = Symbol.for("slotbus.open-buses");
const shared = globalThis as { [registryKey]?: Map<string, OpenBus> };
const openBuses = (shared[registryKey] ??= watchExit(new Map<string, OpenBus>()));

/** Notes a bus that is open now. */
export function noteOpen(key: string, bus: Pick<OpenBus, "close" | "leave">): void {
  openBuses.set(key, { module: thisModule, file: import.meta.path, close: bus.close, leave: bus.leave });
}

/** Forgets a bus that is closed. */
export function noteClosed(key: string): void {
  openBuses.delete(key);
}

/** After `--hot` reload the module runs again in the same process, where its older self still holds the name. */
export async function closeReloaded(key: string): Promise<void> {
  const old = openBuses.get(key);
  if (old && old.file === import.meta.path && old.module !== thisModule) await old.close();
}

/** A process that exits without `close` leaves no file behind. (After a kill, the next client clears up.) */
function watchExit(buses: Map<string, OpenBus>): Map<string, OpenBus> {
  process.on("exit", () => {
    for (const bus of buses.values()) bus.leave();
  });
  return buses;
}
