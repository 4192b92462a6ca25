/** A worker of the bus that is named in its environment. `shop.test.ts` starts it. */

import { SlotWorker } from "slotbus";

const worker = await SlotWorker.open();
worker.serve(async ({ path }) => {
  if (path === "/slow") await Bun.sleep(60_000);
  return "done";
});
