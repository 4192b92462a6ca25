/** Sends to WebSocket connections outside of their handlers. What one turn of the event loop sends travels together. */

import { InvalidConfigError, HubError, SlotbusError } from "../errors.ts";
import { shown } from "../check.ts";
import type { HubClient } from "./client.ts";
import { BATCH_BYTES, Commands, COMMANDS_PATH, KEY_MAX, SEND_BINARY, SEND_TEXT, SENT_MAX } from "./socket-commands.ts";
import { SUBSCRIBE, UNSUBSCRIBE } from "./socket-commands.ts";

/** Bytes that wait at most; further calls reject. */
const WAITING_MAX = 16 << 20;
const REASON_MAX = 123;

/** Commands that travel together. */
interface Batch {
  readonly commands: Commands;
  readonly sent: PromiseWithResolvers<void>;
}

/**
 * Sends to WebSocket connections of the worker's routes, from any process of the worker. Each method resolves when the hub has
 * taken it; a connection that is closed is skipped. It rejects with {@link HubError} when the hub refuses or does not respond, or
 * when 16 MiB wait.
 */
export class HubSockets {
  readonly #client: HubClient;
  readonly #head: Uint8Array;
  #batches: Batch[] = [];
  #bytes = 0;
  #isSending = false;
  #current: Batch | null = null;

  /** @internal */
  constructor(client: HubClient, worker: string) {
    this.#client = client;
    const name = Buffer.from(worker);
    this.#head = Buffer.concat([new Uint8Array([name.length]), name]);
  }

  /** Sends a message to one connection: text, or bytes as a binary message. */
  send(id: string, message: string | Uint8Array): Promise<void> {
    const code = codeOf(message);
    checkKey("id", id);
    return this.add((commands) => commands.add(code, id, message));
  }

  /** Sends a message to all connections that subscribe to the topic. */
  publish(topic: string, message: string | Uint8Array): Promise<void> {
    codeOf(message);
    checkKey("topic", topic);
    return this.add((commands) => commands.addPublish(topic, message, ""));
  }

  subscribe(id: string, topic: string): Promise<void> {
    checkKey("id", id);
    checkKey("topic", topic);
    return this.add((commands) => commands.add(SUBSCRIBE, id, topic));
  }

  unsubscribe(id: string, topic: string): Promise<void> {
    checkKey("id", id);
    checkKey("topic", topic);
    return this.add((commands) => commands.add(UNSUBSCRIBE, id, topic));
  }

  /** Closes a connection. `code`: 1000, or 3000 to 4999. */
  close(id: string, code = 1_000, reason = ""): Promise<void> {
    checkKey("id", id);
    checkClose(code, reason);
    return this.add((commands) => commands.addClose(id, code, reason));
  }

  /** @internal */
  add(fill: (commands: Commands) => void): Promise<void> {
    if (this.#bytes > WAITING_MAX) {
      const what = `More than ${WAITING_MAX} bytes of messages wait for hub "${this.#client.hub}".`;
      return Promise.reject(new HubError(what, { retryable: true, hint: "Await the calls before you send more." }));
    }
    let batch = this.#batches.at(-1);
    if (batch === undefined || batch.commands.bytes > BATCH_BYTES) {
      batch = { commands: new Commands(), sent: Promise.withResolvers() };
      this.#batches.push(batch);
    }
    const before = batch.commands.bytes;
    fill(batch.commands);
    this.#bytes += batch.commands.bytes - before;
    if (!this.#isSending) {
      this.#isSending = true;
      setImmediate(() => void this.#send());
    }
    return batch.sent.promise;
  }

  /** @internal Resolves when everything that was sent before has arrived or failed; `null`: it has. */
  settled(): Promise<unknown> | null {
    if (!this.#isSending) return null;
    return (this.#batches.at(-1) ?? this.#current)?.sent.promise.catch(() => {}) ?? null;
  }

  async #send(): Promise<void> {
    for (let batch = this.#batches.shift(); batch !== undefined; batch = this.#batches.shift()) {
      this.#current = batch;
      const { bytes } = batch.commands;
      try {
        await this.#client.call(COMMANDS_PATH, Buffer.concat([this.#head, batch.commands.take()]));
        batch.sent.resolve();
      } catch (error) {
        batch.sent.reject(error);
      }
      this.#bytes -= bytes;
    }
    this.#current = null;
    this.#isSending = false;
  }
}

/** Returns the code of the command that sends the message. @throws {InvalidConfigError}, `PAYLOAD_TOO_LARGE` */
export function codeOf(message: unknown): typeof SEND_TEXT | typeof SEND_BINARY {
  const isText = typeof message === "string";
  if (!isText && !(message instanceof Uint8Array))
    throw new InvalidConfigError(`A WebSocket cannot send ${shown(message)}; a message is text or a Uint8Array.`);
  const bytes = isText ? Buffer.byteLength(message) : message.length;
  if (bytes > SENT_MAX) {
    const what = `The message is ${bytes} bytes; the limit of a WebSocket message is ${SENT_MAX}.`;
    throw new SlotbusError("PAYLOAD_TOO_LARGE", what, { hint: "Send it in parts, or send a URL of the data." });
  }
  return isText ? SEND_TEXT : SEND_BINARY;
}

/** @throws {InvalidConfigError} */
export function checkKey(what: "id" | "topic", key: unknown): void {
  if (typeof key === "string" && key !== "" && Buffer.byteLength(key) <= KEY_MAX) return;
  throw new InvalidConfigError(`Invalid ${what} ${shown(key)}: it must be text of 1 to ${KEY_MAX} bytes.`);
}

/** @throws {InvalidConfigError} for a code or a reason that a server may not send. */
export function checkClose(code: unknown, reason: unknown): void {
  const isCode = Number.isInteger(code) && (code === 1_000 || ((code as number) >= 3_000 && (code as number) <= 4_999));
  if (!isCode) throw new InvalidConfigError(`Invalid close code ${shown(code)}: it must be 1000, or 3000 to 4999.`);
  if (typeof reason !== "string" || Buffer.byteLength(reason) > REASON_MAX)
    throw new InvalidConfigError(
      `Invalid close reason ${shown(reason)}: it must be text of at most ${REASON_MAX} bytes.`,
    );
}
