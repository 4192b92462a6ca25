/** Subscribers: each checks every event and keeps its own sums in the books. */

import type { BusEvent, Cursor, CursorItem, EventBus, Fleet, Gap, Subscription } from "../../../src/events/index.ts";
import { EventsLostError } from "../../../src/errors.ts";
import type { Bookmark } from "../../../src/fleet/event-ring.ts";
import { leakSome } from "../memory.ts";
import type { FleetBooks } from "./fleet-books.ts";
import { bytesOf, eventOf, FILTERS, FIRST_BUS, RINGS } from "./payloads.ts";

/** How it reads: `poll` polls with a timer, the others sleep. */
export interface ReadOrder {
  ring: number;
  way: "poll" | "loop";
  /** Longest time for one event, in ms; 0: none. */
  slowMs: number;
  /** Of a bus: number of the filter, `queue` and `policy`. */
  filter?: number;
  queue?: number;
  policy?: "drop-newest" | "drop-oldest" | "close";
  /** Where to begin; default: what is published from now on. A bookmark may be of an earlier epoch. */
  from?: "oldest" | Bookmark;
}

/** Report of a subscriber at a quiet point. */
export interface ReaderReport {
  subscriber: number;
  ring: number;
  filter: number;
  how: string;
  /** Events of its filter, of living and dead writers, that it never saw: each was overwritten or dropped. */
  skipped: number;
  /** By life: the last number received. */
  last: [life: number, number: number][];
  bookmark: Bookmark | null;
}

export class Reader {
  readonly subscriber: number;
  readonly #fleet: Fleet;
  readonly #books: FleetBooks;
  readonly #life: number;
  readonly #order: ReadOrder;
  readonly #problem: (text: string) => void;
  readonly #wants: (number: number) => boolean;
  readonly #cursor: Cursor | null = null;
  readonly #subscription: Subscription<BusEvent> | null = null;
  /** Life of each member that published, and the last number of each. */
  readonly #lives = new Map<string, number>();
  readonly #last = new Map<number, number>();
  #skipped = 0;
  #received = 0;
  #overwritten = 0;
  #dropped = 0;
  #event = -1;
  #position = -1;
  #epochs = 0;
  #isOver = false;

  constructor(
    fleet: Fleet,
    books: FleetBooks,
    life: number,
    busOf: (ring: number) => EventBus,
    order: ReadOrder,
    problem: (text: string) => void,
  ) {
    this.#fleet = fleet;
    this.#books = books;
    this.#life = life;
    this.#order = order;
    this.#problem = problem;
    const filter = FILTERS[order.filter ?? 0]!;
    this.#wants = filter.wants;
    this.subscriber = books.newSubscriber(life, order.ring);
    const { done } = books.published(fleet.epoch, order.ring);
    const { from } = order;
    let start = this.#place(from);
    if (order.ring < FIRST_BUS) {
      this.#cursor = fleet.ring(RINGS[order.ring]!.name).cursor({ from: from ?? "head" });
      start = this.#cursor.bookmark;
    } else if (typeof from === "object" && from.epoch !== fleet.epoch) {
      for (;;) {
        // a subscription does not tell where it began: nothing may be lost meanwhile
        start = this.#place("oldest");
        this.#subscription = this.#subscribe(busOf(order.ring), from);
        if (this.#place("oldest").event === start.event) break;
        this.#subscription.close();
      }
    } else {
      this.#subscription = this.#subscribe(busOf(order.ring), start);
    }
    const after = books.published(fleet.epoch, order.ring);
    const isHead = from === undefined;
    this.#note("low", isHead ? done : 0);
    this.#note("high", after.done + after.undecided);
    this.#note("start", start.event!);
    this.#note("sleeps", order.way === "loop" ? 1 : 0);
    this.#note("open", 1);
  }

  /** Position of a cursor that begins there. */
  #place(from: ReadOrder["from"]): Bookmark {
    const cursor = this.#fleet.ring(RINGS[this.#order.ring]!.name).cursor({ from: from ?? "head" });
    const { bookmark } = cursor;
    cursor.close();
    return bookmark;
  }

  #subscribe(bus: EventBus, from: Bookmark): Subscription<BusEvent> {
    const { filter = 0, queue, policy } = this.#order;
    return bus.subscribe(FILTERS[filter]!.filter, {
      from,
      queue: { limit: queue, policy },
    });
  }

  get how(): string {
    const { ring, way, slowMs, filter = 0, queue, policy } = this.#order;
    const bus = ring < FIRST_BUS ? "" : ` filter ${FILTERS[filter]!.name} queue ${queue} ${policy}`;
    return `${way} ring ${RINGS[ring]!.name}${slowMs > 0 ? ` slow ${slowMs} ms` : ""}${bus}`;
  }

  get report(): ReaderReport {
    this.tell();
    return {
      subscriber: this.subscriber,
      ring: this.#order.ring,
      filter: this.#order.filter ?? 0,
      how: this.how,
      skipped: this.#skipped,
      last: [...this.#last],
      bookmark: this.#cursor && !this.#cursor.closed ? this.#cursor.bookmark : null,
    };
  }

  /** Reads until it is closed. */
  async run(): Promise<void> {
    try {
      if (this.#order.way === "poll") await this.#runPoll();
      else await this.#runLoop();
    } catch (error) {
      if (!(error instanceof EventsLostError) || this.#order.policy !== "close") throw error;
      this.#note("open", 0);
      if (this.#overwritten + this.#dropped + (this.#subscription?.lost ?? 0) === 0)
        this.#wrong("it was closed for a loss, and none was lost");
    }
  }

  close(): void {
    this.#isOver = true;
    this.#note("open", 0);
    this.#cursor?.close();
    this.#subscription?.close();
  }

  /** Writes its sums into the books. */
  tell(): void {
    const counts = this.#subscription?.counts;
    this.#note("received", this.#received);
    this.#note("filtered", counts?.filtered ?? 0);
    this.#note("overwritten", this.#overwritten);
    this.#note("dropped", this.#dropped);
    if (!counts) return;
    if (counts.received !== this.#received)
      this.#wrong(`it received ${this.#received}, and its subscription says ${counts.received}`);
    if (counts.undecodable > 0) this.#wrong(`${counts.undecodable} events could not be read`);
  }

  async #runPoll(): Promise<void> {
    const { slowMs } = this.#order;
    while (!this.#isOver) {
      this.#books.doing(this.#life, "polling");
      const items = this.#cursor ? this.#cursor.poll(50) : this.#subscription!.poll(50);
      for (const item of items) this.#take(item);
      this.tell();
      this.#books.doing(this.#life, "idle");
      await Bun.sleep(items.length > 0 || this.#books.hurry > 0 ? 0 : Math.max(1, slowMs));
    }
  }

  async #runLoop(): Promise<void> {
    const { slowMs } = this.#order;
    const items = (this.#cursor ?? this.#subscription!) as AsyncIterable<CursorItem | BusEvent | Gap>;
    this.#books.doing(this.#life, "sleeping");
    for await (const item of items) {
      this.#books.doing(this.#life, "handling");
      this.#take(item);
      if (slowMs > 0 && this.#books.hurry === 0) await Bun.sleep(slowMs);
      this.tell();
      this.#books.doing(this.#life, "sleeping");
    }
  }

  #take(item: CursorItem | BusEvent | Gap): void {
    leakSome();
    if ("topic" in item) {
      if (item.topic === null) this.#takeGap(item);
      else this.#takeEvent(item);
    } else if ("body" in item) {
      if (item.event <= this.#event) this.#wrong(`event ${item.event} came after ${this.#event}`, "doubled");
      const consumed = this.#books.noted(this.subscriber, "start") + this.#received + this.#overwritten;
      if (item.event !== consumed) this.#wrong(`event ${item.event} came, and ${consumed} was next`);
      this.#event = item.event;
      const life = this.#placeOf(item.writer, item.incarnation, item.kind, item.position);
      if (life < 0) return;
      if (!Buffer.from(bytesOf(life, item.kind, this.#order.ring)).equals(item.body))
        this.#wrong(`event ${item.event} (life ${life}, number ${item.kind}) is torn or changed`);
    } else if ("overwritten" in item) {
      this.#overwritten += item.overwritten;
    } else {
      this.#takeEpoch(item.epoch);
    }
  }

  #takeGap(gap: Gap): void {
    this.#overwritten += gap.overwritten;
    this.#dropped += gap.dropped;
    if (gap.epoch !== undefined) this.#takeEpoch(gap.epoch);
  }

  #takeEpoch(epoch: number): void {
    const { from } = this.#order;
    this.#epochs++;
    const isDue = typeof from === "object" && from.epoch !== epoch && this.#epochs === 1 && this.#received === 0;
    if (!isDue || epoch !== this.#fleet.epoch) this.#wrong(`it received epoch ${epoch} at the wrong time`);
  }

  #takeEvent(event: BusEvent): void {
    const { life: claimed, number } = event.payload as { life: number; number: number };
    const life = this.#placeOf(event.writer, event.incarnation, number, event.position);
    if (life < 0) return;
    const told = eventOf(life, number, this.#order.ring);
    const isRight =
      claimed === life &&
      event.topic === told.topic &&
      event.id === (told.id ?? null) &&
      Bun.deepEquals(event.attributes, told.attributes) &&
      (event.payload as { text: string }).text === told.payload.text;
    if (!isRight) this.#wrong(`number ${number} of life ${life} is torn or changed`);
    if (!this.#wants(number)) this.#wrong(`number ${number} does not pass the filter`);
  }

  /** Checks and counts an event of a writer: the writer's earlier events were received, or are lost. */
  #placeOf(writer: number, incarnation: number, number: number, position: number): number {
    this.#received++;
    if (position <= this.#position) this.#wrong(`position ${position} came after ${this.#position}`, "doubled");
    this.#position = position;
    const key = `${writer}.${incarnation}`;
    let life = this.#lives.get(key);
    if (life === undefined) {
      life = this.#books.lifeOf(this.#fleet.epoch, writer, incarnation);
      this.#lives.set(key, life);
    }
    if (life < 0) {
      this.#wrong(`number ${number} is of unknown member ${key}`);
      return -1;
    }
    if (number >= this.#books.intentOf(life, this.#order.ring))
      this.#wrong(`number ${number} of life ${life} was never published`);
    const last = this.#last.get(life);
    if (last !== undefined && number <= last)
      this.#wrong(`number ${number} of life ${life} came after ${last}`, "doubled");
    for (let n = (last ?? number) + 1; n < number; n++) if (this.#wants(n)) this.#skipped++;
    this.#last.set(life, number);
    return life;
  }

  #note(field: Parameters<FleetBooks["note"]>[1], value: number): void {
    this.#books.note(this.subscriber, field, value);
  }

  #wrong(text: string, how: "wrong" | "doubled" = "wrong"): void {
    this.#note(how, this.#books.noted(this.subscriber, how) + 1);
    this.#problem(`subscriber ${this.subscriber} of life ${this.#life} (${this.how}): ${text}`);
  }
}
