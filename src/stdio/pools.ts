/** The pools of a bus: current ones, which take requests, and retired ones, which finish theirs. */

import { MAX_TIMER_MS } from "../clock.ts";
import type { ExitReport, SlotbusError } from "../errors.ts";
import { unknownPool } from "../errors/plain.ts";
import type { Steps } from "../supervisor/options.ts";
import { findProgram } from "../supervisor/process.ts";
import type { LinkIdentity } from "./events.ts";
import { type ResolvedStdioPool, resolveStdioOptions, type StdioBusOptions } from "./options.ts";
import { noTraffic, type StdioStats } from "./stats.ts";
import type { WorkerPool } from "./worker-pool.ts";

/** How a process of a pool ended. */
export interface PoolExitReport extends ExitReport {
  readonly pool: string;
}

/** What `reload` did, as ids of pools. */
export interface StdioReloadReport {
  /** Pools that kept their workers. */
  readonly unchanged: readonly string[];
  /** Pools where only `instances` changed. */
  readonly resized: readonly string[];
  /** Pools that got new workers. */
  readonly replaced: readonly string[];
  readonly added: readonly string[];
  readonly removed: readonly string[];
}

/** The statistics that come from pools. */
type PoolStats = Pick<
  StdioStats,
  keyof ReturnType<typeof noTraffic> | "workerRestarts" | "paused" | "inFlight" | "waiting" | "workers"
>;

const AT_ONCE: Partial<Steps> = { drain: 0, endOfInput: 0 };

/** Whether two pools differ at most in the number of workers. */
function isSameProgram(one: ResolvedStdioPool, other: ResolvedStdioPool): boolean {
  const of = (pool: ResolvedStdioPool): object => ({ ...pool, instances: 0, program: null });
  return Bun.deepEquals(of(one), of(other), true);
}

/**
 * Checks options and finds the programs, without starting them.
 *
 * @throws {InvalidConfigError}, `PROGRAM_NOT_FOUND`. @internal
 */
export function planOf(options: StdioBusOptions): (ResolvedStdioPool & { readonly path: string })[] {
  return resolveStdioOptions(options).map((pool) => ({ ...pool, path: findProgram(pool.program) }));
}

/** Starts, changes and ends pools. */
export class Pools {
  /** The only pool; `null` if there are several. */
  only: WorkerPool | null = null;
  readonly #make: (options: ResolvedStdioPool) => WorkerPool;
  #current = new Map<string, WorkerPool>();
  /** Current pools, pools that are starting, and retired pools that have not ended. */
  readonly #all = new Set<WorkerPool>();
  /** Counters of pools that have ended. */
  readonly #past = noTraffic();
  #pastRestarts = 0;

  constructor(options: StdioBusOptions, make: (options: ResolvedStdioPool) => WorkerPool) {
    this.#make = make;
    this.#install(resolveStdioOptions(options).map((pool) => this.#add(pool)));
  }

  #add(options: ResolvedStdioPool): WorkerPool {
    const pool = this.#make(options);
    this.#all.add(pool);
    return pool;
  }

  #install(pools: readonly WorkerPool[]): void {
    this.#current = new Map(pools.map((pool) => [pool.options.id, pool]));
    this.only = pools.length === 1 ? pools[0]! : null;
  }

  /** Ids and commands of the current pools, sorted. */
  get programs(): readonly (readonly [id: string, command: string])[] {
    return [...this.#current.values()].map(({ options: { id, command } }) => [id, command] as const).sort();
  }

  /** Workers that take requests. */
  get workers(): LinkIdentity[] {
    return [...this.#current.values()].flatMap(({ supervisor }) => supervisor.links.map(({ identity }) => identity));
  }

  /** Returns the pool with this id, or the only pool. */
  find(id: string | undefined): WorkerPool | null {
    return id === undefined ? this.only : (this.#current.get(id) ?? null);
  }

  /** As {@link find}. @throws `UNKNOWN_POOL`. */
  get(id: string | undefined): WorkerPool {
    const pool = this.find(id);
    if (pool) return pool;
    throw unknownPool(id, [...this.#current.keys()]);
  }

  /** Whether a worker, draining or not, has a call with this key. */
  isAsked(key: string, worker: LinkIdentity): boolean {
    for (const { connections } of this.#all)
      for (const { identity, calls } of connections)
        if (identity === worker) for (const { options } of calls) if (options.key === key) return true;
    return false;
  }

  /** Starts pools. When the promise rejects, all of them have been stopped. */
  async start(pools: readonly WorkerPool[] = [...this.#all]): Promise<void> {
    try {
      await Promise.all(pools.map(({ supervisor }) => supervisor.start()));
    } catch (error) {
      await Promise.all(pools.map((pool) => this.#end(pool, AT_ONCE)));
      throw error;
    }
  }

  /** Replaces the current pools. `checkOpen` throws if the bus was closed meanwhile. */
  async reload(wanted: readonly ResolvedStdioPool[], checkOpen: () => void): Promise<StdioReloadReport> {
    const before = this.#current;
    const kept = (options: ResolvedStdioPool): WorkerPool | null => {
      const pool = before.get(options.id);
      return pool && isSameProgram(pool.options, options) ? pool : null;
    };
    const next = wanted.map((options) => kept(options) ?? this.#add(options));
    await this.start(next.filter((pool) => before.get(pool.options.id) !== pool));
    checkOpen();
    this.#install(next);
    for (const [id, pool] of before) {
      const after = this.#current.get(id) ?? null;
      if (after !== pool) void this.#retire(pool, after);
    }
    const had = (id: string): boolean => before.has(id);
    const isKept = ({ id }: ResolvedStdioPool): boolean => before.get(id) === this.#current.get(id);
    const changed = wanted.filter((pool) => isKept(pool) && before.get(pool.id)!.instances !== pool.instances);
    await allOf(changed.map(({ id, instances }) => this.#resize(before.get(id)!, instances)));
    const ids = (pools: readonly ResolvedStdioPool[]): string[] => pools.map(({ id }) => id);
    return {
      unchanged: ids(wanted.filter((pool) => isKept(pool) && !changed.includes(pool))),
      resized: ids(changed),
      replaced: ids(wanted.filter((pool) => had(pool.id) && !isKept(pool))),
      added: ids(wanted.filter(({ id }) => !had(id))),
      removed: [...before.keys()].filter((id) => !wanted.some((pool) => pool.id === id)),
    };
  }

  /**
   * Resolves when new workers are ready. Does not wait for surplus workers, which end when they have finished their requests.
   */
  async #resize(pool: WorkerPool, instances: number): Promise<void> {
    const isLess = instances < pool.instances;
    pool.instances = instances;
    const done = pool.supervisor.resizeWith(instances, { drain: MAX_TIMER_MS });
    if (isLess)
      done.catch(() => {}); // the bus was closed, or an event reports the error
    else await done;
  }

  /** Lets a pool finish its requests, then ends it. */
  async #retire(pool: WorkerPool, successor: WorkerPool | null): Promise<void> {
    await pool.retire(successor);
    await this.#end(pool);
  }

  /** Ends a pool for good. */
  async #end(pool: WorkerPool, steps?: Partial<Steps>): Promise<PoolExitReport[]> {
    const reports = await pool.supervisor.stop(steps);
    await pool.allGone();
    if (this.#all.delete(pool)) {
      pool.addTraffic(this.#past);
      this.#pastRestarts += pool.restarts;
    }
    return reports.map((report) => ({ ...report, pool: pool.options.id }));
  }

  /** Rejects waiting calls and ends all pools. */
  async close(errorOf: () => SlotbusError, steps?: Partial<Steps>): Promise<PoolExitReport[]> {
    for (const pool of this.#all) pool.rejectWaiting(errorOf);
    return (await Promise.all([...this.#all].map((pool) => this.#end(pool, steps)))).flat();
  }

  /** Times out calls; returns the next deadline. */
  expire(now: number): number {
    let next = Infinity;
    for (const pool of this.#all) next = Math.min(next, pool.expire(now));
    return next;
  }

  /** Returns counters and current numbers of all pools. */
  stats(): PoolStats {
    const stats: PoolStats = {
      ...noTraffic(),
      workerRestarts: this.#pastRestarts,
      paused: [...this.#current].filter(([, { supervisor }]) => supervisor.pausedFor).map(([id]) => id),
      inFlight: 0,
      waiting: 0,
      workers: [],
    };
    const traffic = { ...this.#past };
    for (const pool of this.#all) {
      pool.addTraffic(traffic);
      stats.inFlight += pool.inFlight;
      stats.waiting += pool.waiting;
      stats.workerRestarts += pool.restarts;
      for (const { identity, inFlight, queuedBytes, hasEnded } of pool.connections)
        if (!hasEnded) stats.workers.push({ ...identity, inFlight, queuedBytes });
    }
    return { ...stats, ...traffic };
  }
}

/** Waits until all promises have settled, then rejects if one did. */
async function allOf(promises: readonly Promise<void>[]): Promise<void> {
  await Promise.allSettled(promises);
  await Promise.all(promises);
}
