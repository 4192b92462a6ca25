// A worker of examples/stdio.ts. The same program answers on a bus: `callBus(bus, "hello", { name })`.
import { serve } from "slotbus/serve";

await serve({
  hello({ name }: { name: string }, { key }) {
    console.log("somebody called"); // goes to standard error
    return `hello ${name}${key ? `, ${key}` : ""}`;
  },
  async *count(to: number) {
    for (let i = 1; i <= to; i++) yield i; // progress
  },
});
