/** The newest events of one stream, with ids, for clients that come back. */

import { InvalidConfigError } from "../errors.ts";

/** An event of a stream as it was given. */
export interface StreamEvent {
  readonly type: string;
  readonly data: string;
}

const TYPE_MAX = 256;

/** What is missing at a place in a stream: a number, or null when nobody knows. */
export type Missing = number | null;

export class EventLog {
  readonly #epoch: string;
  readonly #limit: number;
  readonly #bytesLimit: number;
  #events: string[] = [];
  #bytes = 0;
  /** Number of the next event. */
  #next = 1;
  /** `performance.now()` of the last event. */
  touchedAt = performance.now();

  /** Keeps at most so many events, and so many bytes of them. Ids begin with `epoch`: those of another one are unknown. */
  constructor(epoch: string, limit: number, bytesLimit: number) {
    this.#epoch = epoch;
    this.#limit = limit;
    this.#bytesLimit = bytesLimit;
  }

  /** Numbers an event and returns it as it goes out. */
  append(event: StreamEvent): string {
    const text = `id: ${this.#epoch}-${this.#next++}\n${encodeEvent(event)}`;
    this.touchedAt = performance.now();
    this.#events.push(text);
    this.#bytes += text.length;
    while (this.#events.length > this.#limit || this.#bytes > this.#bytesLimit)
      this.#bytes -= this.#events.shift()!.length;
    return text;
  }

  /** What came after the event of that id, and how many events in between are not kept any more. */
  since(lastId: string): { events: readonly string[]; missing: Missing } {
    const oldest = this.#next - this.#events.length;
    const [, epoch, number] = /^(.+)-(\d{1,15})$/.exec(lastId) ?? [];
    if (epoch !== this.#epoch || Number(number) >= this.#next) return { events: this.#events, missing: null };
    const wanted = Number(number) + 1;
    return { events: this.#events.slice(Math.max(0, wanted - oldest)), missing: Math.max(0, oldest - wanted) };
  }
}

/** A notice in the stream that some of it is missing. */
export function encodeMissing(missing: Missing): string {
  return encodeEvent({ type: "slotbus-lost", data: JSON.stringify({ lost: missing }) });
}

/** @throws {InvalidConfigError} for a type that would be more than a type. */
export function checkEvent({ type }: StreamEvent): void {
  if (type === "" || type.length > TYPE_MAX || /[\n\r\0]/.test(type)) {
    throw new InvalidConfigError(`${JSON.stringify(type.slice(0, 80))} is not a valid event type.`, {
      hint: `Use 1 to ${TYPE_MAX} characters without line breaks.`,
    });
  }
}

function encodeEvent({ type, data }: StreamEvent): string {
  const lines = data.split(/\r\n|\n|\r/).map((line) => `data: ${line}\n`);
  return `event: ${type}\n${lines.join("")}\n`;
}
