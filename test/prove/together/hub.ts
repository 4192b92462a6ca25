/** A hub, its worker, and this process with clients of HTTP and of event streams: the programs of `hub`, without kills. */

import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { until } from "../../support.ts";
import { Actor } from "../actor.ts";
import { Caller, type Stage } from "../hub/caller.ts";
import { EventAudit } from "../hub/event-audit.ts";
import { EVENTS, type HubReport, type Order, ROOMS, SSE, type WorkerReport } from "../hub/rooms.ts";
import { Places, Subscriber } from "../hub/subscriber.ts";
import { count, leakSome } from "../memory.ts";
import { Random, RequestBooks } from "../soak/request-books.ts";
import { booksIn, placeOf, endAll, LONG_MS, type Part, type Site } from "./part.ts";

const CALLERS = 12;

export function hubPart(site: Site, seed: number): Part {
  const { folder, env } = placeOf(site, "hub");
  const { problem } = site;
  const random = new Random(seed);
  const books = booksIn(folder);
  mkdirSync(join(folder, "events"));
  const events = RequestBooks.create(join(folder, "events"), EVENTS);
  const hub = new Actor<HubReport, Order>(site.crew, "hub/server.ts", [], env("hub"));
  const worker = new Actor<WorkerReport, Order>(site.crew, "hub/worker.ts", [folder, "0"], env("hub-worker"));
  const stage: Stage = {
    port: 0,
    hubs: 1,
    hubKills: 0,
    hubEnds: 0,
    isEnding: false,
    workerKilledAt: -Infinity,
    isPaused: true,
    isOver: false,
    isCalm: true,
    books,
    problem,
    eventProblem: (text) => {
      site.sums.lost++;
      problem(text);
    },
  };
  const places = new Places();
  const judge = new EventAudit(events, places, stage.eventProblem);
  const callers = Array.from({ length: CALLERS }, () => {
    return new Caller(stage, random.next(), false, () => leakSome(site.leakOf("visitors")));
  });
  const subscribers = ROOMS.flatMap((room) =>
    [1, 2].map(() => new Subscriber(stage, events, places, room, random.next())),
  );
  let running: Promise<void>[] = [];
  const reach = (what: string, condition: () => boolean): Promise<void> => until(condition, what, LONG_MS);
  const mark = async (): Promise<number[]> => {
    worker.tell("mark");
    return (await worker.hear("marked", LONG_MS)).events;
  };
  return {
    get done() {
      return books.next;
    },
    async start() {
      (await hub.loaded()).tell("go");
      stage.port = (await hub.hear("open", LONG_MS)).port;
      (await worker.loaded()).tell("go");
      await worker.hear("open", LONG_MS);
      running = [...callers, ...subscribers].map((client) => client.run());
      await reach("every subscriber is connected", () => subscribers.every((one) => one.isOpen));
      for (let i = 0; i < SSE.maxReplay; i++) await mark(); // from now on the hub forgets an event for each new one
    },
    resume() {
      stage.isPaused = false;
      worker.tell("resume");
    },
    async still() {
      stage.isPaused = true;
      await reach("every request to the hub has settled", () => callers.every(({ state }) => state === "idle"));
      worker.tell("still");
      await worker.hear("still", LONG_MS);
      await judge.settle(mark, reach, 1, subscribers);
    },
    async count() {
      for (const [name, actor] of [
        ["hub", hub],
        ["hub-worker", worker],
      ] as const) {
        actor.tell("count");
        site.courses[name].add(books.next, await (actor as typeof hub).hear("count", LONG_MS));
      }
      site.courses.visitors.add(books.next, count());
    },
    async end() {
      stage.isOver = true;
      for (const subscriber of subscribers) subscriber.end();
      await Promise.all(running);
      await endAll(
        site,
        [
          [worker, "end"],
          [hub, "end"],
        ],
        books,
      );
    },
  };
}
