/**
 * A worker over NATS, which the checks kill and stop. Prints "ready" when it is attached. With LEDGER, it appends the number of each
 * request that its handler gets to that file, before anything else. Ends with its input.
 *
 *     NATS_URL=nats://… bun nats-worker.ts NAME [CREDENTIALS as JSON]
 */

import { appendFileSync } from "node:fs";
import { SlotWorker } from "../../src/index.ts";
import { nats } from "../../src/nats/index.ts";
import { chunksOf, hasher, hashOf } from "./bytes.ts";

const [name = "", options = "{}"] = process.argv.slice(2);
const ledger = process.env["LEDGER"];
const via = nats({ servers: process.env["NATS_URL"]!, ...(JSON.parse(options) as object) });
const worker = await SlotWorker.open({ name, via, timeout: Infinity });
let aborts = 0;
worker.serve(async (request) => {
  const number = Number(request.query);
  if (request.path === "/echo") return request.body;
  if (request.path === "/pid") return String(process.pid);
  if (request.path === "/aborts") return String(aborts);
  if (request.path === "/hash") return hashOf(request.incoming.chunks());
  if (request.path === "/give") return chunksOf(number, hasher());
  if (request.path === "/whole") return new Uint8Array(number).fill(7);
  if (request.path === "/run") {
    if (ledger) appendFileSync(ledger, `${number}\n`);
    await Bun.sleep(number % 5);
    return String(number);
  }
  if (request.path === "/endless") {
    return (async function* () {
      for (;;) yield new Uint8Array(65_536);
    })();
  }
  if (request.path === "/hang") {
    request.signal.addEventListener("abort", () => aborts++);
    await Bun.sleep(number || 3_600_000);
    return "woke";
  }
  throw new Error(`no handler of ${request.path}`);
});
process.stdout.write("ready\n");
for await (const _ of Bun.stdin.stream()); // until its parent ends it
await worker.close({ timeout: 0 });
process.exit(0);
