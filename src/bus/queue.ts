/** First-in, first-out queue of the exchanges that wait for a worker. Adding and removing, also from the middle, is O(1). */

import type { Exchange } from "./exchange.ts";

/** A linked list whose links are in the exchanges. */
export class ExchangeQueue {
  length = 0;
  #head: Exchange | null = null;
  #tail: Exchange | null = null;

  get head(): Exchange | null {
    return this.#head;
  }

  pushBack(exchange: Exchange): void {
    const { extra } = exchange;
    extra.previous = this.#tail;
    extra.next = null;
    if (this.#tail) this.#tail.extra.next = exchange;
    else this.#head = exchange;
    this.#tail = exchange;
    this.#count(exchange, true);
  }

  /** Adds an exchange at the front: it came back from a worker that ended, and is older than all others. */
  pushFront(exchange: Exchange): void {
    const { extra } = exchange;
    extra.next = this.#head;
    extra.previous = null;
    if (this.#head) this.#head.extra.previous = exchange;
    else this.#tail = exchange;
    this.#head = exchange;
    this.#count(exchange, true);
  }

  remove(exchange: Exchange): void {
    if (!exchange.isQueued) return;
    const { extra } = exchange;
    if (extra.previous) extra.previous.extra.next = extra.next;
    else this.#head = extra.next;
    if (extra.next) extra.next.extra.previous = extra.previous;
    else this.#tail = extra.previous;
    extra.next = null;
    extra.previous = null;
    this.#count(exchange, false);
  }

  /** Calls `visit` for each exchange. `visit` may remove that exchange. */
  each(visit: (exchange: Exchange) => void): void {
    for (let exchange = this.#head; exchange;) {
      const { next }: { next: Exchange | null } = exchange.extra;
      visit(exchange);
      exchange = next;
    }
  }

  #count({ extra }: Exchange, queued: boolean): void {
    extra.queued = queued;
    this.length += queued ? 1 : -1;
  }
}
