// A worker of examples/stdio.ts. As a worker of a SlotBus, call it with `callBus(bus, "hello", { name })`.
import { serve } from "slotbus/serve";

await serve({
  hello({ name }: { name: string }, { key }) {
    console.log("hello was called"); // goes to standard error
    return `hello ${name}${key ? `, ${key}` : ""}`;
  },
  async *count(to: number) {
    for (let i = 1; i <= to; i++) yield i; // progress
  },
});
