/** Types for fast methods of `Buffer` that Bun and Node have but do not declare. */

export interface FastBuffer {
  compare(target: Uint8Array, targetStart: number, targetEnd: number, start: number, end: number): number;
  utf8Write(text: string, offset: number): number;
  asciiSlice(start: number, end: number): string;
  latin1Slice(start: number, end: number): string;
  utf8Slice(start: number, end: number): string;
}

/** The fast methods, for any `Uint8Array`: `fast.utf8Slice.call(bytes, start, end)`. */
export const fast = Buffer.prototype as unknown as FastBuffer;
