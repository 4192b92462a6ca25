/** `together/stdio-worker.ts FOLDER`: a worker of the stdio bus, which records what it runs. */

import { serve } from "../../../src/serve.ts";
import { count, leakSome } from "../memory.ts";
import { BEGAN, REPLIED, RequestBooks } from "../soak/request-books.ts";

const books = new RequestBooks(process.argv[2]!);

await serve({
  async *work({ id, text, steps }: { id: number; text: string; steps: number }) {
    leakSome();
    Atomics.add(books.runs, id, BEGAN);
    for (let step = 0; step < steps; step++) yield step;
    Atomics.add(books.runs, id, REPLIED);
    return text;
  },
  count,
});
