/** What lies between a client and a worker: the slots of their attachment, and the bells or frames that travel between them. */

import type { Exchange } from "../../src/bus/exchange.ts";
import type { Die } from "./choices.ts";
import type { Process } from "./clock.ts";
import type { ReplayConnection } from "./connection.ts";
import type { Pipe } from "./pipe.ts";
import type { WorkerEnd } from "./worker-end.ts";

export type SlotState = "free" | "ready" | "claimed" | "streaming" | "done" | "abandoned";

/** A request on its way. */
export interface Sent {
  readonly method: number;
  readonly head: Uint8Array;
  readonly body: Uint8Array;
  readonly streams: boolean;
  /** Time left at the moment of sending, in ms; 0 for no limit. */
  readonly timeoutMs: number;
  readonly serial: number;
  /** For the books only. */
  readonly exchange: Exchange;
}

/** A response on its way; without `body` it streams. `status` 0: the handler failed. */
export interface Replied {
  readonly status: number;
  readonly head: Uint8Array;
  readonly body: Uint8Array | null;
}

/** A slot as one side sees it. Both sides of a wire with shared memory see the same face. */
export class Face {
  state: SlotState = "free";
  /** Number of the request in the slot. */
  token = 0;
  request: Sent | null = null;
  reply: Replied | null = null;
  /** The body of the request, and the body of the response. */
  up: Pipe | null = null;
  down: Pipe | null = null;
}

/** A place for one request. */
export class Slot {
  readonly index: number;
  readonly client: Face;
  readonly worker: Face;

  constructor(index: number, isShared: boolean) {
    this.index = index;
    this.client = new Face();
    this.worker = isShared ? this.client : new Face();
  }
}

/** One end of a link. */
export interface End {
  readonly host: Process;
  /** Whether it still reads what the other side says. */
  readonly isOpen: boolean;
  /** Called with a bell (`frame` is `null`: look at the slot) or a frame. Handled at once or with the next poll. */
  receive(slot: Slot, frame: (() => void) | null): void;
}

export type Side = "client" | "worker";

/** Longest usual delay of a bell or a frame, in ms. */
const DELAY_MS = 6;
/** Time after which a lost bell is noticed at the latest, in ms. */
const LOST_MS = 45;

/** The attachment of one worker to one client. */
export class Link {
  readonly id: number;
  /** Name of the bus. */
  readonly bus: string;
  readonly die: Die;
  /** Personality: `true` asks, as a socket does; `false` withdraws at once, as shared memory does. */
  readonly asks: boolean;
  readonly slots: Slot[];
  readonly ends: { client: ReplayConnection | null; worker: WorkerEnd | null } = { client: null, worker: null };
  /** Size of the rings of streams, in bytes. */
  readonly ringBytes: number;
  /** Time at which the last frame to each side arrives. */
  readonly #arrival: Record<Side, number> = { client: 0, worker: 0 };
  /** Frames that are still in the sender's buffer, by the request's token. */
  readonly #buffered = new Map<number, { isSent: boolean; isTaken: boolean }>();
  #token = 0;

  constructor(id: number, die: Die, concurrency: number, bus: string) {
    this.id = id;
    this.bus = bus;
    this.die = die;
    this.asks = die.below("personality", 2) === 1;
    this.slots = Array.from({ length: concurrency }, (_, index) => new Slot(index, !this.asks));
    this.ringBytes = [256, 64, 1024, 17][die.small("ring", 4)]!;
  }

  nextToken(): number {
    return ++this.#token;
  }

  /** Tells the other side that the counts of a pipe changed, by `change`. */
  moved(to: Side, pipe: Pipe, change: () => void): void {
    const slot = this.slots[pipe.slot]!;
    if (this.asks) {
      this.post(to, slot, change);
    } else {
      change();
      this.ring(to, slot);
    }
  }

  pushed(to: Side, pipe: Pipe, bytes: number): void {
    this.moved(to, pipe, () => {
      pipe.visible += bytes;
    });
  }

  pulled(to: Side, pipe: Pipe, bytes: number): void {
    this.moved(to, pipe, () => {
      pipe.credited += bytes;
    });
  }

  #delay(to: Side): number {
    return this.die.small(`delay to ${to}`, DELAY_MS * 10) / 10;
  }

  /**
   * Rings the bell of a slot. Bells of shared memory carry nothing, so they may come in any order, twice, or late: a lost bell is
   * noticed with the next tick.
   */
  ring(to: Side, slot: Slot): void {
    const end = this.ends[to];
    if (!end) return;
    const { die } = this;
    const isLost = die.chance(`lost bell to ${to}`, 20);
    const ms = isLost ? LOST_MS : this.#delay(to);
    const arrive = (): void => {
      if (end.isOpen) end.receive(slot, null);
    };
    end.host.later(ms, arrive);
    if (die.chance(`doubled bell to ${to}`, 20)) end.host.later(ms + this.#delay(to), arrive);
  }

  /** Sends a frame. Frames arrive in order, once, unless the other side has closed or died. Asking wires only. */
  post(to: Side, slot: Slot, frame: () => void, wait = 0): void {
    const end = this.ends[to];
    if (!end) return;
    this.inOrder(to, wait, () => {
      if (end.isOpen) end.receive(slot, frame);
    });
  }

  /** Runs `run` at the other side after everything that was sent to it before. */
  inOrder(to: Side, wait: number, run: () => void): void {
    const end = this.ends[to];
    if (!end) return;
    const { now } = end.host.time;
    const at = Math.max(this.#arrival[to], now + wait + this.#delay(to));
    this.#arrival[to] = at;
    end.host.later(at - now, run);
  }

  /**
   * Sends a request frame, which may first wait in the sender's buffer because the socket is full. Until it leaves the buffer,
   * {@link recall} takes it back.
   */
  postRequest(slot: Slot, token: number, frame: () => void): void {
    const wait = this.die.rarely("full socket", 40, 30);
    const entry = { isSent: wait === 0, isTaken: false };
    this.#buffered.set(token, entry);
    if (wait > 0) {
      this.ends.client!.host.later(wait, () => {
        entry.isSent = true;
      });
    }
    this.post(
      "worker",
      slot,
      () => {
        if (!entry.isTaken && entry.isSent) frame();
      },
      wait,
    );
  }

  /** Takes a request frame back. Returns `false` if it has left the buffer. */
  recall(token: number): boolean {
    const entry = this.#buffered.get(token);
    if (!entry || entry.isSent) return false;
    return (entry.isTaken = true);
  }
}
