// A worker: answers requests of the bus "shop". Start as many as you like.
import { SlotWorker } from "slotbus";

const worker = await SlotWorker.open({ name: "shop" });

worker.serve(async (request) => {
  if (request.path === "/hello") return `hello ${request.text()}, from process ${process.pid}`;
  if (request.path === "/sum") return { json: request.json<number[]>().reduce((a, b) => a + b, 0) };
  return { status: 404, json: { error: `nothing at ${request.path}` } };
});
