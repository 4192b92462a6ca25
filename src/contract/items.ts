/** Sequences of a method as frames and back, each item checked. */

import type { ContractMethod } from "./contract.ts";
import { readFailure } from "./failure.ts";
import { encodeFrame, FRAME, FrameReader } from "./frames.ts";
import type { Schema } from "./schema.ts";
import { check, decodeValue, encodeValue, type Side } from "./values.ts";

export type Sequence<T> = AsyncIterable<T> | Iterable<T>;

export function isSequence(value: unknown): value is Sequence<unknown> {
  return typeof value === "object" && value !== null && (Symbol.asyncIterator in value || Symbol.iterator in value);
}

const nothing = new Uint8Array(0);

/** One item as a frame. Throws {@link ValidationError}. */
function encodeItem(method: ContractMethod, side: Side, part: string, value: unknown): Uint8Array {
  if (value === undefined) return encodeFrame(FRAME.nothing, nothing);
  if (value instanceof Uint8Array) return encodeFrame(FRAME.bytes, value);
  return encodeFrame(FRAME.value, encodeValue(method, side, part, value, true));
}

/** The frames of all items, each checked first, and of their end. Throws what `source` throws. */
export async function* writeItems(
  method: ContractMethod,
  schema: Schema | null,
  side: Side,
  part: string,
  source: Sequence<unknown>,
): AsyncGenerator<Uint8Array, void, void> {
  for await (const item of source) {
    if (schema !== null) await check(method, schema, side, part, item, true);
    yield encodeItem(method, side, part, item);
  }
  yield encodeFrame(FRAME.end, nothing);
}

/** The items of a stream, each checked. Throws {@link ValidationError}, {@link ProtocolError}, and the failure in it. */
export async function* readItems(
  method: ContractMethod,
  schema: Schema | null,
  side: Side,
  part: string,
  chunks: AsyncIterable<Uint8Array>,
): AsyncGenerator<unknown, void, void> {
  const reader = new FrameReader();
  for await (const chunk of chunks) {
    reader.push(chunk);
    for (let frame = reader.next(); frame; frame = reader.next()) {
      if (frame.kind === FRAME.end) continue; // `finish` looks for it
      if (frame.kind === FRAME.failure) throw await readFailure(method, frame.payload, true);
      const item = readItem(method, side, part, frame.kind, frame.payload);
      if (schema === null) yield item;
      else yield await check(method, schema, side, part, item, true);
    }
  }
  reader.finish();
}

function readItem(method: ContractMethod, side: Side, part: string, kind: number, payload: Uint8Array): unknown {
  if (kind === FRAME.nothing) return undefined;
  if (kind === FRAME.bytes) return payload.slice();
  return decodeValue(method, side, part, payload, true);
}
