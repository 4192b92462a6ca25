/** Long bodies that differ at every place, and their hashes. */

const CHUNK = 65_536;

/** Yields `bytes` bytes in chunks that start with their place. `seen` gets every chunk before it is sent. */
export function* chunksOf(bytes: number, seen: Bun.CryptoHasher): Generator<Uint8Array> {
  const chunk = new Uint8Array(CHUNK).map((_, at) => (at * 31 + (at >> 8)) & 255);
  const number = new DataView(chunk.buffer);
  for (let sent = 0; sent < bytes; sent += CHUNK) {
    number.setFloat64(0, sent);
    const part = chunk.subarray(0, Math.min(CHUNK, bytes - sent));
    seen.update(part);
    yield part.slice();
  }
}

export const hasher = (): Bun.CryptoHasher => new Bun.CryptoHasher("sha256");

/** Resolves to the hash and the length of a body. */
export async function hashOf(chunks: AsyncIterable<Uint8Array>): Promise<string> {
  const hash = hasher();
  let bytes = 0;
  for await (const chunk of chunks) {
    hash.update(chunk);
    bytes += chunk.length;
  }
  return `${hash.digest("hex")} ${bytes}`;
}
