/** The fixed parts of REQUEST and RESPONSE frames: encodes them, and decodes and checks them. */

import { METHODS } from "../../bus/codec.ts";
import { FLAG, putU32, REQUEST_BYTES, RESPONSE_BYTES, u32 } from "./frames.ts";

/** Largest head and body, in bytes. */
export interface Limits {
  readonly headLimit: number;
  readonly payloadLimit: number;
}

/** A decoded REQUEST or RESPONSE. */
export class Message {
  /** Sizes, in bytes. */
  head = 0;
  body = 0;
  streams = false;
  /** Bytes of head and body in the frame. */
  first: Uint8Array = new Uint8Array(0);
  /** Of a request. `timeoutMs`: 0 for none. */
  serial = 0;
  timeoutMs = 0;
  method = 0;
  /** Of a response; 0 for an error. */
  status = 0;

  /** Whether more of the head and the body follows. */
  get isPart(): boolean {
    return this.first.length < this.head + this.body;
  }
}

/** Reused by each call. */
const message = new Message();

/** Stores the fixed part of a request at `at`. `timeoutMs`: `Infinity` for none. */
export function putRequest(
  bytes: Uint8Array,
  at: number,
  serial: number,
  timeoutMs: number,
  head: number,
  body: number,
  method: number,
): void {
  putU32(bytes, at, serial);
  putU32(bytes, at + 4, Math.floor(serial / 0x1_0000_0000));
  putU32(bytes, at + 8, timeoutMs > 0xffff_ffff ? 0 : Math.ceil(timeoutMs));
  putU32(bytes, at + 12, head);
  putU32(bytes, at + 16, body);
  putU32(bytes, at + 20, method);
}

/** Decodes a REQUEST; `null` if it is invalid. The result is valid until the next call. */
export function readRequest(flags: number, bytes: Uint8Array, limits: Limits): Message | null {
  if (bytes.length < REQUEST_BYTES) return null;
  message.serial = u32(bytes, 0) + u32(bytes, 4) * 0x1_0000_0000;
  message.timeoutMs = u32(bytes, 8);
  message.method = bytes[20]!;
  return message.method < METHODS.length && readSizes(flags, bytes, 12, REQUEST_BYTES, limits) ? message : null;
}

/** Stores the fixed part of a response at `at`. */
export function putResponse(bytes: Uint8Array, at: number, status: number, head: number, body: number): void {
  putU32(bytes, at, status);
  putU32(bytes, at + 4, head);
  putU32(bytes, at + 8, body);
}

/** Returns the bytes of a worker's GOODBYE: the ids of exchanges. */
export function idsOf(exchanges: readonly number[]): Uint8Array {
  const bytes = new Uint8Array(4 * exchanges.length);
  for (const [n, id] of exchanges.entries()) putU32(bytes, 4 * n, id);
  return bytes;
}

/** Decodes a worker's GOODBYE. */
export function readIds(bytes: Uint8Array): Set<number> {
  const ids = new Set<number>();
  for (let at = 0; at + 4 <= bytes.length; at += 4) ids.add(u32(bytes, at));
  return ids;
}

/** Decodes a RESPONSE; `null` if it is invalid. The result is valid until the next call. */
export function readResponse(flags: number, bytes: Uint8Array, limits: Limits): Message | null {
  if (bytes.length < RESPONSE_BYTES) return null;
  const status = u32(bytes, 0);
  message.status = status;
  const isValid = status === 0 ? (flags & FLAG.streams) === 0 : status >= 200 && status <= 599;
  return isValid && readSizes(flags, bytes, 4, RESPONSE_BYTES, limits) ? message : null;
}

function readSizes(flags: number, bytes: Uint8Array, at: number, fixed: number, limits: Limits): boolean {
  const head = u32(bytes, at);
  const body = u32(bytes, at + 4);
  message.head = head;
  message.body = body;
  message.streams = (flags & FLAG.streams) !== 0;
  message.first = bytes.subarray(fixed);
  const fits = head > 0 && head <= limits.headLimit && body <= limits.payloadLimit;
  return fits && bytes.length - fixed <= head + body && !(message.streams && body > 0);
}
