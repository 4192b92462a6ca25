// Typed calls: a contract, a worker that implements it, a hub that calls it. `bun examples/typed.ts`
import { contract, isContractError, rpc, SlotBus, SlotWorker, stream, typed } from "slotbus";

// Both sides import it. By types alone, or by schemas (Zod, Valibot, ArkType, …) that both sides check.
const demo = contract("demo", {
  hello: rpc<{ name: string }, { msg: string }>(),
  find: rpc({ input: typed<number>(), output: typed<string>(), errors: { NOT_FOUND: typed<{ id: number }>() } }),
  count: stream<{ to: number }, number>(),
});

await using bus = await SlotBus.create({ name: "typed" });
await using worker = await SlotWorker.open({ name: "typed" });

worker.implement(demo, {
  hello: ({ name }) => ({ msg: `hi ${name}` }),
  find(id, ctx) {
    throw ctx.errors.NOT_FOUND({ id });
  },
  async *count({ to }, ctx) {
    for (let i = 1; i <= to && !ctx.signal.aborted; i++) yield i;
  },
});

const client = bus.client(demo);
console.log((await client.hello({ name: "Ada" }, { timeout: 500 })).msg);
for await (const n of client.count({ to: 3 })) console.log(n);
await client.find(7).catch((error) => {
  if (isContractError(error, demo.methods.find, "NOT_FOUND")) console.log(`nothing has id ${error.data.id}`);
});
