// Large bodies without a copy on either side. `bun examples/in-place.ts`
import { SlotBus, SlotWorker } from "slotbus";

const bytes = 8 * 1024 * 1024;
await using bus = await SlotBus.create({ name: "frames" });
await using worker = await SlotWorker.open({ name: "frames" });

worker.serve((request) => {
  const frame = request.reserve(bytes); // the response's own memory
  frame.fill(Number(request.query));
  return { contentType: "image/raw", body: frame };
});

{
  using frame = await bus.borrow({ path: "/frame", query: "7" }); // a view, until the end of this block
  console.log(frame.contentType, frame.body.length, frame.body.at(-1));
}
