/**
 * The items of a stream:
 *
 *     u32 length of the message, top bit: it is the failure that ends the stream │ message of clone.ts
 */

import { PayloadTooLargeError } from "../errors.ts";
import { decodeValues, encodeValues, readU32, writeU32 } from "./clone.ts";
import { errorOf, type Failure } from "./failure.ts";

const PREFIX = 4;
const IS_FAILURE = 0x8000_0000;

/** Encodes an item, or the failure that ends the stream. @throws `NOT_CLONEABLE`, {@link PayloadTooLargeError} */
export function encodeItem(item: unknown, name: string, limit: number, isFailure = false): Uint8Array {
  let frame = new Uint8Array(0);
  encodeValues(
    [item],
    () => `An item of ${name}`,
    (bytes) => {
      if (bytes > limit) throw new PayloadTooLargeError("item", bytes, limit, true);
      frame = Buffer.allocUnsafe(PREFIX + bytes);
      writeU32(frame, bytes + (isFailure ? IS_FAILURE : 0));
      return frame.subarray(PREFIX);
    },
  );
  return frame;
}

/** Yields the items of a stream; throws its failure. Leaving the loop cancels the stream. */
export async function* decodeItems(chunks: AsyncIterable<Uint8Array>, limit: number): AsyncGenerator<unknown, void> {
  let rest: Uint8Array[] = [];
  let have = 0;
  for await (const chunk of chunks) {
    rest.push(chunk);
    have += chunk.length;
    if (have < wantedOf(rest[0]!, limit)) continue;
    let bytes = rest.length === 1 ? rest[0]! : Bun.concatArrayBuffers(rest, Infinity, true);
    for (let wanted = wantedOf(bytes, limit); wanted <= bytes.length; wanted = wantedOf(bytes, limit)) {
      const isFailure = readU32(bytes, 0) >= IS_FAILURE;
      const [item] = decodeValues(bytes.subarray(PREFIX, wanted));
      if (isFailure) throw errorOf(item as Failure);
      bytes = bytes.subarray(wanted);
      yield item;
    }
    rest = bytes.length > 0 ? [bytes] : [];
    have = bytes.length;
  }
}

/** Returns the length of the frame that starts with `bytes`; of a shorter beginning, the length of its prefix. */
function wantedOf(bytes: Uint8Array, limit: number): number {
  if (bytes.length < PREFIX) return PREFIX;
  const length = readU32(bytes, 0) % IS_FAILURE;
  if (length > limit) throw new PayloadTooLargeError("item", length, limit, true);
  return PREFIX + length;
}
