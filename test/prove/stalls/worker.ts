/**
 * `stalls/worker.ts NAME BOOKS INDEX KIND CONCURRENCY`: waits for "go", then responds as the path says, and records in the
 * phases what it is doing. KIND: `async`; `once`, which does not attach again; `sync`, without an event loop.
 */

import { type Answerable, SlotWorker, type WorkerRequest } from "../../../src/index.ts";
import { mappings } from "../../support.ts";
import { answer, handle, type Order, readOrder } from "../answers.ts";
import { handleFlow, isFlow, sources } from "../flows.ts";
import { RequestBooks } from "../soak/request-books.ts";
import { Phases } from "./phases.ts";

const [name, directory, index, kind, concurrency] = process.argv.slice(2);
const self = Number(index);
const books = new RequestBooks(directory!);
const phases = new Phases(directory!);
let worker: SlotWorker | null = null;
/** Requests whose handlers wait for the gate. */
const held: { request: WorkerRequest; order: Order }[] = [];

async function open(): Promise<SlotWorker> {
  phases.set(self, "attaching");
  for (;;) {
    try {
      worker = await SlotWorker.open({
        name: name!,
        timeout: 60_000,
        concurrency: Number(concurrency),
        reconnect: kind === "async" ? { initial: 5, max: 50 } : false,
      });
      break;
    } catch (error) {
      if (!(error as { retryable?: boolean }).retryable) throw error;
    }
  }
  worker.on("disconnected", () => phases.set(self, "attaching"));
  worker.on("connected", () => phases.set(self, "serving"));
  phases.set(self, "serving");
  return worker;
}

/** Responds to all requests at the gate, before the event loop can notice the end of the client. */
function answerHeld(): void {
  for (const { request, order } of held.splice(0)) {
    const delivery = request.defer()(answer(books, request, order));
    phases.addAnswer(self, delivery === "late");
  }
}

/** Blocks until the gate opens, then responds to all requests at the gate. */
function waitAtGate(): void {
  while (!phases.isGateOpen(self)) Bun.sleepSync(1);
  answerHeld();
}

function block(request: WorkerRequest): void {
  held.push({ request, order: readOrder(books, request) });
  waitAtGate();
}

function serve(request: WorkerRequest): ReturnType<typeof handle> {
  if (request.path === "gate") {
    request.defer();
    return void held.push({ request, order: readOrder(books, request) });
  }
  if (isFlow(request.path)) return handleFlow(books, request);
  return request.path === "gate-block" ? block(request) : handle(books, request);
}

/** The same without an event loop: what would be answered later is answered after a blocking wait. */
function serveBlocking(request: WorkerRequest): Exclude<Answerable, Response> {
  phases.set(self, "sync handler");
  try {
    return answerBlocking(request);
  } finally {
    phases.set(self, "sync wait");
  }
}

function answerBlocking(request: WorkerRequest): Exclude<Answerable, Response> {
  if (request.path === "gate-block") {
    block(request);
    return null;
  }
  const order = readOrder(books, request);
  if (request.path === "throw" || request.path === "reject") throw new Error(`refused ${order.id}.${order.nonce}`);
  if (request.path === "never") {
    const end = performance.now() + 60;
    while (!request.aborted && performance.now() < end) Bun.sleepSync(1);
  } else if (request.path !== "sync" && request.path !== "reserve" && request.path !== "respond") {
    Bun.sleepSync(order.waitMs);
  }
  return answer(books, request, order, request.path === "reserve");
}

async function go(): Promise<void> {
  await open();
  if (kind !== "sync") return void worker!.serve(serve);
  const parent = process.ppid;
  while (process.ppid === parent) {
    phases.set(self, "sync wait");
    worker!.serveSync(serveBlocking);
    await open();
  }
  process.exit(0);
}

/** Leaves in good order, and comes back. */
async function again(): Promise<void> {
  phases.set(self, "closing");
  await worker!.close();
  phases.set(self, "closed");
  await open();
  worker!.serve(serve);
}

process.on("disconnect", () => process.exit(0));
process.on("message", async (order) => {
  if (order === "go") await go();
  else if (order === "again") await again();
  else if (order === "close") {
    const closed = worker!.close({ timeout: 60_000 });
    phases.set(self, "closing");
    waitAtGate();
    await closed;
    phases.set(self, "closed");
  } else if (order === "count") process.send!({ is: "count", maps: mappings(), given: sources.given });
  if (order === "again") process.send!({ is: "again" });
});
process.send!({ is: "loaded" });
