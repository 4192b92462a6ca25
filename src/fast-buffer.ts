/** Bun's and Node's fast paths of `Buffer`, which their types leave out. */

export interface FastBuffer {
  compare(target: Uint8Array, targetStart: number, targetEnd: number, start: number, end: number): number;
  utf8Write(text: string, offset: number): number;
  asciiSlice(start: number, end: number): string;
  latin1Slice(start: number, end: number): string;
  utf8Slice(start: number, end: number): string;
}

/** The methods themselves: `fast.utf8Slice.call(bytes, start, end)`. */
export const fast = Buffer.prototype as unknown as FastBuffer;
