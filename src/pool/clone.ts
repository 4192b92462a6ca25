/**
 * Values on their way between the processes of a pool, by structured clone. Large buffers stand beside the clone, which would
 * copy them several times:
 *
 *     u32 length of the clone, top bit: buffers follow │ clone │ (padding to 8 │ buffer) …
 */

import { deserialize, serialize } from "bun:jsc";
import { shown } from "../check.ts";
import { SlotbusError } from "../errors.ts";

/** Buffers from this size on stand beside the clone, in bytes. */
const LARGE_BYTES = 16_384;
const HAS_BUFFERS = 0x8000_0000;
const PREFIX = 4;

/** Constructors by the tag of their objects. */
const kinds: Readonly<Record<string, new (buffer: ArrayBuffer) => unknown>> = {
  DataView,
  Uint8Array,
  Uint8ClampedArray,
  Int8Array,
  Uint16Array,
  Int16Array,
  Uint32Array,
  Int32Array,
  Float16Array,
  Float32Array,
  Float64Array,
  BigUint64Array,
  BigInt64Array,
};

/** Place, kind and size in bytes of a buffer beside the clone. */
type Note = [index: number, kind: string, bytes: number];

const allocate = (bytes: number): Uint8Array => Buffer.allocUnsafe(bytes);
/** Copies bytes into memory of their own; the method of a `Buffer` does not. */
const copy = (bytes: Uint8Array, from: number, to: number): Uint8Array<ArrayBuffer> =>
  Uint8Array.prototype.slice.call(bytes, from, to) as Uint8Array<ArrayBuffer>;
const aligned = (bytes: number): number => (bytes + 7) & ~7;

function isLarge(value: unknown): value is ArrayBuffer | ArrayBufferView<ArrayBuffer> {
  return (value instanceof ArrayBuffer || ArrayBuffer.isView(value)) && value.byteLength >= LARGE_BYTES;
}

function viewOf(value: ArrayBuffer | ArrayBufferView<ArrayBuffer>): Uint8Array {
  if (value instanceof ArrayBuffer) return new Uint8Array(value);
  return new Uint8Array(value.buffer, value.byteOffset, value.byteLength);
}

/** Returns the large buffers among `values` by their index. Views that share memory stay in the clone, where they share it. */
function largeOf(values: readonly unknown[]): Map<number, Uint8Array> {
  const found = new Map<number, Uint8Array>();
  const memory = new Set<unknown>();
  for (const [index, value] of values.entries()) {
    if (!isLarge(value)) continue;
    const view = viewOf(value);
    if (memory.has(view.buffer)) return new Map();
    memory.add(view.buffer);
    found.set(index, view);
  }
  return found;
}

function clone(value: unknown, values: readonly unknown[], what: (index: number) => string): Uint8Array {
  try {
    return serialize(value, { binaryType: "nodebuffer" });
  } catch (cause) {
    if (!(cause instanceof DOMException)) throw cause; // a getter threw
    const index = values.findIndex((one) => !isCloneable(one));
    const hint = "Send plain data, without functions, promises, streams and symbols.";
    const message = `${what(Math.max(0, index))} cannot be copied to another process: ${shown(values[index])}.`;
    throw new SlotbusError("NOT_CLONEABLE", message, { hint, cause });
  }
}

/** Whether structured clone accepts a value. */
export function isCloneable(value: unknown): boolean {
  try {
    serialize(value);
    return true;
  } catch {
    return false;
  }
}

/**
 * Encodes values into memory of `reserve`. `what` names the value with an index in errors.
 * @throws `NOT_CLONEABLE`; the error of a getter.
 */
export function encodeValues(
  values: readonly unknown[],
  what: (index: number) => string,
  reserve: (bytes: number) => Uint8Array = allocate,
): Uint8Array {
  const large = values.some(isLarge) ? largeOf(values) : null;
  if (!large?.size) {
    const cloned = clone(values, values, what);
    const bytes = reserve(PREFIX + cloned.length);
    writeU32(bytes, cloned.length);
    bytes.set(cloned, PREFIX);
    return bytes;
  }
  const notes = [...large].map(([index, { length }]): Note => [index, tagOf(values[index]), length]);
  const rest = values.map((value, index) => (large.has(index) ? null : value));
  const cloned = clone([rest, notes], rest, what);
  let at = aligned(PREFIX + cloned.length);
  const bytes = reserve(notes.reduce((sum, [, , length]) => sum + aligned(length), at));
  writeU32(bytes, cloned.length + HAS_BUFFERS);
  bytes.set(cloned, PREFIX);
  for (const view of large.values()) {
    bytes.set(view, at);
    at += aligned(view.length);
  }
  return bytes;
}

/** Decodes what {@link encodeValues} has encoded. `isShared`: another process may change `bytes` meanwhile. @throws `PROTOCOL` */
export function decodeValues(bytes: Uint8Array, isShared = false): unknown[] {
  const word = bytes.length < PREFIX ? 0 : readU32(bytes, 0);
  const end = PREFIX + (word % HAS_BUFFERS);
  if (word === 0 || end > bytes.length) throw malformed();
  const cloned = isShared ? copy(bytes, PREFIX, end) : bytes.subarray(PREFIX, end);
  const value = read(cloned);
  if (word < HAS_BUFFERS) return value;
  const [values, notes] = value as [unknown[], Note[]];
  let at = aligned(end);
  for (const [index, kind, length] of notes) {
    const buffer = copy(bytes, at, at + length).buffer;
    if (buffer.byteLength !== length) throw malformed();
    const Kind = Object.hasOwn(kinds, kind) ? kinds[kind]! : null;
    values[index] = Kind ? new Kind(buffer) : buffer;
    at += aligned(length);
  }
  return values;
}

function read(cloned: Uint8Array): unknown[] {
  try {
    return deserialize(cloned as Uint8Array<ArrayBuffer>) as unknown[];
  } catch (cause) {
    throw malformed(cause);
  }
}

function malformed(cause?: unknown): SlotbusError {
  const hint = "Run all processes of the pool with the same version of Bun and slotbus.";
  return new SlotbusError("PROTOCOL", "A message of the pool is malformed.", { hint, cause, mayHaveExecuted: true });
}

function tagOf(value: unknown): string {
  return (value as { [Symbol.toStringTag]: string })[Symbol.toStringTag];
}

/** Writes an unsigned number of 32 bits, little endian. */
export function writeU32(bytes: Uint8Array, value: number): void {
  bytes[0] = value;
  bytes[1] = value >>> 8;
  bytes[2] = value >>> 16;
  bytes[3] = value >>> 24;
}

/** Reads an unsigned number of 32 bits, little endian. */
export function readU32(bytes: Uint8Array, at: number): number {
  return (bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24)) >>> 0;
}
