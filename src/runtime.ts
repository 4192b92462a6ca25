/** What the bus takes from Bun's globals, and what Node has instead. Importing this file calls nothing of Bun under Node. */

/** Whether this is Bun. Otherwise it is Node, or a program that has Node's modules. */
export const isBun = typeof Bun !== "undefined";

const node = process.getBuiltinModule;

/** Returns the value of a promise that is settled, and the promise itself otherwise; under Node always the promise. */
export const peek: <T>(promise: Promise<T>) => T | Promise<T> = isBun ? Bun.peek : (promise) => promise;

/** Returns "fulfilled", "rejected" or "pending"; under Node always "pending". */
export const peekStatus: (promise: Promise<unknown>) => "fulfilled" | "rejected" | "pending" = isBun
  ? Bun.peek.status
  : () => "pending";

/** Formats a value for people; text is quoted. */
export function inspect(value: unknown, options: { depth?: number } = {}): string {
  if (isBun) return Bun.inspect(value, options);
  return typeof value === "string" ? JSON.stringify(value) : node("node:util").inspect(value, options);
}

/** Returns one array with the bytes of all chunks. */
export function concat(chunks: readonly Uint8Array[]): Uint8Array {
  if (isBun) return Bun.concatArrayBuffers(chunks as Uint8Array[], Infinity, true);
  const joined = new Uint8Array(chunks.reduce((bytes, chunk) => bytes + chunk.length, 0));
  let at = 0;
  for (const chunk of chunks) {
    joined.set(chunk, at);
    at += chunk.length;
  }
  return joined;
}

/** Returns the SHA-256 in hexadecimal digits. */
export function sha256(content: string | Uint8Array): string {
  if (isBun) return new Bun.CryptoHasher("sha256").update(content).digest("hex"); // node:crypto takes 3 ms to load
  return node("node:crypto").createHash("sha256").update(content).digest("hex");
}
