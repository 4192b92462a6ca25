/**
 * Where items meet the bus: the only file that knows how a stream of bytes travels.
 *
 * The bus collects bodies. Once it streams them, `sendItems` gives `chunks` to `bus.request` as the body, `responseChunks`
 * returns `response.chunks()`, `requestChunks` `request.chunks()`, `answerItems` `{ contentType, body: chunks }`; nothing
 * else changes. Chunks must be private copies: a reader keeps what is not a whole frame yet.
 */

import type { RequestOptions, SlotBus } from "../bus/bus.ts";
import type { Answerable, WorkerRequest } from "../bus/request.ts";

/** What a client reads of a response. */
export interface Reply {
  readonly status: number;
  readonly contentType: string;
  readonly body: Uint8Array;
}

/** Sends a request whose body is a stream. */
export async function sendItems(
  bus: SlotBus,
  path: string,
  headers: [string, string][],
  chunks: AsyncIterable<Uint8Array>,
  options: RequestOptions | undefined,
): Promise<Reply> {
  const response = await bus.fetch(path, { ...options, method: "POST", headers, body: streamOf(chunks) });
  return {
    status: response.status,
    contentType: response.headers.get("content-type") ?? "",
    body: await response.bytes(),
  };
}

export async function* responseChunks(reply: Reply): AsyncGenerator<Uint8Array, void, void> {
  yield reply.body;
}

export async function* requestChunks(request: WorkerRequest): AsyncGenerator<Uint8Array, void, void> {
  yield request.body.slice();
}

/** An answer whose body is a stream. The bus ends `chunks` when the caller gives up or the stream grows too long. */
export function answerItems(contentType: string, chunks: AsyncIterable<Uint8Array>): Answerable {
  return new Response(streamOf(chunks), { headers: { "content-type": contentType } });
}

function streamOf(chunks: AsyncIterable<Uint8Array>): ReadableStream<Uint8Array> {
  const { from } = ReadableStream as unknown as { from(source: AsyncIterable<Uint8Array>): ReadableStream<Uint8Array> };
  return from.call(ReadableStream, chunks); // Bun's types leave it out
}
