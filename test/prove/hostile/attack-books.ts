/** Shared by the programs of this proof: the right response to a request, the worker that ran it, attackers' reports. */

import { closeSync, ftruncateSync, openSync } from "node:fs";
import { join } from "node:path";
import { checksum } from "../soak/request-books.ts";

/** Of a request and of its answer: id, nonce, checksum of the request's payload, length of the payload. */
export const PREFIX = 16;
/** Largest payload, in bytes; the bus of this proof takes a little more. */
export const PAYLOAD = 16_384;

/** An attacker's report; see `struct report`. */
export interface Report {
  /** Stores into shared memory while it was attached. */
  mutations: number;
  messages: number;
  answers: number;
  lives: number;
  connected: boolean;
  /** Things that the kernel should have refused. */
  granted: number;
  over: boolean;
}

const REPORTS = 65_536;
const REPORT_BYTES = 64;

/** Files of shared memory, so that what an evicted or killed process has written stays. */
export class AttackBooks {
  /** By request: how often an honest handler ran. */
  readonly runs: Uint8Array;
  readonly #reports: BigUint64Array;

  static create(directory: string, capacity: number): AttackBooks {
    for (const [name, bytes] of [
      ["runs", capacity],
      ["reports", REPORTS * REPORT_BYTES],
    ] as const) {
      const file = openSync(join(directory, name), "wx");
      ftruncateSync(file, bytes);
      closeSync(file);
    }
    return new AttackBooks(directory);
  }

  constructor(directory: string) {
    this.runs = Bun.mmap(join(directory, "runs"), { shared: true });
    const { buffer, byteOffset } = Bun.mmap(join(directory, "reports"), { shared: true });
    this.#reports = new BigUint64Array(buffer, byteOffset, (REPORTS * REPORT_BYTES) / 8);
  }

  /** A line for attacker number `serial`, empty. */
  line(serial: number): number {
    const index = serial % REPORTS;
    this.#reports.fill(0n, index * 8, index * 8 + 8);
    return index;
  }

  report(index: number): Report {
    const [mutations, messages, answers, lives, connected, granted, over] = this.#reports
      .subarray(index * 8, index * 8 + 8)
      .values()
      .map(Number)
      .toArray();
    return {
      mutations: mutations!,
      messages: messages!,
      answers: answers!,
      lives: lives!,
      connected: connected === 1,
      granted: granted!,
      over: over === 1,
    };
  }
}

/** The body of request `id`: `payload` is a multiple of 4 bytes. */
export function question(id: number, nonce: number, payload: Uint8Array): Uint8Array {
  const body = new Uint8Array(PREFIX + payload.length);
  new Uint32Array(body.buffer, 0, 4).set([id, nonce, checksum(payload, nonce), payload.length]);
  body.set(payload, PREFIX);
  return body;
}

/** The id in a request's body; -1 when the body is not the one that was sent. */
export function idOf(body: Uint8Array): number {
  if (body.length < PREFIX) return -1;
  const [id, nonce, sum, length] = new Uint32Array(body.slice(0, PREFIX).buffer);
  const payload = body.subarray(PREFIX);
  return payload.length === length && checksum(payload, nonce!) === sum ? id! : -1;
}

/** The answer: the prefix as it came, then every word changed by the nonce. */
export function answerTo(body: Uint8Array): Uint8Array<ArrayBuffer> {
  const out = new Uint8Array(body);
  const words = new Uint32Array(out.buffer);
  const nonce = words[1]!;
  for (let i = PREFIX / 4; i < words.length; i++) words[i]! ^= nonce;
  return out;
}
