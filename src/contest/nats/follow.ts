/**
 * Follows keys of a bucket: first their present state, then each change. An ephemeral consumer of the stream sends them. If one is
 * missing, or no sign of life comes, or the connection was lost, a new consumer starts from the present state.
 */

import type { Msg, Subscription } from "@nats-io/transport-node";
import { backoff } from "../../backoff.ts";
import { systemClock, type Timer } from "../../clock.ts";
import { isUnheard } from "../../nats/link.ts";
import { type Bucket, type Entry, entryOf } from "./bucket.ts";

/** Time between two signs of life of a quiet consumer, in ms. */
const HEARTBEAT_MS = 2_000;
/** Time without any message after which the consumer counts as lost, in ms. */
const SILENCE_MS = 5_000;
const RETRIES = { initial: 20, max: 2_000 };

export interface FollowEvents {
  /** A key was written, or its lease ended. */
  entry(entry: Entry): void;
  /** The present state of all keys was delivered. A key without an entry since {@link restart} has no lease. */
  complete(): void;
  /** The state follows from the start. */
  restart(): void;
}

export class Follow {
  readonly #bucket: Bucket;
  readonly #filter: string;
  readonly #events: FollowEvents;
  readonly #unwatch: () => void;
  #inbox: Subscription | null = null;
  #consumer = "";
  /** Number of messages that the consumer has sent. */
  #received = 0;
  #failures = 0;
  #timer: Timer | null = null;
  #closed = false;

  /** `key`: the key to follow, or `>` for all. */
  constructor(bucket: Bucket, key: string, events: FollowEvents) {
    this.#bucket = bucket;
    this.#filter = bucket.subject + key;
    this.#events = events;
    this.#unwatch = bucket.fleet.link.watch((isConnected) => {
      if (isConnected) this.#start();
    });
    this.#start();
  }

  /** Ends it. Calling it again does nothing. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#unwatch();
    this.#stop();
  }

  #stop(): void {
    this.#timer?.close();
    this.#timer = null;
    this.#inbox?.unsubscribe();
    this.#inbox = null;
    const consumer = this.#consumer;
    this.#consumer = "";
    // Without an answer, the server removes it by itself.
    if (consumer) void this.#bucket.api("CONSUMER.DELETE", consumer, null).catch(() => {});
  }

  #start(): void {
    if (this.#closed) return;
    this.#stop();
    this.#received = 0;
    this.#open().then(
      () => (this.#failures = 0),
      () => this.#again(backoff(this.#failures++, RETRIES, systemClock.random)),
    );
  }

  async #open(): Promise<void> {
    const bucket = this.#bucket;
    const { connection } = bucket.fleet;
    const name = crypto.randomUUID().replaceAll("-", "");
    const { inboxPrefix = "_INBOX" } = (connection as { options?: { inboxPrefix?: string } }).options ?? {};
    const inbox = `${inboxPrefix}.${name}`;
    this.#events.restart();
    this.#consumer = name;
    this.#inbox = connection.subscribe(inbox, {
      callback: (error, message) => {
        if (this.#consumer === name && !error) this.#onMessage(message);
      },
    });
    const config = {
      name,
      deliver_subject: inbox,
      deliver_policy: "last_per_subject",
      ack_policy: "none",
      filter_subject: this.#filter,
      idle_heartbeat: HEARTBEAT_MS * 1e6,
      inactive_threshold: SILENCE_MS * 1e6,
      num_replicas: 1,
      mem_storage: true,
    };
    this.#again(SILENCE_MS);
    const answer = (await bucket.api("CONSUMER.CREATE", `${name}.${this.#filter}`, {
      stream_name: bucket.stream,
      config,
      action: "create",
    })) as { error?: { description?: string }; num_pending?: number; delivered?: { consumer_seq?: number } };
    if (this.#consumer !== name) return;
    if (answer.error) throw new Error(answer.error.description);
    if (answer.num_pending === 0 && !answer.delivered?.consumer_seq) this.#events.complete();
  }

  /** Starts again after `ms`, unless a message comes before. */
  #again(ms: number): void {
    if (this.#closed) return;
    this.#timer?.close();
    this.#timer = systemClock.after(ms, () => this.#start());
    this.#timer.unref();
  }

  #onMessage(message: Msg): void {
    this.#again(SILENCE_MS);
    const { headers } = message;
    if (headers?.code === 100) {
      const last = Number(headers.get("Nats-Last-Consumer"));
      if (last !== this.#received) this.#start();
      return;
    }
    const place = placeOf(message.reply ?? "");
    if (isUnheard(message) || !place || !message.subject.startsWith(this.#bucket.subject)) return;
    if (place.number !== ++this.#received) return this.#start();
    const key = message.subject.slice(this.#bucket.subject.length);
    const field = (name: string): string => headers?.get(name) ?? "";
    this.#events.entry(entryOf(key, place.revision, place.written, field, message.string()));
    if (place.pending === 0) this.#events.complete();
  }
}

/** Place of a message in its stream and its consumer. */
interface Place {
  readonly revision: number;
  readonly number: number;
  readonly written: number;
  readonly pending: number;
}

/**
 * Reads the reply subject of a delivered message: `$JS.ACK.STREAM.CONSUMER.DELIVERED.SEQUENCE.NUMBER.TIME.PENDING`, or with domain and
 * account before the stream.
 */
export function placeOf(reply: string): Place | null {
  const tokens = reply.split(".");
  const at = tokens.length === 9 ? 4 : tokens.length >= 11 ? 6 : -1;
  if (at < 0 || tokens[0] !== "$JS" || tokens[1] !== "ACK") return null;
  const [, revision = Number.NaN, number = Number.NaN, time = Number.NaN, pending = Number.NaN] = tokens
    .slice(at, at + 5)
    .map(Number);
  const isRight = [revision, number, pending].every((one) => Number.isSafeInteger(one) && one >= 0);
  return isRight && Number.isFinite(time) ? { revision, number, written: Math.floor(time / 1e6), pending } : null;
}

/** Follows single keys for guards and waiting claims: one {@link Follow} for all that wait for the same key. */
export class Keys {
  readonly #bucket: Bucket;
  readonly #all = new Map<string, Followed>();

  constructor(bucket: Bucket) {
    this.#bucket = bucket;
  }

  /** Calls `changed` with the present state of the key and each later one (`null`: no lease), until the returned function is called. */
  listen(key: string, changed: (entry: Entry | null) => void): () => void {
    const followed = this.#all.get(key) ?? this.#follow(key);
    const { listeners } = followed;
    const own = (entry: Entry | null): void => changed(entry);
    listeners.add(own);
    const { last } = followed;
    if (last !== undefined) queueMicrotask(() => listeners.has(own) && own(last));
    return () => {
      if (!listeners.delete(own) || listeners.size > 0 || this.#all.get(key) !== followed) return;
      this.#all.delete(key);
      followed.follow.close();
    };
  }

  close(): void {
    for (const { follow } of this.#all.values()) follow.close();
    this.#all.clear();
  }

  #follow(key: string): Followed {
    const listeners = new Set<(entry: Entry | null) => void>();
    let seen = false;
    const tell = (entry: Entry | null): void => {
      followed.last = entry;
      for (const listener of listeners) listener(entry);
    };
    const follow = new Follow(this.#bucket, key, {
      restart: () => (seen = false),
      entry: (entry) => {
        seen = true;
        tell(entry);
      },
      complete: () => {
        if (!seen) tell(null);
      },
    });
    const followed: Followed = { follow, listeners, last: undefined };
    this.#all.set(key, followed);
    return followed;
  }
}

interface Followed {
  readonly follow: Follow;
  readonly listeners: Set<(entry: Entry | null) => void>;
  /** The last state; `undefined`: not known yet. */
  last: Entry | null | undefined;
}
