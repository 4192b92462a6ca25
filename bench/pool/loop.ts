/** Tasks in a closed loop. Runs in the host of each contestant, in Bun and in Node. */

/** Runs a task of `tasks.ts` in a worker. */
export type Run = (task: "empty" | "busy" | "size" | "crash", argument?: unknown) => Promise<unknown>;

/** Number of worker processes or threads of each contestant. */
export const WORKERS = 2;

/** What is measured. */
export const CASES = ["one", "empty", "1 ms", "10 ms", "1 MiB", "crash"] as const;
export type Case = (typeof CASES)[number];

/** Result of a host: tasks per second, or what a crash did to the other tasks. */
export type Outcome = { perSecond: number } | { lost: number; others: number; backMs: number };

const IN_FLIGHT: Record<Case, number> = { one: 1, empty: 16, "1 ms": 8, "10 ms": 8, "1 MiB": 4, crash: 0 };
/** Tasks beside the one that crashes. */
const OTHERS = 12;

const bytes = new Uint8Array(2 ** 20).fill(7);

function task(run: Run, kind: Case): Promise<unknown> {
  if (kind === "1 MiB") return run("size", bytes);
  return kind.endsWith("ms") ? run("busy", Number.parseInt(kind)) : run("empty");
}

async function loop(run: Run, kind: Case, ms: number): Promise<number> {
  const start = performance.now();
  let count = 0;
  const caller = async (): Promise<void> => {
    while (performance.now() < start + ms) {
      const answer = await task(run, kind);
      if (answer !== (kind === "1 MiB" ? bytes.length : 1)) throw new Error(`a task returned ${String(answer)}`);
      count++;
    }
  };
  await Promise.all(Array.from({ length: IN_FLIGHT[kind] }, caller));
  return (count / (performance.now() - start)) * 1_000;
}

async function crash(run: Run): Promise<Outcome> {
  await loop(run, "1 ms", 200);
  const others = Array.from({ length: OTHERS }, (_, i) =>
    i === 2 ? [run("crash"), run("busy", 20)] : [run("busy", 20)],
  );
  const all = await Promise.allSettled(others.flat());
  const lost = all.filter(({ status }) => status === "rejected").length - 1;
  const start = performance.now();
  await run("empty");
  return { lost, others: OTHERS, backMs: performance.now() - start };
}

/** Measures what the command line says, after a warm-up, and prints the {@link Outcome}. */
export async function host(start: (name: string) => Promise<Run>): Promise<void> {
  const [, , name = "", kind = "one", ms = "500"] = process.argv;
  const run = await start(name);
  let outcome: Outcome;
  if (kind === "crash") outcome = await crash(run);
  else {
    await loop(run, kind as Case, Number(ms) / 2);
    outcome = { perSecond: await loop(run, kind as Case, Number(ms)) };
  }
  process.stdout.write(`${JSON.stringify(outcome)}\n`, () => process.exit());
}
