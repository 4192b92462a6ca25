// Typed calls: a contract, a worker that implements it, a client that calls it. `bun examples/typed.ts`
import { contract, isContractError, rpc, SlotBus, SlotWorker, stream, typed } from "slotbus";

// Both sides import the contract. It has types only, or schemas (Zod, Valibot, ArkType, …) that both sides check.
const demo = contract("demo", {
  hello: rpc<{ name: string }, { msg: string }>(),
  count: stream<{ to: number }, number>(),
});

await using bus = await SlotBus.create({ name: "typed" });
await using worker = await SlotWorker.open({ name: "typed" });
worker.implement(demo, {
  hello: ({ name }) => ({ msg: `hi ${name}` }),
  async *count({ to }, { signal }) {
    for (let i = 1; i <= to && !signal.aborted; i++) yield i;
  },
});

const client = bus.client(demo);
console.log((await client.hello({ name: "Ada" }, { timeout: 500 })).msg);
for await (const n of client.count({ to: 3 })) console.log(n);

// An error that a contract declares reaches the caller with its type.
const shop = contract("shop", {
  find: rpc({ input: typed<number>(), output: typed<string>(), errors: { NOT_FOUND: typed<{ id: number }>() } }),
});
worker.implement(shop, {
  find(id, ctx) {
    throw ctx.errors.NOT_FOUND({ id });
  },
});
await bus
  .client(shop)
  .find(7)
  .catch((error) => {
    if (isContractError(error, shop.methods.find, "NOT_FOUND")) console.log(`nothing has id ${error.data.id}`);
  });
