/** A client of a bus with requests and streams, and its worker: the programs of `soak`, without kills. */

import { join } from "node:path";
import { Actor } from "../actor.ts";
import type { Counted } from "../memory.ts";
import type { Order, Report } from "../soak/client.ts";
import { Times } from "../soak/times.ts";
import { booksIn, placeOf, endAll, LONG_MS, type Part, type Site } from "./part.ts";

export function busPart(site: Site, seed: number): Part & { readonly streams: number } {
  const { folder, env } = placeOf(site, "bus");
  const books = booksIn(folder);
  Times.create(folder);
  const control = Bun.listen({ unix: join(folder, "control"), socket: { data() {} } });
  const client = new Actor<Report, Order>(
    site.crew,
    "soak/client.ts",
    ["together", folder, String(seed), "Infinity"],
    env("client"),
  );
  const worker = new Actor<Counted & { ran: number }, "go" | "count" | "end">(
    site.crew,
    "soak/worker.ts",
    ["together", folder],
    env("worker"),
  );
  let memory: Counted;
  return {
    get done() {
      return books.next;
    },
    get streams() {
      return books.streams;
    },
    async start() {
      (await client.loaded()).tell({ do: "go" });
      await client.hear("open", LONG_MS);
      (await worker.loaded()).tell("go");
    },
    resume: () => client.tell({ do: "resume" }),
    async still() {
      client.tell({ do: "quiet", workers: 1, killed: 0, stays: true });
      const report = await client.hear("quiet", 3 * LONG_MS);
      for (const fault of report.faults) site.problem(`the client: ${fault}`);
      memory = report.memory;
    },
    async count() {
      worker.tell("count");
      site.courses.client.add(books.next, memory);
      const { ran, ...ofWorker } = await worker.hear("count", LONG_MS);
      site.courses.worker.add(ran, ofWorker);
    },
    async end() {
      await endAll(
        site,
        [
          [client, { do: "end" }],
          [worker, "end"],
        ],
        books,
      );
      control.stop(true);
    },
  };
}
