/**
 * Measures how soon a client of a shared bus has its workers: the time from the call of `SlotBus.connect` until `ready` resolves
 * with all of them, and until it resolves with one. The workers run before, and one other client keeps them attached. Run:
 * `bun bench/dev/ready.ts [WORKERS [TIMES]]`.
 */

import { mkdtempSync, rmSync } from "node:fs";
import { loadavg, tmpdir } from "node:os";
import { join } from "node:path";
import { SlotBus, SlotWorker } from "../../src/index.ts";

const [workers = 4, times = 100] = process.argv.slice(2).map(Number);
const name = "ready";
const directory = process.env["READY_DIRECTORY"] ?? mkdtempSync(join(tmpdir(), "sb-ready-"));

function quantile(sorted: readonly number[], share: number): string {
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))]!.toFixed(1);
}

async function measure(wanted: number): Promise<void> {
  const took: number[] = [];
  for (let n = 0; n < times; n++) {
    await Bun.sleep(50); // all workers have noticed the end of the client before
    const start = performance.now();
    await using bus = await SlotBus.connect({ name, directory });
    await bus.ready({ workers: wanted, timeout: 10_000 });
    took.push(performance.now() - start);
  }
  took.sort((a, b) => a - b);
  const [p50, p99] = [quantile(took, 0.5), quantile(took, 0.99)];
  console.log(`${wanted} of ${workers} workers: p50 ${p50} ms, p99 ${p99} ms, ${times} clients, load ${loadavg()[0]}`);
}

if (process.env["READY_DIRECTORY"]) {
  const worker = await SlotWorker.open({ name, directory, timeout: 10_000 });
  worker.serve((request) => request.text());
} else {
  const env = { ...process.env, READY_DIRECTORY: directory };
  const children = Array.from({ length: workers }, () =>
    Bun.spawn([process.execPath, import.meta.path], { env, stdio: ["ignore", "inherit", "inherit"] }),
  );
  try {
    await using first = await SlotBus.connect({ name, directory });
    await first.ready({ workers, timeout: 10_000 });
    await measure(workers);
    await measure(1);
  } finally {
    for (const child of children) child.kill();
    await Promise.all(children.map((child) => child.exited));
    rmSync(directory, { recursive: true });
  }
}
