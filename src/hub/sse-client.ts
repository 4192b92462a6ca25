/** One client of an event stream. Its buffer is bounded; the stream itself tells the client how many events were dropped. */

import { BoundedQueue } from "../bounded-queue.ts";
import { encodeMissing, type Missing } from "./event-log.ts";

const HEARTBEAT = ":\n\n";
const encoder = new TextEncoder();

export class SseClient {
  readonly #onEnd: () => void;
  readonly #waiting: BoundedQueue<string>;
  #lost: Missing = 0;
  #wake: (() => void) | null = null;
  #ending = false;
  #over = false;

  /** Buffers up to `limit` bytes. `onEnd` is called once, when the client disconnects or its stream ends. */
  constructor(limit: number, onEnd: () => void) {
    this.#waiting = new BoundedQueue(limit, "drop-newest", (text) => (text as string).length);
    this.#onEnd = onEnd;
  }

  /** Returns the stream as a response. Call it once. */
  respond(signal: AbortSignal, requestId: string): Response {
    const source = {
      pull: (controller: ReadableStreamDefaultController<Uint8Array>) => this.#pull(controller),
      cancel: () => this.#finish(),
    };
    if (signal.aborted) this.#finish();
    else signal.addEventListener("abort", () => this.#finish(), { once: true });
    // With a mark of 0, `pull` is called only after the socket has accepted the previous chunk.
    return new Response(new ReadableStream(source, { highWaterMark: 0 }), {
      headers: {
        "content-type": "text/event-stream; charset=utf-8",
        "cache-control": "no-cache",
        "x-accel-buffering": "no",
        "x-request-id": requestId,
      },
    });
  }

  /** Sends text. Returns `false` if the buffer is full; the text then counts as lost. */
  send(text: string): boolean {
    if (this.#over || this.#ending) return false;
    if (!this.#waiting.accepts(text.length)) {
      this.#lost = this.#lost === null ? null : this.#lost + 1;
      return false;
    }
    this.#noteLoss();
    this.#push(text);
    return true;
  }

  /** Tells the client how many events are missing at this place. */
  missing(count: Missing): void {
    if (count !== 0) this.#push(encodeMissing(count));
  }

  /** Sends a comment, so that proxies do not close a quiet connection. */
  beat(): void {
    if (this.#waiting.length === 0 && !this.#over) this.#push(HEARTBEAT);
  }

  /** Ends the stream after the buffered events. */
  end(): void {
    this.#ending = true;
    this.#notify();
  }

  #push(text: string): void {
    this.#waiting.push(text);
    this.#notify();
  }

  /** Reports lost events before the next event, so at the place where they are missing. */
  #noteLoss(): void {
    const lost = this.#lost;
    this.#lost = 0;
    this.missing(lost);
  }

  async #pull(controller: ReadableStreamDefaultController<Uint8Array>): Promise<void> {
    while (this.#waiting.length === 0 && !this.#ending && !this.#over) {
      if (this.#lost !== 0) {
        this.#noteLoss();
        break;
      }
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#wake = resolve;
      await promise;
    }
    if (this.#over) return;
    if (this.#waiting.length > 0) {
      controller.enqueue(encoder.encode(this.#waiting.takeAll().join("")));
    } else {
      controller.close();
      this.#finish();
    }
  }

  #notify(): void {
    const wake = this.#wake;
    this.#wake = null;
    wake?.();
  }

  #finish(): void {
    if (this.#over) return;
    this.#over = true;
    this.#waiting.takeAll();
    this.#notify();
    this.#onEnd();
  }
}
