/** Keeps the newest events of one stream, with ids, for clients that reconnect. */

import { InvalidConfigError } from "../errors.ts";

/** An event before it is encoded. */
export interface StreamEvent {
  readonly type: string;
  readonly data: string;
}

const TYPE_MAX = 256;

/** Number of events missing at a place in a stream; `null` if unknown. */
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

  /** Keeps at most `limit` events and `bytesLimit` bytes. Ids start with `epoch`; ids with another epoch count as unknown. */
  constructor(epoch: string, limit: number, bytesLimit: number) {
    this.#epoch = epoch;
    this.#limit = limit;
    this.#bytesLimit = bytesLimit;
  }

  /** Gives an event its id, keeps it, and returns it encoded. Numbers it itself. */
  append(event: StreamEvent, _number?: number): string {
    const text = `id: ${this.#epoch}-${this.#next++}\n${encodeEvent(event)}`;
    this.touchedAt = performance.now();
    this.#events.push(text);
    this.#bytes += text.length;
    while (this.#events.length > this.#limit || this.#bytes > this.#bytesLimit)
      this.#bytes -= this.#events.shift()!.length;
    return text;
  }

  /** Returns the kept events after the event with this id, and how many events in between were dropped. */
  since(lastId: string, _newest?: number): { events: readonly string[]; missing: Missing } {
    const oldest = this.#next - this.#events.length;
    const [, epoch, number] = /^(.+)-(\d{1,15})$/.exec(lastId) ?? [];
    if (epoch !== this.#epoch || Number(number) >= this.#next) return { events: this.#events, missing: null };
    const wanted = Number(number) + 1;
    return { events: this.#events.slice(Math.max(0, wanted - oldest)), missing: Math.max(0, oldest - wanted) };
  }
}

/** Encodes the event `slotbus-lost`, which tells the client how many events are missing. */
export function encodeMissing(missing: Missing): string {
  return encodeEvent({ type: "slotbus-lost", data: JSON.stringify({ lost: missing }) });
}

/** @throws {InvalidConfigError} for an invalid event type, such as a type with a line break. */
export function checkEvent({ type }: StreamEvent): void {
  if (type === "" || type.length > TYPE_MAX || /[\n\r\0]/.test(type)) {
    throw new InvalidConfigError(`${JSON.stringify(type.slice(0, 80))} is not a valid event type.`, {
      hint: `Use 1 to ${TYPE_MAX} characters without line breaks and NUL.`,
    });
  }
}

/** Encodes an event without its id. */
export function encodeEvent({ type, data }: StreamEvent): string {
  const lines = data.split(/\r\n|\n|\r/).map((line) => `data: ${line}\n`);
  return `event: ${type}\n${lines.join("")}\n`;
}
