/** One client of an event stream: what it has not taken yet is bounded, and what it loses by that is told in the stream. */

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

  /** Holds up to `limit` bytes for it. `onEnd` hears once that the client has gone or was ended. */
  constructor(limit: number, onEnd: () => void) {
    this.#waiting = new BoundedQueue(limit, "drop-newest", (text) => (text as string).length);
    this.#onEnd = onEnd;
  }

  /** The stream as an answer; once. */
  respond(signal: AbortSignal, requestId: string): Response {
    const source = {
      pull: (controller: ReadableStreamDefaultController<Uint8Array>) => this.#pull(controller),
      cancel: () => this.#finish(),
    };
    if (signal.aborted) this.#finish();
    else signal.addEventListener("abort", () => this.#finish(), { once: true });
    // A mark of 0: it is asked for more when the socket has taken what it had.
    return new Response(new ReadableStream(source, { highWaterMark: 0 }), {
      headers: {
        "content-type": "text/event-stream; charset=utf-8",
        "cache-control": "no-cache",
        "x-accel-buffering": "no",
        "x-request-id": requestId,
      },
    });
  }

  /** `false`: there was no room, it counts as lost. */
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

  /** Tells the client that so many events are missing here. */
  missing(count: Missing): void {
    if (count !== 0) this.#push(encodeMissing(count));
  }

  /** Something, so that nobody on the way thinks the connection dead. */
  beat(): void {
    if (this.#waiting.length === 0 && !this.#over) this.#push(HEARTBEAT);
  }

  /** What waits still goes out, then the stream ends. */
  end(): void {
    this.#ending = true;
    this.#notify();
  }

  #push(text: string): void {
    this.#waiting.push(text);
    this.#notify();
  }

  /** A loss is told before the next event, at the place where it happened. */
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
