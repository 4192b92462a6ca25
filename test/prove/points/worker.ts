/** `points/worker.ts NAME BOOKS worker|blocker`: waits for "go", answers as the path says, writes down what it runs. */

import { type Answer, SlotbusError, SlotWorker, type WorkerRequest } from "../../../src/index.ts";
import { BEGAN, Books, checksum, REPLIED, transform } from "../soak/books.ts";
import { broken, LIMIT, type Order, say } from "./talk.ts";

const [name, directory, role] = process.argv.slice(2);
const blocks = role === "blocker";
const books = new Books(directory!);
/** A blocking handler looks so often whether its caller has given up, so many times at most. */
const LOOK_MS = 2;
const LOOKS = 100;
const BROKEN_AFTER = 100_000;

interface Job {
  id: number;
  nonce: number;
  waitMs: number;
  body: Uint8Array;
}

/** Reads the request and checks that the body belongs to it. */
function read(request: WorkerRequest): Job {
  const [id = -1, nonce = 0, sum = 0, bytes = 0, waitMs = 0] = request.query.split(".").map(Number);
  Atomics.add(books.runs, id, BEGAN);
  if (request.streams) return { id, nonce, waitMs, body: new Uint8Array(0) };
  const { body } = request;
  if (request.id !== String(id)) broken(`request ${request.id} has the query of ${id}`);
  if (body.length !== bytes) broken(`request ${id} has ${body.length} bytes of ${bytes}`);
  else if (checksum(body, nonce) !== sum) broken(`request ${id} has another request's body`);
  return { id, nonce, waitMs, body };
}

function memory(request: WorkerRequest, bytes: number): Uint8Array {
  if (request.path === "reserve") return request.reserve(bytes);
  if (request.path === "far") return request.reserve(LIMIT).subarray(-bytes);
  return new Uint8Array(bytes);
}

function answer(request: WorkerRequest, { id, nonce, body: from }: Job): Answer {
  const body = memory(request, from.length);
  if (body.length === from.length) transform(from, nonce, body);
  Atomics.add(books.runs, id, REPLIED);
  return { body, headers: { tag: `${id}.${nonce}` } };
}

/** What comes goes back, changed; in the middle of it the source of a "broken" one fails. */
async function* pipe(request: WorkerRequest, { id, nonce }: Job): AsyncGenerator<Uint8Array> {
  let bytes = 0;
  for await (const chunk of request.incoming.chunks()) {
    bytes += chunk.length;
    if (request.path === "broken" && bytes > BROKEN_AFTER) throw new Error(`refused ${id}.${nonce}`);
    yield chunk.map((byte) => byte ^ (nonce & 255));
  }
}

/** Once the caller has given up. */
async function late(request: WorkerRequest, job: Job): Promise<Answer> {
  const { signal } = request;
  if (!signal.aborted) await new Promise<unknown>((done) => signal.addEventListener("abort", done, { once: true }));
  await Bun.sleep(job.waitMs);
  return answer(request, job);
}

async function later(request: WorkerRequest, job: Job): Promise<Answer> {
  await Bun.sleep(job.waitMs);
  return answer(request, job);
}

function stream(request: WorkerRequest, job: Job): Answer {
  Atomics.add(books.runs, job.id, REPLIED);
  return { body: pipe(request, job), headers: { tag: `${job.id}.${job.nonce}` } };
}

/** Answers before it returns. */
function handleNow(request: WorkerRequest): Answer {
  const job = read(request);
  if (request.path === "throw" || request.streams) throw new Error(`refused ${job.id}.${job.nonce}`);
  if (request.path === "late") for (let n = 0; n < LOOKS && !request.aborted; n++) Bun.sleepSync(LOOK_MS);
  if (job.waitMs > 0) Bun.sleepSync(job.waitMs);
  return answer(request, job);
}

function handle(request: WorkerRequest): Answer | Promise<Answer> {
  if (request.path === "late") return late(request, read(request));
  if (request.path === "later") return later(request, read(request));
  if (request.streams) return stream(request, read(request));
  return handleNow(request);
}

/** A start that fails has failed with one typed error, and the next one succeeds. */
async function open(): Promise<SlotWorker> {
  for (let attempt = 0; ; attempt++) {
    try {
      return await SlotWorker.open({ name: name!, timeout: 60_000, reconnect: { initial: 2, max: 20 } });
    } catch (error) {
      if (attempt > 0 || !(error instanceof SlotbusError)) throw error;
      say({ is: "refused", code: error.code });
    }
  }
}

let worker: SlotWorker;

async function start(): Promise<void> {
  worker = await open();
  say({ is: "attached" });
  if (blocks) setImmediate(() => worker.serveSync(handleNow));
  else worker.serve(handle);
}

process.on("disconnect", () => process.exit(0));
process.on("message", async (order: Order) => {
  try {
    if (order.do === "attach" || order.do === "end") await worker.close({ timeout: 60_000 });
    if (order.do === "end") process.exit(0);
    await start();
  } catch (error) {
    broken(`a worker, told to ${order.do}: ${Bun.inspect(error)}`);
  }
});
say({ is: "loaded" });
