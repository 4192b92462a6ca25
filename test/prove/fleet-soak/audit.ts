/** Judges a quiet point: each living subscriber must account for every event of its ring. */

import type { FleetBooks } from "./fleet-books.ts";
import { FILTERS, RINGS } from "./payloads.ts";
import type { ReaderReport } from "./reader.ts";

export type Fault = "lost" | "doubled" | "misdelivered" | "leaked";
export type Complain = (what: string, fault: Fault) => void;

/** Facts about the rings of one epoch. */
export class RingAudit {
  readonly #books: FleetBooks;
  readonly #complain: Complain;
  readonly #epoch: number;
  /** By ring: events of killed writers that were between intent and done, and how many of these are there. */
  readonly #undecided = RINGS.map(() => 0);
  readonly #there = RINGS.map(() => 0);

  constructor(books: FleetBooks, epoch: number, complain: Complain) {
    this.#books = books;
    this.#epoch = epoch;
    this.#complain = complain;
  }

  /** Events between intent and done so far, and how many of them were published. */
  get undecided(): { all: number; there: number } {
    const sum = (list: number[]): number => list.reduce((all, one) => all + one, 0);
    return { all: sum(this.#undecided), there: sum(this.#there) };
  }

  /** Judges the rings, which report `events`, while no process writes. */
  judgeRings(events: readonly number[], living: readonly number[]): void {
    for (const [ring, { name }] of RINGS.entries()) {
      for (const life of living) {
        const [intent, done] = [this.#books.intentOf(life, ring), this.#books.doneOf(life, ring)];
        if (intent !== done) this.#complain(`life ${life} lives, and is between event ${done} and ${intent}`, "lost");
      }
      const { done, undecided } = this.#books.published(this.#epoch, ring);
      const there = events[ring]! - done;
      const least = this.#there[ring]!;
      const most = least + undecided - this.#undecided[ring]!;
      if (there < least || there > most) {
        const text = `ring ${name} has ${events[ring]} events, the books ${done + least} to ${done + most}`;
        this.#complain(text, there < least ? "lost" : "doubled");
      }
      this.#undecided[ring] = undecided;
      this.#there[ring] = there;
    }
  }

  /** `seesAll`: it has read since the first event of the epoch. */
  judgeReader(report: ReaderReport, events: number, seesAll: boolean): void {
    const books = this.#books;
    const { subscriber, ring, how, skipped, last } = report;
    const noted = (field: Parameters<FleetBooks["noted"]>[1]): number => books.noted(subscriber, field);
    const who = `subscriber ${subscriber} of life ${noted("life")} (${how})`;
    const consumed = books.consumed(subscriber);
    if (consumed !== events) {
      const sums = ["start", "received", "filtered", "overwritten", "dropped"] as const;
      const text = sums.map((field) => `${field} ${noted(field)}`).join(" + ");
      this.#complain(`${who} has ${text}, which is not ${events}`, consumed < events ? "lost" : "doubled");
    }
    const [start, low, high] = [noted("start"), noted("low"), noted("high")];
    if (start < low || start > high)
      this.#complain(`${who} began at event ${start}, the books say ${low} to ${high}`, "lost");
    const lost = noted("overwritten") + noted("dropped");
    if (skipped > lost)
      this.#complain(`${who} saw gaps of ${skipped} events, but only ${lost} were reported as lost`, "lost");
    if (lost > 0) return;
    let undecided = 0;
    for (const [life, number] of last) {
      const done = books.doneOf(life, ring);
      if (number > done)
        this.#complain(`${who} saw number ${number} of life ${life}, which did ${done}`, "misdelivered");
      if (number === done) undecided++;
      for (let n = number + 1; n < done; n++) {
        if (!FILTERS[report.filter]!.wants(n)) continue;
        this.#complain(`${who} lost nothing, and number ${n} of life ${life} never came`, "lost");
        break;
      }
    }
    const there = this.#there[ring]!;
    const isRight = seesAll && report.filter === 0 ? undecided === there : undecided <= there;
    if (!isRight)
      this.#complain(
        `${who} saw ${undecided} events of killed writers that had not done them, and there are ${there}`,
        "lost",
      );
  }
}
