// Large bodies without a copy in the worker or in the client. `bun examples/in-place.ts`
import { SlotBus, SlotWorker } from "slotbus";

const bytes = 8 * 1024 * 1024;
await using bus = await SlotBus.create({ name: "frames" });
await using worker = await SlotWorker.open({ name: "frames" });

worker.serve((request) => {
  const frame = request.reserve(bytes); // memory of the response
  frame.fill(Number(request.query));
  return { contentType: "image/raw", body: frame };
});

{
  using frame = await bus.borrow({ path: "/frame", query: "7" }); // a view of shared memory, valid in this block
  console.log(frame.contentType, frame.body.length, frame.body.at(-1));
}
