/** The streamed bodies of one exchange, both ways, and the limits of their time. */

import { startTimer } from "../clock.ts";
import { BodyReader, type Incoming } from "./body-reader.ts";
import { BodyWriter, type Outgoing, type StreamSource } from "./body-writer.ts";
import type { Turns } from "./turns.ts";

export class Streams {
  /** Of the request's body, until it is asked for. */
  source: StreamSource | null = null;
  /** The source was asked for its first bytes. */
  hasBegun = false;
  /** Of the response's body, until that is over. */
  reader: BodyReader | null = null;
  readonly #turns: Turns;
  #writer: BodyWriter | null = null;
  /** Whoever holds it reads {@link reader}; until the first tick that finds the stream open. */
  #holder: object | null = null;
  #deadline: { close(): unknown } | null = null;
  #idle: { close(): unknown } | null = null;

  constructor(turns: Turns) {
    this.#turns = turns;
  }

  /** Sends the source, if there is one; `failed` is called with its error, unless {@link close} was called before. */
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

  /** `onCancel` is called when the reader wants no more. */
  receive(incoming: Incoming, onCancel: () => void): BodyReader {
    return (this.reader = new BodyReader(incoming, this.#turns, onCancel));
  }

  /** The stream is cancelled when `holder` is collected as garbage. */
  heldBy(holder: object): void {
    this.#holder = holder;
  }

  /** Most streams end soon. Of one that does not, it is noticed when its reader is collected as garbage. */
  age(): void {
    if (this.#holder) this.reader?.readBy(this.#holder);
    this.#holder = null;
  }

  /** Calls `over` after `ms`, 0 for never. */
  limit(ms: number, over: () => void): void {
    this.#deadline = startTimer(this.#turns.clock, ms, over);
  }

  /** Calls `over` when nothing has moved for `ms` (at most twice that), 0 for never. */
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

  /** Nothing moves any more. A source that was not begun may be sent by another connection. */
  close(): void {
    this.#deadline?.close();
    this.#idle?.close();
    this.reader = null;
    const writer = this.#writer;
    this.#writer = null;
    writer?.stop();
  }
}
