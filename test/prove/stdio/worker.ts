/**
 * A worker that writes down what it begins and what it has answered before anybody else can know: `worker.ts JOURNAL`. A line is
 * `b REQUEST PID` or `e REQUEST PID`; one write of a short line to a file that is appended to is not torn by a kill.
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
