/**
 * The books of a real world, in a file that all its processes map: what a client called, and what the handlers of its workers did.
 * They outlive a killed process.
 *
 * The fields of a {@link Call}, {@link Run} or {@link Source} are replaced by accessors of shared memory, in the process that writes
 * them and in those that read them. Each call has eight parts: itself, and its runs.
 */

import { closeSync, ftruncateSync, openSync } from "node:fs";
import { type Call, Run, type Source } from "../books.ts";
import type { Host } from "../processes.ts";
import { NO_LINK, PeerHost } from "./host.ts";

const CALLS = 512;
/** Index of the first call that another call made, and its place. */
const NESTED = 1_000;
const NESTED_PLACE = 256;
const PARTS = 8;
/** Words of a part, and of the head, which has the pauses of the client. */
const WORDS = 16;
/** Words of a part that no field has. */
const SOURCE = 8;
const RUNS = 14;
const PID = 15;

interface Field {
  read(word: number): unknown;
  write(value: never): number;
}
type Fields = Record<string, Field>;

const whole: Field = { read: (word) => word, write: (value: number) => value };
const flag: Field = { read: (word) => word === 1, write: (value: boolean) => Number(value) };
const limit: Field = {
  read: (word) => (word < 0 ? Infinity : word),
  write: (value: number) => (value === Infinity ? -1 : value),
};

/** A field with one of these values. */
function oneOf(...values: (string | null)[]): Field {
  return { read: (word) => values[word], write: (value: string | null) => values.indexOf(value) };
}

const RUN: Fields = {
  outcome: oneOf(null, "answered", "threw", "nothing"),
  bodyBytes: whole,
  read: whole,
  items: whole,
  isAborted: flag,
};
const STREAM: Fields = { given: whole, ended: oneOf(null, "done", "failed", "closed") };

function callFields(index: number): Fields {
  const ownId: Field = {
    read: (word) => (word === 1 ? `c${index}` : null),
    write: (id: string | null) => (id ? 1 : 0),
  };
  return { bodyBytes: whole, startedAt: whole, timeoutMs: limit, isIdempotent: flag, ownId, isFetch: flag };
}

/** Replaces fields by accessors of shared words. A writer first writes their values. */
function share(target: object, words: Int32Array, fields: Fields, isWriter: boolean): void {
  Object.entries(fields).forEach(([name, { read, write }], at) => {
    if (isWriter) words[at] = write((target as Record<string, never>)[name]!);
    const get = (): unknown => read(words[at]!);
    const set = (value: never): void => {
      words[at] = write(value);
    };
    Object.defineProperty(target, name, { get, set });
  });
}

/** The books of one client and its workers. */
export class SharedBooks {
  /** Makes the file of the books, or empties it. No process uses it. */
  static clear(file: string): void {
    const descriptor = openSync(file, "w");
    ftruncateSync(descriptor, 4 * WORDS * (1 + CALLS * PARTS));
    closeSync(descriptor);
  }

  readonly #words: Int32Array;

  constructor(file: string) {
    const { buffer, byteOffset, byteLength } = Bun.mmap(file, { shared: true });
    this.#words = new Int32Array(buffer, byteOffset, byteLength / 4);
  }

  /** Pauses of the client. */
  get pauses(): Int32Array {
    return this.#words.subarray(0, WORDS);
  }

  /** Returns a part by the key of its bytes: see `Call.requestKey`. */
  #part(key: number): Int32Array {
    const call = Math.floor(key / PARTS);
    const place = call < NESTED ? call : NESTED_PLACE + call - NESTED;
    const at = WORDS * (1 + place * PARTS + (key % PARTS));
    return this.#words.subarray(at, at + WORDS);
  }

  /** Shares a call: the client writes it, workers read it. Each process sees the runs of all. */
  call(call: Call, isWriter: boolean): Call {
    const words = this.#part(call.requestKey);
    share(call, words, callFields(call.index), isWriter);
    const { runs } = call;
    const get = (): Run[] => {
      while (runs.length < words[RUNS]!) runs.push(this.#read(call, runs.length));
      return runs;
    };
    Object.defineProperty(call, "runs", { get });
    if (!isWriter) Object.defineProperty(call, "sources", { get: () => [this.#sourceOf(call.requestKey)] });
    return call;
  }

  /** Shares a run that began in this process. Returns `false` if another run began at the same time. */
  began(call: Call, run: Run): boolean {
    const words = this.#part(call.responseKey(run.index));
    words[PID] = run.host.pid;
    share(run, words, RUN, true);
    return Atomics.add(this.#part(call.requestKey), RUNS, 1) === run.index;
  }

  #read(call: Call, index: number): Run {
    const key = call.responseKey(index);
    const words = this.#part(key);
    const host: Host = new PeerHost(call.host, words[PID]!);
    const run = new Run(index, host, NO_LINK);
    share(run, words, RUN, false);
    Object.defineProperty(run, "source", { get: () => this.#sourceOf(key) });
    return run;
  }

  /** Shares a source of this process. */
  source(source: Source): void {
    const words = this.#part(source.key).subarray(SOURCE);
    words[2] = 1 + source.total;
    share(source, words, STREAM, true);
  }

  /** Returns what another process notes about its source; `null` if there is none. */
  #sourceOf(key: number): Source | null {
    const words = this.#part(key).subarray(SOURCE);
    if (words[2] === 0) return null;
    const source = { total: words[2]! - 1 };
    share(source, words, STREAM, false);
    return source as Source;
  }
}
