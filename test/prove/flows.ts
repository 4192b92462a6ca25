/**
 * Streams of the proofs: bytes that show their stream and their place in it, the source that sends them, and the handler of
 * a worker that streams. Streams differ only in their offset into one pool of random bytes, so a check costs one comparison.
 */

import type { Answerable, StreamSource, WorkerRequest } from "../../src/index.ts";
import { same } from "../support.ts";
import { BEGAN, type Kind, KINDS, Random, REPLIED } from "./soak/request-books.ts";

/** Longest stream, in bytes. */
export const LONGEST = 2 * 2 ** 20;
/** Most bytes between a writer and its reader. */
export const RING = 262_144;
const STARTS = 2 ** 21 - 9;
const POOL_WORDS = (STARTS + 9 + LONGEST) / 4;
/** Most pieces between which a slow source sleeps; then it continues at full speed. */
const SLEEPS = 30;
/** Usual sizes of a piece, in bytes; the largest is larger than the ring. */
export const LARGEST_PIECE = 300_000;
const PIECES = [1, 7, 64, 1_000, 4_096, 65_536, 100_000, LARGEST_PIECE];
/** Most pieces of a stream, and of one stream in sixteen. */
const MOST_PIECES = 24;
const MANY_PIECES = 300;

let pool: Uint8Array | null = null;

function fill(): Uint8Array {
  const random = new Random(0x57_4e_a3);
  return new Uint8Array(Uint32Array.from({ length: POOL_WORDS }, () => random.next()).buffer);
}

/** Bytes from `at` to before `end` of the stream with this nonce. Read-only. */
export function piece(nonce: number, at: number, end: number): Uint8Array {
  pool ??= fill();
  const start = nonce % STARTS;
  return pool.subarray(start + at, start + end);
}

/** The nonce of the answer's stream. */
export function answerNonce(nonce: number): number {
  return Math.imul(nonce ^ 0x5bd1e995, 0x9e3779b1) >>> 0;
}

/** Checks the bytes of a stream as they arrive. */
export class Arrival {
  bytes = 0;
  /** First fault, or `null`. */
  wrong: string | null = null;
  readonly #nonce: number;
  readonly #length: number;

  constructor(nonce: number, length: number) {
    this.#nonce = nonce;
    this.#length = length;
  }

  add(chunk: Uint8Array): void {
    const end = this.bytes + chunk.length;
    if (end > this.#length) this.wrong ??= `${end} bytes of ${this.#length}`;
    else if (!same(chunk, piece(this.#nonce, this.bytes, end)))
      this.wrong ??= `other bytes between ${this.bytes} and ${end}`;
    this.bytes = end;
  }
}

/** A stream: its nonce, length and slowness, and the byte at which it fails; -1: never. */
export interface Stream {
  nonce: number;
  length: number;
  /** Longest sleep between two pieces, in ms. */
  pace: number;
  failAt: number;
  error: unknown;
}

/** Sources of this process: number of open sources, and bytes sent by all. */
export const sources = { open: 0, given: 0 };

async function sleepy(random: Random, pace: number, count: number): Promise<void> {
  if (pace > 0 && count < SLEEPS) await Bun.sleep(random.below(pace + 1));
}

export async function* generate({ nonce, length, pace, failAt, error }: Stream): AsyncGenerator<Uint8Array, void> {
  const random = new Random(nonce);
  const end = failAt < 0 ? length : failAt;
  const step = Math.max(random.pick(PIECES), Math.ceil(length / (nonce % 16 === 0 ? MANY_PIECES : MOST_PIECES)));
  sources.open++;
  try {
    for (let at = 0, count = 0; at < end; at += step, count++) {
      await sleepy(random, pace, count);
      const next = piece(nonce, at, Math.min(at + step, end));
      sources.given += next.length;
      yield next;
    }
    if (failAt >= 0) throw error;
  } finally {
    sources.open--;
  }
}

/** The source as a WHATWG stream that does nothing before its first read. */
export function asStream(generator: AsyncGenerator<Uint8Array, void>): ReadableStream<Uint8Array> {
  return new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        const { done, value } = await generator.next();
        if (done) controller.close();
        else controller.enqueue(value);
      },
      cancel: () => void generator.return(),
    },
    { highWaterMark: 0 },
  );
}

// ---- the worker -----------------------------------------------------------------------------------------------------

/** The request's query: what the handler must do. `leaveAt`: bytes after which it stops reading; -1: never. */
export interface FlowOrder {
  id: number;
  nonce: number;
  requestBytes: number;
  responseBytes: number;
  pace: number;
  failAt: number;
  leaveAt: number;
}

export function writeOrder(order: FlowOrder): string {
  const { id, nonce, requestBytes, responseBytes, pace, failAt, leaveAt } = order;
  return [id, nonce, requestBytes, responseBytes, pace, failAt, leaveAt].join("_");
}

function readOrder(query: string): FlowOrder {
  const numbers = query.split("_").map(Number);
  const [id = -1, nonce = 0, requestBytes = 0, responseBytes = 0, pace = 0, failAt = -1, leaveAt = -1] = numbers;
  return { id, nonce, requestBytes, responseBytes, pace, failAt, leaveAt };
}

function fail(text: string): never {
  process.stderr.write(`worker ${process.pid}: ${text}\n`);
  process.exit(9);
}

/** Whether a path is one of {@link KINDS}. */
export function isFlow(path: string): path is Kind {
  return KINDS.some((kind) => kind === path);
}

/** Reads and checks the request's body; returns at its end or where the handler leaves, or throws. */
async function* read(request: WorkerRequest, order: FlowOrder): AsyncGenerator<number, void> {
  const random = new Random(~order.nonce);
  const arrival = new Arrival(order.nonce, order.requestBytes);
  let count = 0;
  for await (const chunk of order.nonce % 3 === 0 ? request.incoming.stream() : request.incoming.chunks()) {
    arrival.add(chunk);
    if (arrival.wrong) fail(`request ${order.id}: ${arrival.wrong}`);
    yield chunk.length;
    if (order.leaveAt >= 0 && arrival.bytes >= order.leaveAt) return;
    await sleepy(random, order.pace, count++);
  }
  if (arrival.bytes !== order.requestBytes)
    fail(`request ${order.id} ended after ${arrival.bytes} bytes of ${order.requestBytes}`);
}

/** Echoes the bytes that arrive, without delay. */
async function* echo(request: WorkerRequest, order: FlowOrder, error: Error): AsyncGenerator<Uint8Array, void> {
  const nonce = answerNonce(order.nonce);
  let at = 0;
  sources.open++;
  try {
    for await (const bytes of read(request, order)) {
      const end = order.failAt < 0 ? at + bytes : Math.min(at + bytes, order.failAt);
      if (end > at) yield piece(nonce, at, end);
      if (end === order.failAt) throw error;
      at = end;
    }
    if (order.failAt >= 0) throw error;
  } finally {
    sources.open--;
  }
}

/** Records of what a handler runs. */
export interface Runs {
  readonly runs: Uint8Array;
}

async function upload(books: Runs, request: WorkerRequest, order: FlowOrder, tag: string): Promise<Answerable> {
  let bytes = 0;
  for await (const length of read(request, order)) bytes += length;
  if (order.failAt >= 0) throw new Error(`refused ${tag}`);
  Atomics.add(books.runs, order.id, REPLIED);
  return { body: String(bytes), headers: { tag } };
}

/** The handler of requests whose path is one of {@link KINDS}. */
export function handleFlow(books: Runs, request: WorkerRequest): Answerable | Promise<Answerable> {
  const order = readOrder(request.query);
  const { id, nonce, pace, failAt, responseBytes: length } = order;
  Atomics.add(books.runs, id, BEGAN);
  if (request.id !== String(id)) fail(`request ${request.id} has the query of ${id}`);
  if (request.streams !== (request.path !== "download")) fail(`request ${id} (${request.path}) lost its stream`);
  const tag = `${id}.${nonce}`;
  if (request.path === "upload") return upload(books, request, order, tag);
  const error = new Error(`refused ${tag}`);
  const body: AsyncGenerator<Uint8Array, void> =
    request.path === "echo"
      ? echo(request, order, error)
      : generate({ nonce: answerNonce(nonce), length, pace, failAt, error });
  Atomics.add(books.runs, id, REPLIED);
  const source: StreamSource = nonce % 5 === 0 ? asStream(body) : body;
  if (nonce % 7 === 0) return new Response(asStream(body), { headers: { tag } });
  return { body: source, headers: { tag } };
}
