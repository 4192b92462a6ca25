/** The streamed bodies of one exchange, in both directions, and their time limits. */

import { startTimer } from "../clock.ts";
import { BodyReader, type Incoming } from "./body-reader.ts";
import { BodyWriter, type Outgoing, type StreamSource } from "./body-writer.ts";
import type { Turns } from "./turns.ts";

/** The streams of one exchange: at most one source and one reader. */
export class Streams {
  /** Source of the request body, until the worker claims the request. */
  source: StreamSource | null = null;
  /** Whether the source has been read from. */
  hasBegun = false;
  /** Reader of the response body, until the stream is over. */
  reader: BodyReader | null = null;
  readonly #turns: Turns;
  #writer: BodyWriter | null = null;
  /** Object through which user code reads the response; `null` after the first tick that finds the stream open. */
  #holder: object | null = null;
  #deadline: { close(): unknown } | null = null;
  #idle: { close(): unknown } | null = null;

  constructor(turns: Turns) {
    this.#turns = turns;
  }

  /** Sends the source, if there is one. Calls `failed` if the source fails before {@link close} is called. */
  send(outgoing: Outgoing, failed: (error: unknown) => void): void {
    const { source } = this;
    if (!source) return;
    this.source = null;
    this.hasBegun = true;
    const writer = new BodyWriter(outgoing, this.#turns);
    this.#writer = writer;
    writer.send(source, (end) => {
      if (this.#writer !== writer) return;
      if (end.how === "sent") void outgoing.end(null);
      if (end.how === "failed") failed(end.error);
    });
  }

  /** Creates the reader of a response. `onCancel` is called when the reader cancels. */
  receive(incoming: Incoming, onCancel: () => void): BodyReader {
    return (this.reader = new BodyReader("response", incoming, this.#turns, onCancel));
  }

  /** Cancels the stream if `holder` is garbage-collected, from the first tick on. */
  heldBy(holder: object): void {
    this.#holder = holder;
  }

  /** Called by a tick that finds the stream open. Only now its holder is registered: most streams end before the first tick. */
  age(): void {
    if (this.#holder) this.reader?.readBy(this.#holder);
    this.#holder = null;
  }

  /** Calls `over` after `ms`, or never for `Infinity`. */
  limit(ms: number, over: () => void): void {
    this.#deadline = startTimer(this.#turns.clock, ms, over);
  }

  /** Calls `over` when no byte has moved for `ms` (at the latest after twice that time), or never for `Infinity`. */
  limitIdle(ms: number, over: () => void): void {
    const before = this.#moved;
    this.#idle = startTimer(this.#turns.clock, ms, () => {
      if (this.#moved === before) over();
      else this.limitIdle(ms, over);
    });
  }

  get #moved(): number {
    return (this.reader?.bytes ?? 0) + (this.#writer?.bytes ?? 0);
  }

  /** Stops both streams and their time limits. Another connection may still send a source that was not read. */
  close(): void {
    this.#deadline?.close();
    this.#idle?.close();
    this.reader = null;
    const writer = this.#writer;
    this.#writer = null;
    writer?.stop();
  }
}
