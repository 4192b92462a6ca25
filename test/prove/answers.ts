/** Handlers of the proofs' workers: they respond as the path says and record what they run. */

import { type Answer, type Answerable, type WorkerRequest } from "../../src/index.ts";
import { BEGAN, type RequestBooks, checksum, REPLIED, transform } from "./soak/request-books.ts";

/** Order in a request, as {@link readOrder} returns it. */
export interface Order {
  id: number;
  nonce: number;
  waitMs: number;
}

function fail(text: string): never {
  process.stderr.write(`worker ${process.pid}: ${text}\n`);
  process.exit(9);
}

/** Reads the order and checks that the body belongs to it. */
export function readOrder(books: RequestBooks, request: WorkerRequest): Order {
  const [id = -1, nonce = 0, sum = 0, bytes = 0, waitMs = 0] = request.query.split(".").map(Number);
  Atomics.add(books.runs, id, BEGAN);
  if (request.id !== String(id)) fail(`request ${request.id} has the query of ${id}`);
  if (request.body.length !== bytes) fail(`request ${id} has ${request.body.length} bytes of ${bytes}`);
  if (checksum(request.body, nonce) !== sum) fail(`request ${id} has another request's body`);
  return { id, nonce, waitMs };
}

/** The only right response. */
export function answer(books: RequestBooks, request: WorkerRequest, { id, nonce }: Order, inPlace = false): Answer {
  const from = request.body;
  const body = inPlace ? request.reserve(from.length) : new Uint8Array(from.length);
  if (body.length === from.length) transform(from, nonce, body);
  Atomics.add(books.runs, id, REPLIED);
  return { body, headers: { tag: `${id}.${nonce}` } };
}

function gone(request: WorkerRequest): Promise<void> {
  const { signal } = request;
  if (signal.aborted) return Promise.resolve();
  return new Promise((resolve) => signal.addEventListener("abort", () => resolve(), { once: true }));
}

async function later(books: RequestBooks, request: WorkerRequest, order: Order): Promise<Answer> {
  await Bun.sleep(order.waitMs);
  return answer(books, request, order);
}

async function refuse(order: Order): Promise<never> {
  await Bun.sleep(order.waitMs);
  throw new Error(`refused ${order.id}.${order.nonce}`);
}

/** Responds only after the caller has given up. */
async function never(request: WorkerRequest, order: Order): Promise<null> {
  await gone(request);
  await Bun.sleep(order.waitMs);
  return null;
}

/** The handler of a worker with an event loop. */
export function handle(books: RequestBooks, request: WorkerRequest): Answerable | void | Promise<Answerable | void> {
  const order = readOrder(books, request);
  switch (request.path) {
    case "async":
    case "hold":
      return later(books, request, order);
    case "late": {
      const respond = request.defer();
      setTimeout(() => respond(answer(books, request, order)), order.waitMs);
      return;
    }
    case "never":
      return never(request, order);
    case "throw":
      throw new Error(`refused ${order.id}.${order.nonce}`);
    case "reject":
      return refuse(order);
    case "block":
      Bun.sleepSync(order.waitMs);
      return answer(books, request, order);
    case "respond":
      request.respond(answer(books, request, order));
      if (request.respond("again") !== "duplicate") fail(`request ${order.id} took two answers`);
      return;
    default:
      return answer(books, request, order, request.path === "reserve");
  }
}
