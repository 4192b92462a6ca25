/** Subscribers of the hub's proof: each reads one stream of events and accounts for every event of it. */

import type { RequestBooks } from "../soak/request-books.ts";
import { Random } from "../soak/request-books.ts";
import type { Stage } from "./caller.ts";
import { Connection } from "./connection.ts";
import { dataOf, EVENTS, INTENT, type Room } from "./rooms.ts";

/** What subscribers met. */
export const counted = { events: 0, told: 0, unknown: 0, replays: 0, left: 0, restarts: 0 };

const AGAIN_MS = 100;

/** What all subscribers know together: each event has one place in one stream. */
export class Places {
  /** Id by event. */
  readonly ids = new Map<number, string>();
  /** Number of the newest event by epoch. */
  readonly newest = new Map<string, number>();
}

interface Place {
  readonly epoch: string;
  readonly number: number;
}

export class Subscriber {
  readonly room: Room;
  readonly #stage: Stage;
  readonly #books: RequestBooks;
  readonly #places: Places;
  readonly #random: Random;
  #connection: Connection | null = null;
  #text = "";
  /** The newest event that it got, or its place before the first one. */
  #last: Place | null = null;
  /** Number of events that the hub has reported as missing since the last one; `null`: an unknown number. */
  #missing: number | null = 0;
  /** Newest event of each publisher. */
  readonly #newest = new Map<number, number>();
  /** Whether the numbers of its stream have no gaps. */
  readonly #isDense: boolean;
  /** Events that it got since the list was cleared. */
  readonly got = new Set<number>();
  /** Whether the hub said that it lost events, or forgot where it was. */
  mayMiss = false;
  /** The hub sends it events. */
  isOpen = false;
  #isLeaving = false;
  /** The stream that it reads is the hub's answer while there is no worker. */
  #isEmpty = false;

  /** `isDense: false`: the hub's processes number the events of all streams together. */
  constructor(stage: Stage, books: RequestBooks, places: Places, room: Room, seed: number, isDense = true) {
    this.room = room;
    this.#isDense = isDense;
    this.#stage = stage;
    this.#books = books;
    this.#places = places;
    this.#random = new Random(seed);
  }

  /** Number of the newest event that it knows to exist, got or missing; `null` if the number of missing ones is unknown. */
  get known(): number | null {
    return this.#last === null || this.#missing === null ? null : this.#last.number + this.#missing;
  }

  get epoch(): string {
    return this.#last?.epoch ?? "";
  }

  async run(): Promise<void> {
    while (!this.#stage.isOver) {
      await this.#read();
      if (!this.#stage.isOver) await Bun.sleep(AGAIN_MS + this.#random.below(AGAIN_MS));
    }
  }

  /** Leaves, and connects again later. `forgets`: it does not tell where it was. */
  leave(forgets: boolean): void {
    counted.left++;
    this.#isLeaving = true;
    if (forgets) {
      this.mayMiss = true;
      this.#last = null;
      this.#missing = 0;
    }
    this.#connection?.close();
  }

  /** Reads nothing until the returned function is called. */
  pause(): () => void {
    const connection = this.#connection;
    connection?.pause();
    return () => connection?.resume();
  }

  end(): void {
    this.#connection?.close();
  }

  async #read(): Promise<void> {
    const { hubs, hubEnds, port, eventProblem } = this.#stage;
    const connection = new Connection(port);
    this.#connection = connection;
    this.#isLeaving = false;
    this.#isEmpty = false;
    this.#text = "";
    if (!(await connection.opened)) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    const last = this.#last;
    const lines = [
      "Host: h",
      "Accept: text/event-stream",
      ...(last ? [`Last-Event-ID: ${last.epoch}-${last.number}`] : []),
    ];
    if (last) counted.replays++;
    this.#missing = 0; // the hub tells it again
    let status = 0;
    connection.send(
      `GET ${this.room === "all" ? "/events" : `/feed/${this.room}`} HTTP/1.1\r\n${lines.join("\r\n")}\r\n\r\n`,
      {
        head: (code) => void (status = code),
        bytes: (part) => {
          if (status === 200) this.#take(part.toString("latin1"));
        },
        end: () => resolve(),
      },
    );
    await promise;
    const wasOpen = this.isOpen;
    this.isOpen = false;
    connection.close();
    const { hubKills, isEnding } = this.#stage;
    if (hubKills >= hubs || isEnding || this.#stage.hubEnds > hubEnds) counted.restarts++;
    else if (
      !this.#isLeaving &&
      !this.#stage.isOver &&
      !this.#isEmpty &&
      (wasOpen || ![502, 503, 504].includes(status))
    )
      eventProblem(`a stream of ${this.room} ended by itself, with the status ${status}`);
  }

  #take(text: string): void {
    this.#text += text;
    for (let end = this.#text.indexOf("\n\n"); end >= 0; end = this.#text.indexOf("\n\n")) {
      this.#part(this.#text.slice(0, end));
      this.#text = this.#text.slice(end + 2);
    }
  }

  #part(part: string): void {
    if (this.#isLeaving) return;
    this.#isEmpty = part.startsWith("retry:");
    this.isOpen = !this.#isEmpty;
    if (part === ":" || this.#isEmpty) return;
    const fields = Object.fromEntries(
      part.split("\n").map((line) => /^(\w+): (.*)$/.exec(line)?.slice(1) ?? ["bad", line]),
    );
    const { id, event, data = "" } = fields as Record<string, string>;
    if (event === "slotbus-lost") this.#lose((JSON.parse(data) as { lost: number | null }).lost);
    else if (event === "proof" && id !== undefined) this.#got(id, data);
    else this.#stage.eventProblem(`a stream of ${this.room} has "${part.slice(0, 100)}"`);
  }

  #lose(lost: number | null): void {
    this.mayMiss = true;
    if (lost === null) counted.unknown++;
    else counted.told += lost;
    this.#missing = lost === null || this.#missing === null ? null : this.#missing + lost;
  }

  #got(id: string, data: string): void {
    counted.events++;
    const { eventProblem: problem } = this.#stage;
    const [, epoch = "", digits] = /^(.+)-(\d+)$/.exec(id) ?? [];
    const number = Number(digits);
    const last = this.#last;
    const where = `${this.room}: event ${id} after ${last?.epoch}-${last?.number}, told ${this.#missing}`;
    if (last?.epoch === epoch) {
      if (number <= last.number) problem(`${where}: it came again`);
      else if (this.#isDense && this.#missing !== null && number !== last.number + this.#missing + 1)
        problem(`${where}: some are lost`);
    } else if (last !== null && this.#missing !== null) problem(`${where}: nothing says that some may be lost`);
    this.#last = { epoch, number };
    this.#missing = 0;
    if (!this.#isDense && last !== null && last.epoch !== epoch) problem(`${where}: the epoch changed`);
    const text = this.room === "all" ? (JSON.parse(data) as { data: string }).data : data;
    const event = Number.parseInt(text, 10);
    if (!(this.#books.runs[event]! & INTENT) || text !== dataOf(event, this.room))
      problem(`${where}: it is not what ${event} was: "${text.slice(0, 60)}"`);
    if (!this.#isDense) this.got.add(event);
    this.#place(event, id, epoch, number);
  }

  /** Each event has one id, and the events of one publisher are in order. */
  #place(event: number, id: string, epoch: string, number: number): void {
    const { ids, newest } = this.#places;
    const known = ids.get(event);
    if (known !== undefined && known !== id) this.#stage.eventProblem(`event ${event} has the ids ${known} and ${id}`);
    if (known === undefined) ids.set(event, Buffer.from(id).toString()); // a part of a text keeps the whole text
    newest.set(epoch, Math.max(number, newest.get(epoch) ?? 0));
    const publisher = Math.floor(event / EVENTS);
    if (event <= (this.#newest.get(publisher) ?? -1)) this.#stage.eventProblem(`${this.room}: ${event} came too late`);
    this.#newest.set(publisher, event);
  }
}
