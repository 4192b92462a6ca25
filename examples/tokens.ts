// A stream of tokens, as from a language model: read while it is produced, and stopped early. `bun examples/tokens.ts`
import { SlotBus, SlotWorker } from "slotbus";

if (process.argv[2] === "worker") {
  const worker = await SlotWorker.open({ name: "model" });
  worker.serve(async function* (request) {
    for (const word of `${request.text()} is a good question, and there is a lot to say about it`.split(" ")) {
      await Bun.sleep(5); // the model thinks
      yield `${word} `;
    }
  });
} else {
  await using bus = await SlotBus.create({ name: "model" });
  const worker = Bun.spawn([process.execPath, import.meta.path, "worker"], { stdio: ["ignore", "inherit", "inherit"] });
  await bus.ready();
  let text = "";
  await using answer = await bus.stream({ path: "/ask", body: "Why" });
  for await (const bytes of answer.chunks()) {
    text += Buffer.from(bytes).toString();
    if (text.includes("question")) break; // the worker's generator ends here, too
  }
  console.log(`read: ${text}`);
  worker.kill();
}
