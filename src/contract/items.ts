/** Sequences of a method as frames and back, each item checked: an input's from client to worker, an output's back. */

import type { Chunks } from "../bus/body-reader.ts";
import { iterateStream } from "../bus/body-writer.ts";
import type { ContractMethod } from "./contract.ts";
import { encodeRemote, readFailure } from "./failure.ts";
import { ENOUGH, FRAME, FrameReader, FrameWriter } from "./frames.ts";
import type { Sequence } from "./schema.ts";
import { Part, type Side } from "./values.ts";

export function isSequence(value: unknown): value is Sequence<unknown> {
  return typeof value === "object" && value !== null && (Symbol.asyncIterator in value || Symbol.iterator in value);
}

export function isThenable(value: unknown): value is PromiseLike<unknown> {
  return typeof value === "object" && value !== null && typeof (value as { then?: unknown }).then === "function";
}

type Step<T> = IteratorResult<T, undefined>;
const END: Step<never> = { done: true, value: undefined };

// ---- from a sequence to frames --------------------------------------------------------------------------------------

/**
 * The frames of a sequence, as the source of a streamed body. It asks for an item when the one before was taken; a frame is
 * valid until the next is asked for. What goes wrong is the last frame.
 */
export class ItemSource implements AsyncIterableIterator<Uint8Array, undefined> {
  /** What went wrong. */
  failure: { error: unknown } | null = null;
  readonly #part: Part;
  readonly #frames: FrameWriter;
  readonly #iterator: SourceIterator;
  readonly #encodeFailure: (error: unknown) => Promise<Uint8Array>;
  #ended = false;
  #enough = false;

  /** Of `side`, which sends it. `limit`: bytes of an item at most; `encodeFailure` does not reject. */
  constructor(
    method: ContractMethod,
    side: Side,
    items: Sequence<unknown>,
    limit: number,
    encodeFailure: (error: unknown) => Promise<Uint8Array>,
  ) {
    const part = side === "client" ? "input" : "output";
    this.#part = new Part(method, side, part, method.declaration[part], true);
    this.#frames = new FrameWriter(limit);
    this.#iterator = iterate(items);
    this.#encodeFailure = encodeFailure;
  }

  /** Tells the other side, before the next item, that what it sends is read no more. */
  sayEnough(): void {
    this.#enough = true;
  }

  next(): Promise<Step<Uint8Array>> {
    if (this.#ended) return Promise.resolve(END);
    try {
      const step = this.#iterator.next();
      return isThenable(step)
        ? Promise.resolve(step).then(this.#take, this.#fail)
        : Promise.resolve(this.#take(step as IteratorResult<unknown>));
    } catch (error) {
      return this.#fail(error);
    }
  }

  /** Nobody wants the rest. */
  async return(): Promise<Step<Uint8Array>> {
    if (!this.#ended) {
      this.#ended = true;
      await this.#iterator.return?.();
    }
    return END;
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  readonly #take = (step: IteratorResult<unknown>): Step<Uint8Array> | Promise<Step<Uint8Array>> => {
    try {
      if (step.done) {
        this.#ended = true;
        return { done: false, value: this.#withEnough(this.#frames.write(FRAME.end)) };
      }
      const { value } = step;
      const checking = this.#part.verify(value);
      return checking ? checking.then(() => this.#encode(value)).catch(this.#refuse) : this.#encode(value);
    } catch (error) {
      return this.#refuse(error);
    }
  };

  #encode(value: unknown): Step<Uint8Array> {
    return { done: false, value: this.#withEnough(this.#frame(value)) };
  }

  #frame(value: unknown): Uint8Array {
    if (value === undefined) return this.#frames.write(FRAME.nothing);
    if (value instanceof Uint8Array) return this.#frames.write(FRAME.bytes, value);
    return this.#frames.write(FRAME.value, this.#part.encode(value));
  }

  #withEnough(frame: Uint8Array): Uint8Array {
    if (!this.#enough) return frame;
    this.#enough = false;
    return Buffer.concat([ENOUGH, frame]);
  }

  /** An item that cannot be sent. */
  readonly #refuse = (error: unknown): Promise<Step<Uint8Array>> => {
    this.return().catch(() => {}); // what is wrong with the item is told, not how its source took it
    return this.#fail(error);
  };

  readonly #fail = async (error: unknown): Promise<Step<Uint8Array>> => {
    this.#ended = true;
    this.failure = { error };
    const bytes = await this.#encodeFailure(error);
    try {
      return { done: false, value: this.#frames.write(FRAME.failure, bytes) };
    } catch (tooLarge) {
      return { done: false, value: this.#frames.write(FRAME.failure, encodeRemote(tooLarge)) };
    }
  };
}

type SourceIterator = AsyncIterator<unknown> | Iterator<unknown>;

function iterate(items: Sequence<unknown>): SourceIterator {
  if (items instanceof ReadableStream) return iterateStream(items);
  if (Symbol.asyncIterator in items) return items[Symbol.asyncIterator]();
  const iterator = items[Symbol.iterator]();
  return {
    next: () => {
      const step = iterator.next();
      return step.done || !isThenable(step.value)
        ? step
        : Promise.resolve(step.value).then((value) => ({ done: false, value }));
    },
    return: () => iterator.return?.() ?? END,
  } as SourceIterator;
}

// ---- from frames to items -------------------------------------------------------------------------------------------

/** The items of a sequence as they come. Leaving the loop early ends it, as does `return` while the next is waited for. */
export class ItemReader implements AsyncGenerator<unknown, void, void> {
  readonly #method: ContractMethod;
  readonly #part: Part;
  readonly #frames: FrameReader;
  readonly #open: () => Promise<Chunks>;
  readonly #onLeave: () => void;
  readonly #sent: ItemSource | null;
  #chunks: Chunks | null = null;
  /** Payload of the last frame, if it says why there are no more items. */
  #failure: Uint8Array | null = null;
  #ended = false;
  #running: Promise<unknown> | null = null;

  /**
   * Of `side`, which reads it. `limit`: bytes of an item at most; `open` is called when the first is asked for, `onLeave`
   * when the reader wants no more; `sent` is what this side sends meanwhile: its failure comes before any other.
   */
  constructor(
    method: ContractMethod,
    side: Side,
    limit: number,
    open: () => Promise<Chunks>,
    onLeave: () => void,
    sent: ItemSource | null,
  ) {
    this.#method = method;
    const part = side === "client" ? "output" : "input";
    this.#part = new Part(method, side, part, method.declaration[part], true);
    this.#frames = new FrameReader(limit);
    this.#open = open;
    this.#onLeave = onLeave;
    this.#sent = sent;
  }

  next(): Promise<Step<unknown>> {
    if (this.#running) return this.#run(this.#running.then(this.#step, this.#step));
    try {
      const item = this.#read();
      if (item !== null && !(item instanceof Promise)) return Promise.resolve(item);
      return this.#run(item === null ? this.#step() : item.catch(this.#fail));
    } catch (error) {
      return this.#fail(error);
    }
  }

  /** Nobody wants the rest. */
  async return(): Promise<Step<unknown>> {
    this.#leave();
    return END;
  }

  async throw(error: unknown): Promise<Step<unknown>> {
    this.#leave();
    throw error;
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#leave();
  }

  /** Calls of `next` that come meanwhile wait for it. */
  #run(step: Promise<Step<unknown>>): Promise<Step<unknown>> {
    const over = (): void => {
      if (this.#running === step) this.#running = null;
    };
    this.#running = step;
    step.then(over, over);
    return step;
  }

  /** Waits for bytes until they make an item. */
  readonly #step = async (): Promise<Step<unknown>> => {
    try {
      while (!this.#ended) {
        const item = this.#read();
        if (item !== null) return await item;
        if (this.#chunks === null) {
          this.#chunks = await this.#open();
          if (this.#ended) void this.#chunks.return(); // left meanwhile
        }
        const chunk = await this.#chunks.next();
        if (this.#ended) break;
        if (chunk.done) return await this.#finish();
        this.#frames.push(chunk.value);
      }
      return END;
    } catch (error) {
      return this.#fail(error);
    }
  };

  /** The next item that is here, checked; `null` when there is none. */
  #read(): Step<unknown> | Promise<Step<unknown>> | null {
    for (let frame = this.#ended ? null : this.#frames.next(); frame !== null; frame = this.#frames.next()) {
      const { kind, payload } = frame;
      if (kind === FRAME.failure) this.#failure = payload;
      else if (kind === FRAME.enough) this.#sent?.return().catch(() => {});
      else if (kind !== FRAME.end) return this.#checked(this.#value(kind, payload));
    }
    return null; // also behind the last frame: the stream's own end comes yet
  }

  #value(kind: number, payload: Uint8Array): unknown {
    if (kind === FRAME.nothing) return undefined;
    if (kind === FRAME.bytes) return payload.slice();
    return this.#part.decode(payload);
  }

  #checked(given: unknown): Step<unknown> | Promise<Step<unknown>> {
    const made = this.#part.check(given);
    if (made instanceof Promise) return made.then((value: unknown) => ({ done: false, value }));
    return { done: false, value: made };
  }

  async #finish(): Promise<Step<unknown>> {
    this.#frames.finish();
    if (this.#failure) throw await readFailure(this.#method, this.#failure, true);
    if (this.#sent?.failure) throw this.#sent.failure.error;
    this.#ended = true;
    return END;
  }

  /** Rejects, unless nobody wants to hear of it any more. */
  readonly #fail = async (error: unknown): Promise<Step<unknown>> => {
    if (this.#ended) return END;
    this.#leave();
    throw this.#sent?.failure ? this.#sent.failure.error : error;
  };

  #leave(): void {
    if (this.#ended) return;
    this.#ended = true;
    void this.#chunks?.return();
    this.#onLeave();
  }
}
