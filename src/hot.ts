/**
 * `bun --hot` evaluates a program again in the same process, including files of `node_modules`. Buses and servers of the
 * previous evaluation are still open then. Opening the same one again closes the old one.
 */

/** Something that can be open across a reload. */
interface Closable {
  readonly closed: boolean;
  close(options?: { timeout: number }): Promise<unknown>;
}

interface Opened {
  readonly generation: number;
  readonly opening: Promise<Closable>;
  /** The result of `opening`; `null` while it is pending. */
  thing: Closable | null;
}

/** Time to finish requests of the previous evaluation if the next one waits for that, in ms. */
const PATIENCE_MS = 1_000;

const isHot = process.execArgv.includes("--hot");

/** Whether Bun reloads the program when a file changes, by its flag, `bun run` or `BUN_OPTIONS`. */
export const isReloading = isHot || process.execArgv.includes("--watch");

/** Returns the value that `make` returned in the first evaluation of the program. */
export function kept<T>(name: string, make: () => T): T {
  const key = Symbol.for(`slotbus.${name}:${import.meta.url}`); // each copy of the package has its own value
  const shared = globalThis as { [key: symbol]: unknown };
  return (shared[key] ??= make()) as T;
}

const evaluations = kept("hot", () => ({ count: 0, open: new Map<string, Set<Opened>>() }));

/** Number of this evaluation: 1, 2, … */
export const generation = ++evaluations.count;

/** Returns the key by which a reload recognizes a bus or a worker. */
export function keyOf(kind: "bus" | "worker", { directory, name }: { directory: string; name: string }): string {
  return `${kind} ${directory}/${name}`;
}

/** Registers something that is open or opening, under a key of its kind, directory and name. A key can have several. */
export function noteOpened(key: string, opening: Closable | Promise<Closable>): void {
  if (!isHot) return;
  const all = evaluations.open.get(key) ?? new Set();
  for (const one of all) if (one.thing?.closed) all.delete(one);
  evaluations.open.set(key, all);
  const opened: Opened = { generation, opening: Promise.resolve(opening), thing: null };
  all.add(opened);
  opened.opening.then(
    (thing) => (opened.thing = thing),
    () => all.delete(opened),
  );
}

/** Closes what earlier evaluations opened under the key. Requests get `timeout` ms. Resolves when all is closed. */
export async function closeOlder(key: string, timeout = PATIENCE_MS): Promise<void> {
  const all = evaluations.open.get(key);
  const older = [...(all ?? [])].filter((one) => one.generation < generation);
  for (const one of older) all!.delete(one);
  const close = async ({ thing, opening }: Opened): Promise<void> => {
    await (thing ?? (await opening)).close({ timeout }); // without `await` if it is open, so that its address is free at once
  };
  await Promise.allSettled(older.map(close));
}

/**
 * Waits for something that can exist twice for a moment. When the new one is open, the older ones drain and close; after an
 * error they stay. `thing`: the object itself, if it can be closed while it opens.
 */
export async function openAnew<T>(
  key: string,
  opening: Promise<T>,
  thing: Closable | Promise<Closable> = opening as Promise<T & Closable>,
): Promise<T> {
  noteOpened(key, thing);
  const opened = await opening;
  void closeOlder(key, 5 * PATIENCE_MS);
  return opened;
}
