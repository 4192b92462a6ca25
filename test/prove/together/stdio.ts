/** A stdio bus and its workers. */

import { Actor } from "../actor.ts";
import { booksIn, placeOf, endAll, LONG_MS, type Part, type Site } from "./part.ts";
import type { HostReport } from "./host.ts";

export function stdioPart(site: Site): Part {
  const { folder, env } = placeOf(site, "stdio");
  const books = booksIn(folder);
  const args = [folder, JSON.stringify(env("stdio-worker"))];
  const host = new Actor<HostReport, string>(site.crew, "together/host.ts", args, env("host"));
  return {
    get done() {
      return books.next;
    },
    async start() {
      (await host.loaded()).tell("go");
      await host.hear("open", LONG_MS);
    },
    resume: () => host.tell("resume"),
    async still() {
      host.tell("still");
      await host.hear("still", LONG_MS);
    },
    async count() {
      host.tell("count");
      const { own, workers } = await host.hear("counts", LONG_MS);
      site.courses.host.add(books.next, own);
      site.courses["stdio-worker"].add(books.next, ...workers);
    },
    end: () => endAll(site, [[host, "end"]], books),
  };
}
