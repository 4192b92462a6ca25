/** One WebSocket connection of the hub: what has not been delivered to its worker yet, and its state. */

import type { Server, ServerWebSocket } from "bun";
import { BoundedQueue } from "../bounded-queue.ts";
import type { BusRequest } from "../bus/call.ts";
import { DATA_HEADER, SOCKET_PATH } from "./socket-commands.ts";

/** What is delivered to a worker. */
export interface Item {
  readonly kind: "text" | "binary" | "lost" | "close";
  readonly body: string | Uint8Array;
}

/** Size of an item besides its body, in bytes: bounds the number of small messages that wait. */
const ITEM_BYTES = 64;

export class Connection {
  readonly id: string;
  /** Identifies its route; stays the same when its worker registers again. */
  readonly key: string;
  /** Worker name of its route. */
  readonly worker: string;
  readonly path: string;
  /** Handshake as it was sent to the worker. */
  handshake: BusRequest;
  readonly server: Server<unknown>;
  /** Messages that wait for the worker. */
  readonly waiting: BoundedQueue<Item>;
  /** Delivered before anything that waits. */
  first: Item | null = null;
  /** `null` before the connection is open. */
  ws: ServerWebSocket<unknown> | null = null;
  /** What the worker has sent before the connection is open. */
  welcome: Uint8Array | null = null;
  /** Whether a message is being delivered. */
  isRunning = false;
  /** Whether the hub or the worker has closed it; the client may not know yet. */
  isClosing = false;
  /** Called once when the connection ends; `null` afterwards. */
  onEnd: (() => void) | null;
  /** Process that gets all messages of the connection; `null`: any process of the worker. */
  pid: number | null = null;
  #message: BusRequest;

  /** `limit`: bytes that may wait for the worker. */
  constructor(
    id: string,
    key: string,
    worker: string,
    handshake: BusRequest,
    server: Server<unknown>,
    limit: number,
    onEnd: (() => void) | null,
  ) {
    this.id = id;
    this.key = key;
    this.worker = worker;
    this.path = handshake.path;
    this.handshake = handshake;
    this.server = server;
    this.onEnd = onEnd;
    this.waiting = new BoundedQueue(limit, "close", sizeOf);
    const { pattern, params } = handshake;
    this.#message = { method: "POST", path: SOCKET_PATH, pattern: pattern!, params: params!, id };
  }

  /** Adds an item. Returns `false` if there is no room. */
  add(item: Item): boolean {
    if (item.kind !== "close" && !this.waiting.accepts(sizeOf(item))) return false;
    this.waiting.push(item);
    return true;
  }

  /** Removes and returns the next item. */
  take(): Item | null {
    const { first } = this;
    this.first = null;
    return first ?? this.waiting.take() ?? null;
  }

  /** Drops the messages that wait; the end of the connection is still delivered. */
  drop(): void {
    for (const item of this.waiting.takeAll()) if (item.kind === "close") this.waiting.push(item);
  }

  /** Frees the memory of the headers, which are not needed again. */
  forgetHandshake(): void {
    this.handshake = this.#message;
  }

  /** The request that delivers an item. */
  request({ kind, body }: Item): BusRequest {
    return { ...this.#message, query: kind, body };
  }

  /** Sets the data that each further request brings. */
  setData(json: string): void {
    this.#message = { ...this.#message, headers: { [DATA_HEADER]: json } };
  }
}

function sizeOf(item: unknown): number {
  return (item as Item).body.length + ITEM_BYTES;
}

/** Lets a limited number of tasks run at once; the others wait in their order. */
export class Gate {
  readonly #limit: number;
  #running = 0;
  readonly #waiting = new BoundedQueue<() => void>(Infinity, "block");

  constructor(limit: number) {
    this.#limit = limit;
  }

  /** Returns a promise that resolves when the task may run; `null`: now. */
  enter(): Promise<void> | null {
    if (this.#running < this.#limit) {
      this.#running++;
      return null;
    }
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#waiting.push(resolve);
    return promise;
  }

  leave(): void {
    const next = this.#waiting.take();
    if (next) next();
    else this.#running--;
  }
}
