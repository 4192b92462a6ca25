/** `sockets/worker.ts FOLDER LIFE`: handles the messages of the proof of WebSockets, records each, and publishes if it is asked. */

import { join } from "node:path";
import { HubWorker, ws } from "../../../src/hub/index.ts";
import * as b from "../soak/request-books.ts";
import { HUB, LIFE, type Order, TOPIC, WORKER, type WorkerReport } from "./names.ts";

const [folder, life] = process.argv.slice(2);
const books = new b.RequestBooks(folder!);
/** Per client: the process that handles a message of it, the number of its last message + 1, and its connection. */
const clients = new Int32Array(Bun.mmap(join(folder!, "clients"), { shared: true }).buffer);
const random = new b.Random(Number(life));
let worker: HubWorker;

function say(report: WorkerReport): void {
  process.send!(report);
}

function broken(what: string): void {
  say({ is: "broken", what: `worker ${process.pid}: ${what}` });
}

/**
 * Records that a message begins. A connection has messages with rising numbers. A message of an earlier connection, whose hub
 * process was killed, may still run.
 */
function begin(index: number, id: number, connection: number): void {
  const isSame = Atomics.exchange(clients, 3 * index + 2, connection) === connection;
  const before = Atomics.exchange(clients, 3 * index, process.pid);
  if (isSame && before !== 0) say({ is: "overlap", pid: before, client: index });
  const last = Atomics.exchange(clients, 3 * index + 1, id + 1);
  if (isSame && last > id) broken(`client ${index}: message ${id} came after ${last - 1}`);
  Atomics.add(books.runs, id, b.BEGAN);
}

function finish(index: number, id: number, connection: number): void {
  Atomics.add(books.runs, id, b.REPLIED);
  if (Atomics.load(clients, 3 * index + 2) === connection) Atomics.store(clients, 3 * index, 0);
}

async function go(): Promise<void> {
  worker = await HubWorker.start({
    name: WORKER,
    hub: HUB,
    reconnect: { initial: 20, max: 200 },
    routes: {
      "/chat/:index": ws({
        open(socket) {
          socket.subscribe(TOPIC);
          socket.data = { index: Number(socket.params["index"]) };
          socket.send(`id ${socket.id}`);
        },
        async message(socket, message) {
          const { index } = socket.data as { index: number };
          const connection = Number(Bun.hash.crc32(socket.id)) | 0;
          const [id = -1, waitMs = 0] = Buffer.from(message as string)
            .toString()
            .split(" ")
            .map(Number);
          if (String(index) !== socket.params["index"])
            broken(`a message of ${socket.params["index"]} has the data of ${index}`);
          begin(index, id, connection);
          if (waitMs > 0) await Bun.sleep(waitMs);
          socket.send(typeof message === "string" ? `reply ${id}` : Buffer.from(`reply ${id}`));
          finish(index, id, connection);
        },
        lost: (socket) => socket.send("lost"),
      }),
    },
  });
  worker.on("retry", () => {}); // its hub process ends
  say({ is: "open" });
}

async function publishAlways(): Promise<void> {
  for (let first = Number(life) * LIFE, n = first; ; await Bun.sleep(random.below(40))) {
    try {
      await worker.sockets.publish(TOPIC, `published ${n++}`);
    } catch {
      n = first += LIFE / 100; // not known whether it has arrived
    }
  }
}

process.on("disconnect", () => process.exit(0));
process.on("message", async (order: Order) => {
  if (order === "go") await go();
  if (order === "publish") void publishAlways();
  if (order !== "end") return;
  await worker.close();
  process.exit(0);
});
say({ is: "loaded" });
