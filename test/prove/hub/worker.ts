/**
 * `hub/worker.ts FOLDER LIFE`: waits for "go", responds to the requests of the hub's proof, publishes events, and records both.
 */

import { join } from "node:path";
import type { HubError } from "../../../src/errors.ts";
import { type HubHandler, HubWorker, sse } from "../../../src/hub/index.ts";
import { until } from "../../support.ts";
import { count, leakSome } from "../memory.ts";
import * as b from "../soak/request-books.ts";
import * as rooms from "./rooms.ts";

const [folder, life] = process.argv.slice(2);
const books = new b.RequestBooks(folder!);
const events = new b.RequestBooks(join(folder!, "events"));
const random = new b.Random(Number(life));
let worker: HubWorker;
let isStill = true;
let isPublishing = false;
let next = Number(life) * rooms.EVENTS;

function say(report: rooms.WorkerReport): void {
  process.send!(report);
}

function broken(what: string): void {
  say({ is: "broken", what: `worker ${process.pid}: ${what}` });
}

// ---- requests ---------------------------------------------------------------------------------------------------------

async function* pieces(body: Uint8Array): AsyncGenerator<Uint8Array> {
  const step = Math.max(1, Math.ceil(body.length / 8));
  for (let at = 0; at < body.length; at += step) {
    yield body.subarray(at, at + step);
    await Bun.sleep(8);
  }
}

/** The order in the query is from caller.ts. */
const work: HubHandler = async (request) => {
  const order = request.query.get("order")!.split(".").map(Number);
  const [id = -1, nonce = 0, sum = 0, bytes = 0, waitMs = 0, method = 0] = order;
  Atomics.add(books.runs, id, b.BEGAN);
  leakSome();
  if (request.id !== String(id)) broken(`request ${request.id} has the query of ${id}`);
  if (request.method !== rooms.METHODS[method]) broken(`request ${id} came as ${request.method}`);
  const body = await request.bytes(); // rejects if its client leaves
  if (body.length !== bytes) broken(`request ${id} has ${body.length} bytes of ${bytes}`);
  else if (b.checksum(body, nonce) !== sum) broken(`request ${id} has another request's body`);
  if (waitMs > 0) await Bun.sleep(waitMs);
  const out = new Uint8Array(body.length);
  b.transform(body, nonce, out);
  Atomics.add(books.runs, id, b.REPLIED);
  const { mode } = request.params;
  if (mode === "throw") throw new Error("wanted");
  return { headers: { tag: `${id}.${nonce}` }, body: mode === "stream" ? pieces(out) : out };
};

const bait: HubHandler = ({ path }) => {
  broken(`bytes of a body came as the request ${path}`);
  return null;
};

// ---- events -----------------------------------------------------------------------------------------------------------

/** Publishes one event. Returns its number. */
async function publish(room: rooms.Room): Promise<number> {
  const event = next++;
  const at = rooms.lifeOf(events);
  events.outcome[event] = rooms.ROOMS.indexOf(room);
  events.runs[event] = rooms.INTENT | (at * rooms.LIFE);
  const data = rooms.dataOf(event, room);
  const emitter = worker.emitter();
  try {
    await (room === "all" ? emitter.emit("proof", data) : emitter.ssePush(`/feed/${room}`, "proof", data));
    // If the hub was restarted meanwhile, it is not known which one has the event.
    if (rooms.lifeOf(events) === at) events.runs[event]! |= rooms.DONE;
  } catch (error) {
    if (!(error as HubError).mayHaveExecuted) events.runs[event]! |= rooms.REFUSED;
  }
  return event;
}

async function publishAlways(): Promise<void> {
  const last = next + rooms.EVENTS - 1_000;
  for (;;) {
    await Bun.sleep(random.below(100));
    if (isStill || next > last) continue;
    isPublishing = true;
    const room = random.pick(rooms.ROOMS);
    if (room !== "flood") await publish(room);
    isPublishing = false;
  }
}

async function go(): Promise<void> {
  worker = await HubWorker.start({
    name: rooms.WORKER,
    hub: rooms.HUB,
    reconnect: { initial: 20, max: 200 },
    watchdog: 1_000,
    routes: {
      "/work/:mode": Object.fromEntries(rooms.METHODS.map((method) => [method, work])),
      "/feed/:room": { GET: sse() },
      "/bait/*": bait,
    },
  });
  worker.on("retry", () => {}); // its hub is killed
  worker.on("handlerError", () => {}); // the client that left, and the error of the mode "throw"
  void publishAlways();
  say({ is: "open" });
}

process.on("disconnect", () => process.exit(0));
process.on("message", async (order: rooms.Order) => {
  if (order === "go") await go();
  if (order === "resume") isStill = false;
  if (order === "count") say(count());
  if (order === "still") {
    isStill = true;
    await until(() => !isPublishing, "the last publication has ended", 30_000);
    say({ is: "still" });
  }
  if (order === "mark") {
    const marks: number[] = [];
    for (const room of rooms.ROOMS) marks.push(await publish(room));
    say({ is: "marked", events: marks });
  }
  if (order === "flood") {
    while (!worker.connected) await Bun.sleep(5);
    for (let i = 0; i < rooms.FLOOD_EVENTS && worker.connected; i++) await publish("flood");
    say({ is: "flooded" });
  }
  if (order !== "end") return;
  await worker.close();
  process.exit(0);
});
say({ is: "loaded" });
