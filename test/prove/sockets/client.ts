/** A client of the proof of WebSockets: sends messages, and checks each reply and each publication. */

import * as b from "../soak/request-books.ts";
import { LIFE } from "./names.ts";

/** What the clients and the program share. */
export interface Stage {
  port: number;
  isPaused: boolean;
  isOver: boolean;
  readonly books: b.RequestBooks;
  readonly problem: (text: string) => void;
  /** Number of hub processes that were killed or have ended so far. */
  hubEnds: number;
  /** Lost messages that hub processes have reported, by connection. */
  readonly lost: Map<string, number>;
}

export const counted = { replies: 0, lost: 0, silent: 0, published: 0, broken: 0, away: 0 };

/** Messages that one client has under way at most. */
const WINDOW = 4;

export class Client {
  readonly #stage: Stage;
  readonly #index: number;
  readonly #random: b.Random;
  #ws: WebSocket | null = null;
  #id = "";
  /** Messages without a reply, in order. */
  readonly #waiting: number[] = [];
  /** Messages of this connection that were passed over by a later reply, and notices of the worker. */
  #missing = 0;
  #notices = 0;
  /** Last publication of each life of a publisher. */
  #published = new Map<number, number>();

  constructor(stage: Stage, index: number, seed: number) {
    this.#stage = stage;
    this.#index = index;
    this.#random = new b.Random(seed);
  }

  get isIdle(): boolean {
    return this.#waiting.length === 0;
  }

  get isOpen(): boolean {
    return this.#id !== "";
  }

  async run(): Promise<void> {
    while (!this.#stage.isOver) {
      await this.#connect();
      while (this.#ws !== null && !this.#stage.isOver) {
        if (!this.#stage.isPaused && this.isOpen && this.#waiting.length < WINDOW) this.#send();
        await Bun.sleep(this.#random.below(20));
      }
    }
    this.#ws?.close(1_000);
  }

  /** Judges the connection at a quiet point: each message has a reply, or was reported as lost. */
  judge(): void {
    // The last messages may be lost without a later reply.
    this.#missing += this.#waiting.splice(0).length;
    const reported = this.#stage.lost.get(this.#id) ?? 0;
    if (this.#missing !== reported)
      this.#stage.problem(`client ${this.#index}: ${this.#missing} messages have no reply, ${reported} were reported`);
    if (this.#notices > reported) this.#stage.problem(`client ${this.#index}: more notices than lost messages`);
    counted.silent += reported - this.#notices;
  }

  #send(): void {
    const { books } = this.#stage;
    const id = books.next++;
    this.#waiting.push(id);
    const text = `${id} ${this.#random.chance(0.3) ? this.#random.below(60) : 0}`;
    this.#ws!.send(this.#random.chance(0.2) ? Buffer.from(text) : text);
  }

  async #connect(): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const ends = this.#stage.hubEnds;
    const ws = new WebSocket(`ws://127.0.0.1:${this.#stage.port}/chat/${this.#index}`);
    ws.binaryType = "nodebuffer";
    this.#ws = ws;
    ws.onmessage = ({ data }) => {
      this.#received(String(data));
      resolve();
    };
    ws.onclose = ({ code }) => {
      const { hubEnds, isOver, problem } = this.#stage;
      if (this.isOpen && !isOver && hubEnds === ends)
        problem(`client ${this.#index}: closed with ${code}, no hub has ended`);
      if (this.isOpen && !isOver) counted[code === 1_001 ? "away" : "broken"]++;
      this.#forget();
      resolve();
    };
    await promise;
    if (this.#ws === null) await Bun.sleep(20);
  }

  /** The connection has ended: its messages have run once, or not at all. */
  #forget(): void {
    this.#ws = null;
    this.#id = "";
    this.#waiting.length = 0;
    this.#missing = this.#notices = 0;
    this.#published = new Map();
  }

  #received(text: string): void {
    const [what, word] = text.split(" ");
    const n = Number(word);
    if (what === "id") this.#id = word!;
    else if (what === "lost") this.#notices++;
    else if (what === "reply") this.#reply(n);
    else this.#publication(n);
  }

  #reply(id: number): void {
    const at = this.#waiting.indexOf(id);
    if (at < 0) return this.#stage.problem(`client ${this.#index}: a reply to ${id}, which it does not wait for`);
    this.#missing += at;
    counted.lost += at;
    counted.replies++;
    this.#waiting.splice(0, at + 1);
    if ((this.#stage.books.runs[id]! & 15) !== b.BEGAN)
      this.#stage.problem(`message ${id} has a reply and has not run once`);
  }

  #publication(n: number): void {
    counted.published++;
    const life = Math.floor(n / (LIFE / 100));
    const last = this.#published.get(life);
    if (last !== undefined && n !== last + 1)
      this.#stage.problem(`client ${this.#index}: ${n} was published after ${last}`);
    this.#published.set(life, n);
  }
}
