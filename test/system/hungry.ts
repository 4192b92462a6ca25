/** A bus whose worker, this same program, allocates memory until the kernel kills it. Prints the error of the request. */

import { SlotBus, SlotWorker, type WorkerDiedError } from "../../src/index.ts";

if (process.env["SLOTBUS_NAME"]) {
  const worker = await SlotWorker.open();
  const taken: Uint8Array[] = [];
  worker.serve(() => {
    for (;;) taken.push(new Uint8Array(16 * 2 ** 20).fill(1));
  });
} else {
  const workers = { entry: import.meta.path, min: 1, max: 1, restart: { backoff: { initial: 60_000 } } };
  await using bus = await SlotBus.create({ name: "hungry", directory: process.argv[2]!, workers });
  await bus.request({ path: "/" }).catch(({ message, signal, report }: WorkerDiedError) => {
    process.stdout.write(`${signal} ${report?.oomKills} ${message}\n`);
  });
}
