/**
 * `worker.ts JOURNAL`: a worker that records each request before it starts it, and each response before it sends it. A line
 * is `b REQUEST PID` or `e REQUEST PID`. A kill cannot split a line, because one `write` appends it.
 */

import { openSync, writeSync } from "node:fs";
import { serve } from "../../../src/serve.ts";

const journal = openSync(process.argv[2]!, "a");
const note = (what: "b" | "e", id: number): void => void writeSync(journal, `${what} ${id} ${process.pid}\n`);

serve({
  async work({ id, ms, text }: { id: number; ms: number; text: string }) {
    note("b", id);
    if (ms > 0) await Bun.sleep(ms);
    note("e", id);
    return { id, pid: process.pid, text };
  },
});
