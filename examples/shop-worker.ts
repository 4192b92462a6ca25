/** A worker of whatever bus the environment names; `shop.test.ts` starts it. */

import { SlotWorker } from "slotbus";

const worker = await SlotWorker.open({ name: process.env["SLOTBUS_BUS"] ?? "shop" });
worker.serve(async ({ path }) => {
  if (path === "/slow") await Bun.sleep(60_000);
  return "done";
});
