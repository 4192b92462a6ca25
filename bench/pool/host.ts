/** Host of the contestants that run in Bun: `bun host.ts NAME CASE MS`. */

import { Pool } from "../../src/pool/index.ts";
import { host, type Run, WORKERS } from "./loop.ts";

const tasks = Bun.resolveSync("./tasks", import.meta.dir);
const program = Bun.resolveSync("./worker", import.meta.dir);

async function slotbus(): Promise<Run> {
  const pool = await Pool.start<typeof import("./tasks.ts")>({ module: tasks, min: WORKERS, max: WORKERS });
  return (task, argument) => pool.run(task, [argument] as never);
}

/** Runs at most one task in each worker; the others wait. */
function queued<Worker>(workers: Worker[], one: (worker: Worker, ...task: Parameters<Run>) => Promise<unknown>): Run {
  const waiting: ((worker: Worker) => void)[] = [];
  return async (...task) => {
    const worker = workers.pop() ?? (await new Promise<Worker>((resolve) => waiting.push(resolve)));
    try {
      return await one(worker, ...task);
    } finally {
      const next = waiting.shift();
      if (next) next(worker);
      else workers.push(worker);
    }
  };
}

function threads(): Run {
  const workers = Array.from({ length: WORKERS }, () => new Worker(program));
  return queued(workers, (worker, task, argument) => {
    const { promise, resolve } = Promise.withResolvers<unknown>();
    worker.onmessage = ({ data }) => resolve(data);
    worker.postMessage([task, argument]);
    return promise;
  });
}

function spawns(): Run {
  return queued([...Array(WORKERS).keys()], async (_, task, argument) => {
    const isBytes = argument instanceof Uint8Array;
    const child = Bun.spawn([process.execPath, program, task, isBytes ? "" : String(argument)], {
      stdio: [isBytes ? argument : "ignore", "pipe", "ignore"],
    });
    const text = await child.stdout.text();
    if ((await child.exited) !== 0) throw new Error(`the task ended with ${child.signalCode}`);
    return Number(text);
  });
}

await host(async (name) => (name === "slotbus" ? slotbus() : name === "bun-worker" ? threads() : spawns()));
