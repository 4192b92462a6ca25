/** Callers of the hub's proof: each is a client with its own connection. Checks and records the responses. */

import * as b from "../soak/request-books.ts";
import { Connection } from "./connection.ts";
import { METHODS, TIMEOUT_MS } from "./rooms.ts";

/** What a caller is doing when a fault comes. */
export const STATES = ["idle", "sending", "waiting", "reading"] as const;
export type State = (typeof STATES)[number];

/** How a request ended, for its caller. `left`: the caller closed the connection. */
export const ENDS = ["answered", "threw", "late", "died", "cut", "refused", "unsent", "left"] as const;
export type End = (typeof ENDS)[number];

/** What all callers share. The hub and its workers change it when they are killed and started. */
export interface Stage {
  port: number;
  /** Hubs that were started, and killed. The hub n is dead when n or more were killed. */
  hubs: number;
  hubKills: number;
  /** Orderly ends of a hub process, and whether one is under way: then event streams end, and no request fails. */
  hubEnds: number;
  isEnding: boolean;
  /** `performance.now()` of the last kill of a worker. */
  workerKilledAt: number;
  isPaused: boolean;
  isOver: boolean;
  /** Only short requests that get an answer, as fast as they can. */
  isCalm: boolean;
  readonly books: b.RequestBooks;
  readonly problem: (text: string) => void;
  /** A problem with an event, which counts as lost. */
  readonly eventProblem: (text: string) => void;
}

interface Plan {
  readonly id: number;
  readonly method: number;
  readonly mode: "plain" | "stream" | "throw";
  readonly body: Uint8Array;
  readonly nonce: number;
  readonly waitMs: number;
  readonly isChunked: boolean;
  /** Sends the body in parts, with pauses. */
  readonly isSlow: boolean;
  /** Whether the caller leaves: before the last byte of its request, or after it. */
  readonly leaves: "cut" | "after" | null;
}

interface Reply {
  status: number;
  headers: ReadonlyMap<string, string>;
  body: Buffer;
  isWhole: boolean;
}

const LARGE = 300 * 1024;
const SMALL = 4 * 1024;
/** The hub reads bodies up to this size before it forwards them. */
const WHOLE = 256 * 1024;
const PARTS = 4;
/** Time after which a request is lost, in ms: the hub's own limits are far below. */
const LOST_MS = 40_000;
/** Time in which the hub notices the end of a worker, in ms, on a busy machine. */
const NOTICED_MS = 10_000;
/** Pause after a connection that there was no hub for, in ms. */
const UNSENT_MS = 60;

const pool = new Uint8Array(2 * LARGE);
crypto.getRandomValues(pool.subarray(0, 65_536));
for (let at = 65_536; at < pool.length; at += 65_536) pool.copyWithin(at, 0, 65_536 - (at >>> 16));

export class Caller {
  readonly #stage: Stage;
  readonly #random: b.Random;
  readonly #slow: boolean;
  readonly #ends: (end: End, state: State) => void;
  #connection: Connection | null = null;
  /** Number of the hub that the connection leads to. */
  #hub = 0;
  /** Whether the connection has carried a request before this one. */
  #isKept = false;
  state: State = "idle";

  /** `slow`: its requests are always in the middle of something. `ends` counts its requests. */
  constructor(stage: Stage, seed: number, slow: boolean, ends: (end: End, state: State) => void) {
    this.#stage = stage;
    this.#random = new b.Random(seed);
    this.#slow = slow;
    this.#ends = ends;
  }

  async run(): Promise<void> {
    const stage = this.#stage;
    while (!stage.isOver) {
      if (!stage.isCalm || stage.isPaused) await Bun.sleep(this.#slow ? 1 : this.#random.below(60));
      if (stage.isPaused) this.#hangUp();
      else await this.#one(stage.isCalm ? this.#calmPlan() : this.#plan());
    }
    this.#hangUp();
  }

  #hangUp(): void {
    this.#connection?.close();
    this.#connection = null;
  }

  #calmPlan(): Plan {
    const [id, nonce] = [this.#stage.books.next++, this.#random.next()];
    const body = pool.subarray(0, this.#random.below(200));
    return { id, method: 1, mode: "plain", body, nonce, waitMs: 0, isChunked: false, isSlow: false, leaves: null };
  }

  #plan(): Plan {
    const random = this.#random;
    const id = this.#stage.books.next++;
    const isLarge = this.#slow || random.chance(0.04);
    const method = this.#slow ? 1 : random.below(METHODS.length);
    const bytes = method === 0 ? 0 : isLarge ? LARGE - random.below(1_000) : random.size(SMALL);
    const start = random.below(1_000) * 4;
    return {
      id,
      method,
      mode: this.#slow || random.chance(0.1) ? "stream" : random.chance(0.03) ? "throw" : "plain",
      body: random.chance(0.2) && bytes > 0 ? bait(id, bytes) : pool.subarray(start, start + bytes),
      nonce: random.next(),
      waitMs: random.chance(0.04) ? TIMEOUT_MS + 1_000 : random.chance(0.3) ? random.below(40) : 0,
      isChunked: bytes > 0 && random.chance(0.3),
      isSlow: this.#slow || random.chance(0.1),
      leaves: random.chance(0.06) ? (random.chance(0.5) ? "cut" : "after") : null,
    };
  }

  async #one(plan: Plan): Promise<void> {
    const { books, hubs, port } = this.#stage;
    const { id } = plan;
    const began = performance.now();
    books.outcome[id] = b.ISSUED;
    if (this.#connection?.isOpen === false) this.#hangUp(); // the hub has closed it since the last response
    this.#isKept = this.#connection !== null;
    if (this.#connection === null) {
      this.#connection = new Connection(port);
      this.#hub = hubs;
    }
    const connection = this.#connection;
    if (!(await connection.opened)) {
      await Bun.sleep(UNSENT_MS);
      return this.#settle(id, b.REFUSED, "unsent");
    }
    const { promise, resolve } = Promise.withResolvers<Reply>();
    const reply: Reply = { status: 0, headers: new Map(), body: Buffer.alloc(0), isWhole: false };
    const parts: Buffer[] = [];
    const receiver = {
      head: (status: number, headers: ReadonlyMap<string, string>) => {
        this.state = "reading";
        Object.assign(reply, { status, headers });
      },
      bytes: (part: Buffer) => void parts.push(part),
      end: (isWhole: boolean) => resolve(Object.assign(reply, { isWhole, body: Buffer.concat(parts) })),
    };
    this.state = "sending";
    const hasSent = await this.#send(connection, plan, receiver);
    if (hasSent && this.state === "sending") this.state = "waiting";
    if (plan.leaves === "after") {
      await Bun.sleep(this.#random.below(20));
      return this.#leave(id, b.ABORTED);
    }
    // Only a request that is forwarded while it is read may reach a worker in parts, and its body then fails there.
    if (!hasSent) return this.#leave(id, plan.isChunked || plan.body.length > WHOLE ? b.ABORTED : b.REFUSED);
    const hangs = setTimeout(() => {
      this.#stage.problem(`request ${id} got no response for ${LOST_MS} ms`);
      connection.close();
    }, LOST_MS);
    this.#judge(plan, await promise, began);
    const isLast = reply.headers.get("connection")?.toLowerCase() === "close";
    clearTimeout(hangs);
    if (connection.hasExtra) this.#wrong(id, "bytes arrived that belong to no request");
    if (isLast || !connection.isOpen) this.#hangUp();
  }

  /** Sends the request, and returns whether all of it is sent. */
  async #send(connection: Connection, plan: Plan, receiver: Parameters<Connection["send"]>[1]): Promise<boolean> {
    const { id, nonce, body, method, mode, waitMs, isChunked, isSlow, leaves } = plan;
    const order = [id, nonce, b.checksum(body, nonce), body.length, waitMs, method].join(".");
    const size = isChunked ? "Transfer-Encoding: chunked" : `Content-Length: ${body.length}`;
    const lines = [`${METHODS[method]} /work/${mode}?order=${order} HTTP/1.1`, "Host: h", `X-Request-Id: ${id}`];
    if (method > 0) lines.push(size);
    const head = Buffer.from(`${lines.join("\r\n")}\r\n\r\n`, "latin1");
    const whole = Buffer.concat([head, isChunked ? chunked(body) : body]);
    const length = leaves === "cut" ? this.#random.below(whole.length) : whole.length;
    const step = isSlow ? Math.max(1, Math.ceil(length / PARTS)) : length;
    connection.send(whole.subarray(0, step), receiver);
    for (let at = step; at < length && connection.isOpen; at += step) {
      await Bun.sleep(15);
      connection.send(whole.subarray(at, Math.min(length, at + step)));
    }
    return length === whole.length;
  }

  #leave(id: number, outcome: number): void {
    this.#hangUp();
    this.#settle(id, outcome, "left");
  }

  #judge(plan: Plan, reply: Reply, began: number): void {
    const { id, nonce, body, mode, waitMs } = plan;
    const { status, headers, isWhole } = reply;
    const stage = this.#stage;
    const hasDied = stage.workerKilledAt > began - NOTICED_MS;
    if (!isWhole) {
      // A hub process that ends closes idle connections; a request that crosses the close did not run.
      if (status === 0 && this.#isKept && stage.isEnding) return this.#settle(id, b.REFUSED, "unsent");
      // The head of a streamed response is sent with its first bytes, so the worker may die before both.
      const isBroken = hasDied && (status > 0 || mode === "stream");
      if (stage.hubKills < this.#hub && !isBroken)
        this.#wrong(
          id,
          `the connection closed after the status ${status} (${mode}, ${body.length} bytes), without a kill`,
        );
      return this.#settle(id, b.FAILED, "cut");
    }
    if (headers.get("x-request-id") !== String(id)) this.#wrong(id, `response of ${headers.get("x-request-id")}`);
    const code = status === 200 ? "" : (JSON.parse(reply.body.toString()) as { code: string }).code;
    if (status === 200) {
      const right = new Uint8Array(body.length);
      b.transform(body, nonce, right);
      if (headers.get("tag") !== `${id}.${nonce}` || !reply.body.equals(right))
        this.#wrong(id, `${reply.body.length} bytes with the tag ${headers.get("tag")}`);
      this.#settle(id, b.ANSWERED, "answered");
    } else if (code === "HANDLER_FAILED" && mode === "throw") this.#settle(id, b.ANSWERED, "threw");
    else if (code === "TIMEOUT") this.#settle(id, b.FAILED, "late");
    else if (code === "WORKER_DIED" && hasDied) this.#settle(id, b.FAILED, "died");
    else if (status === 503 && headers.has("retry-after")) this.#settle(id, b.REFUSED, "refused");
    else {
      this.#wrong(id, `status ${status} ${code}`);
      this.#settle(id, b.FAILED, "died");
    }
    if (waitMs > TIMEOUT_MS && status === 200) this.#wrong(id, "answered after its timeout");
  }

  #wrong(id: number, what: string): void {
    this.#stage.books.outcome[id]! |= b.WRONG;
    this.#stage.problem(`request ${id}: ${what}`);
  }

  #settle(id: number, outcome: number, end: End): void {
    const { books } = this.#stage;
    const before = books.outcome[id]!;
    books.outcome[id] = before | (before & b.SETTLED ? b.TWICE : outcome);
    this.#ends(end, this.state);
    if (end === "unsent") this.#hangUp();
    this.state = "idle";
  }
}

/** A body that is another request, if someone takes it for one. */
function bait(id: number, bytes: number): Uint8Array {
  const text = `\r\n\r\nGET /bait/${id} HTTP/1.1\r\nHost: h\r\n\r\n`;
  return Buffer.from(text.repeat(Math.ceil(bytes / text.length)).slice(0, bytes), "latin1");
}

/** A body in two chunks. */
function chunked(body: Uint8Array): Uint8Array {
  const half = body.length >>> 1;
  const parts = [body.subarray(0, half), body.subarray(half)].filter(({ length }) => length > 0);
  const framed = parts.flatMap((part) => [Buffer.from(`${part.length.toString(16)}\r\n`), part, Buffer.from("\r\n")]);
  return Buffer.concat([...framed, Buffer.from("0\r\n\r\n")]);
}
