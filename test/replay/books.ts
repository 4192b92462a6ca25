/** The books of a world: what was called, what ran, and which bytes each source gave. Kept outside of the library. */

import type { StreamSource } from "../../src/bus/body-writer.ts";
import type { Die } from "./choices.ts";
import type { Link } from "./link.ts";
import type { Host as Process } from "./processes.ts";

/** Error of a source, of a handler or of an abort that the world made. */
export class Planned extends Error {
  override readonly name = "Planned";
}

/** Bytes of key 0; a source and a body are shorter. */
const pattern = Uint8Array.from({ length: 4_096 }, (_, offset) => offset * 11 + (offset >> 6) * 5);

/** Returns the byte at `offset` of the stream or body with this key. */
function byteAt(key: number, offset: number): number {
  return (key * 37 + pattern[offset]!) & 255;
}

/** Returns `length` bytes of the stream or body with this key, from `from` on. */
export function bytesFor(key: number, from: number, length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let index = 0; index < length; index++) bytes[index] = byteAt(key, from + index);
  return bytes;
}

/** Returns the first offset at which `bytes` differ from the stream with this key at `from`; -1 if they are equal. */
export function firstDifference(key: number, from: number, bytes: Uint8Array): number {
  for (let i = 0; i < bytes.length; i++) if (bytes[i] !== byteAt(key, from + i)) return from + i;
  return -1;
}

/** How a source is made. */
export type SourceKind = "iterator" | "generator" | "sync" | "stream";
const KINDS: readonly SourceKind[] = ["iterator", "generator", "sync", "stream"];

/** A stream of bytes, and what happened to it. */
export class Source {
  readonly key: number;
  readonly host: Process;
  readonly total: number;
  readonly kind: SourceKind;
  /** Bytes that it gave. */
  given = 0;
  /** How it ended; `null`: it is open. */
  ended: "done" | "failed" | "closed" | null = null;
  /** Whether a generator has begun and has not run its `finally`. */
  isInside = false;
  readonly #die: Die;
  readonly #failsAt: number;
  readonly #hangsAt: number;
  #wake: (() => void) | null = null;

  readonly #paceMs: number;
  /** The error with which it failed. */
  error: Planned | null = null;

  /** `paceMs`: gives small chunks, each after at most this time; 0: as it comes. */
  constructor(key: number, host: Process, die: Die, paceMs = 0) {
    this.key = key;
    this.host = host;
    this.#die = die;
    this.#paceMs = paceMs;
    this.total = paceMs > 0 ? 300 + die.below("paced bytes", 900) : die.small("source bytes", 1_500);
    this.kind = KINDS[die.below("source kind", 4)]!;
    this.#failsAt = die.chance("source fails", 150) ? die.below("source fails at", this.total + 1) : Infinity;
    this.#hangsAt = die.chance("source hangs", 60) ? die.below("source hangs at", this.total + 1) : Infinity;
  }

  /** Whether it ends by itself, without an error. */
  get isSound(): boolean {
    return this.#failsAt === Infinity && this.#hangsAt === Infinity;
  }

  get body(): StreamSource {
    if (this.kind === "iterator") return this.#iterator();
    if (this.kind === "generator") return this.#watched(this.#generate());
    if (this.kind === "sync") return this.#watched(this.#generateNow());
    return new ReadableStream<Uint8Array>(
      {
        pull: async (controller) => {
          const chunk = await this.#next();
          if (chunk) controller.enqueue(chunk);
          else if (this.ended !== "closed") controller.close();
        },
        cancel: () => this.#close(),
      },
      { highWaterMark: 0 },
    );
  }

  #iterator(): AsyncIterableIterator<Uint8Array> {
    return {
      next: async () => {
        const value = await this.#next();
        return value ? { done: false, value } : { done: true, value: undefined };
      },
      return: async () => {
        this.#close();
        return { done: true, value: undefined };
      },
      [Symbol.asyncIterator]() {
        return this;
      },
    };
  }

  async *#generate(): AsyncGenerator<Uint8Array, void, void> {
    this.isInside = true;
    try {
      for (let chunk = await this.#next(); chunk; chunk = await this.#next()) yield chunk;
    } finally {
      this.isInside = false;
    }
  }

  *#generateNow(): Generator<Uint8Array, void, void> {
    this.isInside = true;
    try {
      for (let chunk = this.#take(); chunk; chunk = this.#take()) yield chunk;
    } finally {
      this.isInside = false;
    }
  }

  /** Notes a `return` that the generator itself does not see, because it has not begun. */
  #watched<G extends { return(value?: undefined): unknown }>(generator: G): G {
    const inner = generator.return.bind(generator);
    generator.return = (value) => {
      this.#close();
      return inner(value);
    };
    return generator;
  }

  #close(): void {
    this.ended ??= "closed";
    this.#wake?.();
  }

  async #next(): Promise<Uint8Array | null> {
    if (this.given >= this.#hangsAt && !this.ended) {
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#wake = resolve;
      await promise;
      return null;
    }
    const pace = this.#paceMs;
    const ms = pace > 0 ? 1 + this.#die.below("pace", pace) : this.#die.rarely("source delay", 250, 30);
    if (ms > 0) await this.host.pause(ms);
    return this.#take();
  }

  #take(): Uint8Array | null {
    if (this.ended) return null;
    if (this.given >= this.#failsAt) {
      this.ended = "failed";
      throw (this.error = new Planned("the source failed"));
    }
    const left = Math.min(this.total, this.#failsAt, this.kind === "sync" ? Infinity : this.#hangsAt) - this.given;
    if (left === 0 && this.given < this.total && this.kind !== "sync") return new Uint8Array(0);
    if (this.given >= this.total) {
      this.ended = "done";
      return null;
    }
    const most = this.#paceMs > 0 ? 60 : 400;
    const length = Math.min(left, 1 + this.#die.small("chunk", most));
    const chunk = bytesFor(this.key, this.given, length);
    this.given += length;
    return chunk;
  }
}

/** A generator that began in a process: it must run its `finally`. */
export interface Inside {
  readonly host: Process;
  isInside: boolean;
}

/** One run of a handler. */
export class Run {
  readonly index: number;
  readonly host: Process;
  readonly link: Link;
  readonly startedAt: number;
  /** What the handler did; `null`: it has not decided yet. */
  outcome: "answered" | "threw" | "nothing" | null = null;
  /** Bytes of a whole response; -1: the response streams, or there is none. */
  bodyBytes = -1;
  source: Source | null = null;
  /** Bytes of the request's stream that the handler read. */
  read = 0;
  /** Items of a contract's stream that the handler gave. */
  items = 0;
  isAborted = false;
  /** A generator of items that began. */
  inside: Inside | null = null;
  /** Number of items that it had given when it stopped reading its own; -1: it has not stopped. */
  leftAt = -1;

  constructor(index: number, host: Process, link: Link) {
    this.index = index;
    this.host = host;
    this.link = link;
    this.startedAt = host.time.now;
  }
}

/** One call and everything that happened to it. */
export class Call {
  readonly index: number;
  readonly die: Die;
  readonly host: Process;
  /** Id that the caller passed. */
  ownId: string | null = null;
  /** Bytes of a whole body of the request; -1: the body streams. */
  bodyBytes = 0;
  startedAt = 0;
  timeoutMs = Infinity;
  isIdempotent = false;
  readonly runs: Run[] = [];
  readonly links = new Set<Link>();
  /** Sources that the caller passed. */
  readonly sources: Source[] = [];
  /** Generators of items that the caller passed and that began. */
  readonly inside: Inside[] = [];
  settledAt = -1;
  /** How the call ended, for messages. */
  outcome = "";
  error: unknown = null;
  /** What the caller got: a value, or the number of bytes or items. */
  value: unknown = null;
  /** Whether the caller aborted it. */
  isAborted = false;
  abortReason: unknown = null;
  /** Whether the caller stopped reading the response. */
  isCancelled = false;
  isContract = false;
  /** Whether it was made through `fetch`. */
  isFetch = false;
  /** Error that its input of items ended with, and the time of it. */
  inputError: Planned | null = null;
  inputFailedAt = Infinity;
  /** Id of the worker that must run it; `null`: any may. */
  boundTo: number | null = null;
  /** Whether its bus got its request. */
  isAsked = false;
  /** Whether it reads items, so that it settles later than its timeout. */
  readsItems = false;
  /** Whether it accepts only some workers, or none that is not there yet. */
  isChoosy = false;
  idleMs = Infinity;
  /** Limit of {@link StreamedResponse.bytes}, in bytes. */
  bytesLimit = Infinity;
  /** When the limits of its streamed response are due, in ms; `null` before the response began. */
  limits: { deadlineAt: number; idleAt(): number } | null = null;
  /** Whether the response was read to its end. */
  isRead = false;
  /** Bytes of a streamed response that could be read when its connection ended. */
  mustRead = 0;

  constructor(index: number, die: Die, host: Process) {
    this.index = index;
    this.die = die;
    this.host = host;
  }

  get isSettled(): boolean {
    return this.settledAt >= 0;
  }

  /** Key of the bytes of the request. */
  get requestKey(): number {
    return this.index * 8;
  }

  /** Key of the bytes of the response of a run. */
  responseKey(run: number): number {
    return this.index * 8 + 1 + run;
  }
}
