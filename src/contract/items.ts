/** Converts sequences of items to frames and back, and checks each item. Used for inputs and for outputs. */

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
 * Frames of a sequence, as the source of a streamed body. Reads the next item only after the previous frame was taken; a frame is
 * valid until the next call of `next`. An error becomes the last frame.
 */
export class ItemSource implements AsyncIterableIterator<Uint8Array, undefined> {
  /** Error that ended the sequence. */
  failure: { error: unknown } | null = null;
  readonly #part: Part;
  readonly #frames: FrameWriter;
  readonly #iterator: SourceIterator;
  readonly #encodeFailure: (error: unknown) => Promise<Uint8Array>;
  #ended = false;
  #enough = false;

  /** `side`: the side that sends the items. `limit`: most bytes of an item. `encodeFailure` must not reject. */
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

  /** Tells the other side, with the next frame, to stop sending items. */
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

  /** Ends the sequence: its remaining items are not needed. */
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

  /** Ends the sequence because an item cannot be sent. */
  readonly #refuse = (error: unknown): Promise<Step<Uint8Array>> => {
    this.return().catch(() => {}); // the error of the item is reported, not an error of its source
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

/** Reads the items of a sequence as they arrive. Leaving the loop ends it, and so does `return` while `next` is pending. */
export class ItemReader implements AsyncGenerator<unknown, void, void> {
  readonly #method: ContractMethod;
  readonly #part: Part;
  readonly #frames: FrameReader;
  readonly #open: () => Promise<Chunks>;
  readonly #onLeave: () => void;
  readonly #sent: ItemSource | null;
  #chunks: Chunks | null = null;
  /** Payload of the last frame, if it is a failure. */
  #failure: Uint8Array | null = null;
  #ended = false;
  #running: Promise<unknown> | null = null;

  /**
   * `side`: the side that reads the items. `limit`: most bytes of an item. `open` is called by the first `next`, `onLeave` when
   * the reader stops early. `sent`: items that this side sends meanwhile; if they fail, their error wins over any other.
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

  /** Stops reading: the remaining items are not needed. */
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

  /** Makes later calls of `next` wait for this step. */
  #run(step: Promise<Step<unknown>>): Promise<Step<unknown>> {
    const over = (): void => {
      if (this.#running === step) this.#running = null;
    };
    this.#running = step;
    step.then(over, over);
    return step;
  }

  /** Reads bytes until an item is complete. */
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

  /** Returns the next item that has arrived, checked; `null` if there is none. */
  #read(): Step<unknown> | Promise<Step<unknown>> | null {
    for (let frame = this.#ended ? null : this.#frames.next(); frame !== null; frame = this.#frames.next()) {
      const { kind, payload } = frame;
      if (kind === FRAME.failure) this.#failure = payload;
      else if (kind === FRAME.enough) this.#sent?.return().catch(() => {});
      else if (kind !== FRAME.end) return this.#checked(this.#value(kind, payload));
    }
    return null; // also after the last frame: the stream has yet to end
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

  /** Rejects, unless the reader has stopped. */
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
