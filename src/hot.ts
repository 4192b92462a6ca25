/**
 * `bun --hot` evaluates a program again in the same process, also the files of `node_modules`. What the evaluation before opened is
 * still open then; whoever opens the same again takes it over.
 */

/** Something that can be open across a reload. */
interface Closable {
  readonly closed: boolean;
  close(options?: { timeout: number }): Promise<unknown>;
}

interface Opened {
  readonly generation: number;
  readonly opening: Promise<Closable>;
  /** `null` while it opens. */
  thing: Closable | null;
}

/** How long requests of the evaluation before may go on where the next one waits for their end, in ms. */
const PATIENCE_MS = 1_000;

const isHot = process.execArgv.includes("--hot");

/** Whether Bun runs the program again when a file changes, however it was asked to: flag, `bun run` or `BUN_OPTIONS`. */
export const isReloading = isHot || process.execArgv.includes("--watch");

/** Returns the same value in each evaluation of the program: what `make` returned in the first one. */
export function kept<T>(name: string, make: () => T): T {
  const key = Symbol.for(`slotbus.${name}:${import.meta.path}`); // another copy of the package has its own
  const shared = globalThis as { [key: symbol]: unknown };
  return (shared[key] ??= make()) as T;
}

const evaluations = kept("hot", () => ({ count: 0, open: new Map<string, Set<Opened>>() }));

/** Number of this evaluation: 1, 2, … */
export const generation = ++evaluations.count;

/** Notes what is open, or about to be, under a key of its kind, directory and name. Several may have one key. */
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

/** Closes what earlier evaluations have open under the key. Resolves when that has ended; requests get `timeout` ms. */
export async function closeOlder(key: string, timeout = PATIENCE_MS): Promise<void> {
  const all = evaluations.open.get(key);
  const older = [...(all ?? [])].filter((one) => one.generation < generation);
  for (const one of older) all!.delete(one);
  const close = async ({ thing, opening }: Opened): Promise<void> => {
    await (thing ?? (await opening)).close({ timeout }); // at once, where it is open: an address is free from then on
  };
  await Promise.allSettled(older.map(close));
}

/**
 * Waits for what may be there twice for a moment: when the new one is open, those of earlier evaluations begin to drain and close.
 * After an error they stay. `thing`: the same where it can be closed while it opens.
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
