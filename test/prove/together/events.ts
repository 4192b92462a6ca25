/** A fleet with one publisher and two subscribers, one of them too slow: the programs of `fleet-soak`, without kills. */

import { until } from "../../support.ts";
import { Actor } from "../actor.ts";
import { RingAudit } from "../fleet-soak/audit.ts";
import { FleetBooks } from "../fleet-soak/fleet-books.ts";
import type { Order, Report } from "../fleet-soak/member.ts";
import { FIRST_BUS, RINGS } from "../fleet-soak/payloads.ts";
import { placeOf, endAll, LONG_MS, type Part, type Process, type Site } from "./part.ts";

const rings = [...RINGS.keys()];
const ORDERS: Partial<Record<Process, Order[]>> = {
  publisher: [{ do: "write", rings, burst: 12, pauseMs: 3 }],
  subscriber: rings.map((ring) => ({ do: "read", ring, way: "loop", slowMs: 0, queue: 4_096 })),
  "slow-subscriber": rings.map((ring) => {
    const bus = ring < FIRST_BUS ? {} : { filter: ring - FIRST_BUS, queue: 16, policy: "drop-oldest" as const };
    return { do: "read", ring, way: ring % 2 ? "poll" : "loop", slowMs: 4, ...bus };
  }),
};

export function eventsPart(site: Site): Part & { readonly lost: number } {
  const { folder, env } = placeOf(site, "events");
  const books = FleetBooks.create(folder, { lives: 8, subscribers: 16, tenures: 8 });
  const members = (Object.keys(ORDERS) as Process[]).map((name) => {
    const life = books.newLife(name === "publisher" ? "writer" : "reader");
    const args = ["together", folder, String(life)];
    return { name, life, actor: new Actor<Report, Order>(site.crew, "fleet-soak/member.ts", args, env(name)) };
  });
  let epoch = 0;
  const published = (ring: number): number => books.published(epoch, ring).done;
  const sum = (field: "received" | "overwritten" | "dropped", life?: number): number => {
    const all = Array.from({ length: books.subscribers }, (_, one) => one);
    const own = all.filter((one) => life === undefined || books.noted(one, "life") === life);
    return own.reduce((total, one) => total + books.noted(one, field), 0);
  };
  return {
    get done() {
      return rings.reduce((total, ring) => total + published(ring), 0);
    },
    get lost() {
      return sum("overwritten") + sum("dropped");
    },
    async start() {
      books.hurry = 2;
      for (const { actor } of members) {
        (await actor.loaded()).tell({ do: "join" });
        ({ epoch } = await actor.hear("joined", LONG_MS));
      }
      for (const { name, actor } of members) for (const order of ORDERS[name]!) actor.tell(order);
    },
    resume() {
      books.hurry = 0;
    },
    async still() {
      books.hurry = 2;
      for (const { actor } of members) {
        actor.tell({ do: "quiet" });
        await actor.hear("quiet", LONG_MS);
      }
      const isThere = (): boolean => {
        for (let one = 0; one < books.subscribers; one++)
          if (books.consumed(one) < published(books.noted(one, "ring"))) return false;
        return books.subscribers === 2 * rings.length;
      };
      await until(isThere, "every subscriber has each event, or knows that it lost it", LONG_MS);
    },
    async count() {
      const judge = new RingAudit(books, epoch, (what, fault) => {
        if (fault === "doubled") site.sums.doubled++;
        else site.sums[fault === "misdelivered" ? "wrong" : "lost"]++;
        site.problem(what);
      });
      for (const { name, life, actor } of members) {
        actor.tell({ do: "count" });
        const report = await actor.hear("count", LONG_MS);
        for (const reader of report.readers) judge.judgeReader(reader, published(reader.ring), false);
        site.courses[name].add(name === "publisher" ? this.done : sum("received", life), report);
      }
    },
    end: () =>
      endAll(
        site,
        members.map(({ actor }) => [actor, { do: "end" }] as const),
      ),
  };
}
