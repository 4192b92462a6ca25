/** Judges the events at a quiet point: what a living hub has accepted, its subscribers got or were told that they lost. */

import type { RequestBooks } from "../soak/request-books.ts";
import { DONE, EVENTS, INTENT, LIFE, lifeOf, LIVES, REFUSED, ROOMS } from "./rooms.ts";
import type { Places, Subscriber } from "./subscriber.ts";

export class EventAudit {
  readonly #books: RequestBooks;
  readonly #places: Places;
  readonly #problem: (text: string) => void;
  /** By publisher: the first event that was not judged. */
  readonly #next = new Map<number, number>();
  /** The hub's life that the counts belong to. */
  #life = -1;
  /** By room: events that this hub has accepted, and further ones that it may have. */
  #done: number[] = [];
  #maybe: number[] = [];

  constructor(books: RequestBooks, places: Places, problem: (text: string) => void) {
    this.#books = books;
    this.#places = places;
    this.#problem = problem;
  }

  /** While no process publishes: waits until each subscriber has a mark, which `mark` publishes in each room, and judges. */
  async settle(
    mark: () => Promise<number[]>,
    reach: (what: string, condition: () => boolean) => Promise<void>,
    publishers: number,
    subscribers: readonly Subscriber[],
  ): Promise<void> {
    await reach("every subscriber is connected", () => subscribers.every((one) => one.isOpen));
    const marks = await mark();
    const { ids, newest } = this.#places;
    await reach("every subscriber has the mark of its room", () =>
      subscribers.every((one) => ids.has(marks[ROOMS.indexOf(one.room)]!) && one.known === newest.get(one.epoch)),
    );
    this.judge(publishers, subscribers);
  }

  /** No process publishes, and each subscriber got a mark. `publishers`: number of worker processes so far. */
  judge(publishers: number, subscribers: readonly Subscriber[]): void {
    const life = lifeOf(this.#books);
    if (life !== this.#life) {
      this.#life = life;
      this.#done = ROOMS.map(() => 0);
      this.#maybe = ROOMS.map(() => 0);
    }
    for (let publisher = 0; publisher < publishers; publisher++) this.#count(publisher);
    for (const [index, room] of ROOMS.entries()) {
      const readers = subscribers.filter((one) => one.room === room);
      const epochs = new Set(readers.map(({ epoch }) => epoch));
      if (epochs.size !== 1) this.#problem(`${room} has the epochs ${[...epochs].join()}`);
      const newest = this.#places.newest.get(readers[0]!.epoch) ?? 0;
      for (const { known } of readers)
        if (known !== newest) this.#problem(`${room}: a subscriber is at ${known}, the stream at ${newest}`);
      const [least, most] = [this.#done[index]!, this.#done[index]! + this.#maybe[index]!];
      if (newest < least || newest > most)
        this.#problem(`${room} has ${newest} events, its publishers sent ${least} to ${most}`);
    }
  }

  #count(publisher: number): void {
    let event = this.#next.get(publisher) ?? publisher * EVENTS;
    for (; event < (publisher + 1) * EVENTS; event++) {
      const bits = this.#books.runs[event]!;
      if (!(bits & INTENT)) break;
      const room = this.#books.outcome[event]!;
      const life = Math.floor(bits / LIFE);
      const isSeen = this.#places.ids.delete(event); // each event is judged once
      if (bits & REFUSED && isSeen) this.#problem(`event ${event} was refused, and sent`);
      if (bits & REFUSED) continue;
      const isOfBefore = (life + 1) % LIVES === this.#life && !(bits & DONE);
      if (life !== this.#life && !isOfBefore) continue; // its hub was killed
      if (!(bits & DONE)) this.#maybe[room]!++;
      else this.#done[room]!++;
      if (bits & DONE && !isSeen && ROOMS[room] !== "flood") this.#problem(`event ${event} of ${ROOMS[room]} is lost`);
    }
    this.#next.set(publisher, event);
  }
}
