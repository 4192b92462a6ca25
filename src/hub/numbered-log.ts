/** Keeps the newest events of one stream of a shared hub, whose ids are numbers of a ring. */

import { encodeEvent, type Missing, type StreamEvent } from "./event-log.ts";

/** An event of a {@link NumberedLog}. */
interface Numbered {
  readonly number: number;
  readonly text: string;
}

/**
 * As `EventLog`, but the numbers of the events come from a ring that all processes of a shared hub read, so an event has the
 * same id in each of them. The numbers of one stream have gaps, so the number of missing events is unknown.
 */
export class NumberedLog {
  readonly #epoch: string;
  readonly #limit: number;
  readonly #bytesLimit: number;
  #events: Numbered[] = [];
  #bytes = 0;
  /** Number of the newest event that may have been dropped. */
  #dropped: number;
  /** `performance.now()` of the last event. */
  touchedAt = performance.now();

  /** `dropped`: number of the newest event of the stream that may not be in `events`. */
  constructor(epoch: string, limit: number, bytesLimit: number, dropped: number) {
    this.#epoch = epoch;
    this.#limit = limit;
    this.#bytesLimit = bytesLimit;
    this.#dropped = dropped;
  }

  /** Number of the newest event that was dropped. */
  get dropped(): number {
    return this.#dropped;
  }

  /** Number of the newest event that is kept; of the newest dropped one without. */
  get newest(): number {
    return this.#events.at(-1)?.number ?? this.#dropped;
  }

  /** Notes that events up to this number may be missing. */
  lose(number: number): void {
    this.#dropped = Math.max(this.#dropped, number);
  }

  /** Keeps an event and returns it encoded. */
  append(event: StreamEvent, number: number): string {
    return this.keep(`id: ${this.#epoch}-${number}\n${encodeEvent(event)}`, number);
  }

  /** Keeps an encoded event and returns it. */
  keep(text: string, number: number): string {
    this.touchedAt = performance.now();
    this.#events.push({ number, text });
    this.#bytes += text.length;
    while (this.#events.length > this.#limit || this.#bytes > this.#bytesLimit) {
      const oldest = this.#events.shift()!;
      this.#bytes -= oldest.text.length;
      this.#dropped = oldest.number;
    }
    return text;
  }

  /** As `since` of `EventLog`. `newest`: number of the newest event of all streams. */
  since(lastId: string, newest: number): { events: readonly string[]; missing: Missing } {
    const [, epoch, digits] = /^(.+)-(\d{1,15})$/.exec(lastId) ?? [];
    const last = Number(digits);
    const isKnown = epoch === this.#epoch && last <= newest;
    const after = isKnown ? this.#events.filter(({ number }) => number > last) : this.#events;
    return { events: after.map(({ text }) => text), missing: isKnown && last >= this.#dropped ? 0 : null };
  }
}
