/** `together/host.ts FOLDER ENV`: a stdio bus that asks its two workers, whose environment is ENV. Waits for "go". */

import { join } from "node:path";
import { StdioBus } from "../../../src/stdio/index.ts";
import type { Common } from "../actor.ts";
import { count, type Counted, leakSome } from "../memory.ts";
import * as b from "../soak/request-books.ts";

export type HostReport = Common | { is: "open" | "still" } | { is: "counts"; own: Counted; workers: Counted[] };

const CALLERS = 12;
/** Most characters of a request. */
const LONGEST = 4_000;
/** Each request with this share has progress. */
const PROGRESS = 0.1;

const [folder, env] = process.argv.slice(2);
const books = new b.RequestBooks(folder!);
const random = new b.Random(process.pid);
const pools = ["one", "two"];
let bus: StdioBus;
let isStill = true;
let running: Promise<void>[] = [];

function say(report: HostReport): void {
  process.send!(report);
}

async function call(): Promise<void> {
  while (!isStill) {
    leakSome();
    const id = books.next++;
    books.outcome[id] = b.ISSUED;
    const text = `${id} ${"ä".repeat(random.size(LONGEST))}`;
    const parts: unknown[] = [];
    const onProgress = random.chance(PROGRESS) ? (part: unknown): void => void parts.push(part) : undefined;
    const options = { pool: random.pick(pools), key: random.chance(0.5) ? `${id % 50}` : undefined, onProgress };
    const answer = await bus.request("work", { id, text, steps: onProgress ? 3 : 0 }, options);
    const isRight = answer === text && parts.join() === (onProgress ? "0,1,2" : "");
    books.outcome[id]! |= b.ANSWERED | (isRight ? 0 : b.WRONG);
    if (!isRight) say({ is: "broken", what: `request ${id} of the stdio bus got "${parts}" and "${answer}"` });
  }
}

async function go(): Promise<void> {
  const worker = [join(import.meta.dir, "stdio-worker.ts"), folder!];
  bus = await StdioBus.start({
    pools: pools.map((id) => {
      return {
        id,
        command: process.execPath,
        args: worker,
        env: JSON.parse(env!) as Record<string, string>,
        ready: true,
      };
    }),
  });
  say({ is: "open" });
}

process.on("disconnect", () => process.exit(0));
process.on("message", async (order: string) => {
  if (order === "go") await go();
  if (order === "resume") {
    isStill = false;
    running = Array.from({ length: CALLERS }, call);
  }
  if (order === "still") {
    isStill = true;
    await Promise.all(running);
    say({ is: "still" });
  }
  if (order === "count") {
    const workers = await Promise.all(pools.map((pool) => bus.request<Counted>("count", null, { pool })));
    say({ is: "counts", own: count(), workers });
  }
  if (order !== "end") return;
  await bus.close();
  process.exit(0);
});
say({ is: "loaded" });
