/** The thread of the contestant `worker`: sends ordered streams, one message per chunk, within its credit. */

import type { Introduction } from "../systems.ts";
import { type Credit, TRANSFERRED_BYTES, windowOf } from "./contestants.ts";
import { generate, makeChunk, type Order } from "./source.ts";

declare const self: Worker;

let credit = 0;
/** Buffers that the reader returned. */
let pool: ArrayBuffer[] = [];
let onCredit: (() => void) | null = null;

/** Copies the chunk into the buffer to transfer, because the source keeps its bytes. */
function send(chunk: Uint8Array): void {
  credit--;
  if (chunk.length < TRANSFERRED_BYTES) {
    self.postMessage(chunk);
    return;
  }
  const buffer = pool.pop() ?? new ArrayBuffer(chunk.length);
  new Uint8Array(buffer).set(chunk);
  self.postMessage(buffer, [buffer]);
}

async function waitForCredit(): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  onCredit = resolve;
  await promise;
  onCredit = null;
}

async function answer(order: Order): Promise<void> {
  credit = windowOf(order);
  pool = [];
  if (order.how === "generator") {
    for await (const chunk of generate(order)) {
      if (credit === 0) await waitForCredit();
      send(chunk);
    }
    return;
  }
  const chunk = makeChunk(order.chunk);
  for (let left = order.bytes; left > 0; left -= order.chunk) {
    if (credit === 0) await waitForCredit();
    send(chunk);
  }
}

self.onmessage = ({ data }: MessageEvent<Order | Credit>) => {
  if (typeof data !== "number" && !Array.isArray(data)) {
    void answer(data);
    return;
  }
  if (typeof data === "number") credit += data;
  else {
    credit += data.length;
    pool.push(...data);
  }
  onCredit?.();
};

self.postMessage({ pid: process.pid, isMainThread: Bun.isMainThread, address: "" } satisfies Introduction);
