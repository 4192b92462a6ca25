/** WebSocket connections as handlers of a worker see them. The hub keeps the connections; a message comes to one process. */

import type { Answerable } from "../bus/answer.ts";
import { InvalidConfigError } from "../errors.ts";
import type { HubRequest, PathParams } from "./context.ts";
import { Commands, DATA, DATA_MAX, PIN, readCommands, SUBSCRIBE, UNSUBSCRIBE } from "./socket-commands.ts";
import { checkClose, checkKey, codeOf, type HubSockets } from "./socket-sender.ts";

type Later<T> = T | Promise<T>;

/** Handlers of the connections of a WebSocket route. */
export interface SocketHandlers<Pattern extends string = string> {
  /**
   * Called before the client's handshake is answered. If it returns `false`, the client gets 403; if it returns a response, that
   * response; if it throws, 500. Otherwise the connection is open.
   */
  open?(socket: HubSocket<Pattern>, request: HubRequest<Pattern>): Later<Answerable | boolean | void>;
  /** Called for each message, in order: the next call is made after this one has ended. A binary message is a `Uint8Array`. */
  message?(socket: HubSocket<Pattern>, message: string | Uint8Array<ArrayBuffer>): Later<unknown>;
  /** Called once when an accepted connection is closed, after its last message. `code` 1006: without a close frame. */
  close?(socket: HubSocket<Pattern>, code: number, reason: string): Later<unknown>;
  /** Called before the next message if a process died while it handled a message of the connection; that message is lost. */
  lost?(socket: HubSocket<Pattern>, reason: string): Later<unknown>;
}

/** A WebSocket route; created by {@link ws}. */
export class SocketRoute {
  readonly handlers: SocketHandlers;

  /** @internal */
  constructor(handlers: SocketHandlers) {
    this.handlers = handlers;
  }
}

/**
 * Returns a route for WebSockets. The hub holds the connections, so that the processes of the worker may come and go.
 *
 *     "/chat/:room": ws({ message: (socket, text) => socket.publish(socket.params.room, text) })
 */
export function ws<Pattern extends string = string>(handlers: SocketHandlers<Pattern>): SocketRoute {
  return new SocketRoute(handlers as SocketHandlers);
}

/**
 * A connection. What a handler does with it before it ends travels with the end of the handler; later calls travel on their own.
 * Keep `id` to send from elsewhere: `worker.sockets.send(id, …)`.
 */
export class HubSocket<Pattern extends string = string> {
  /** Id of the connection, the same in each process. */
  readonly id: string;
  /** Parameters of the path, percent-decoded. */
  readonly params: PathParams<Pattern>;
  /** Subprotocol that `open` chooses; `""`: none. */
  protocol = "";
  /** @internal Headers of the response to the handshake. */
  headers: Headers | null = null;
  readonly #sockets: HubSockets;
  readonly #report: (error: unknown) => void;
  #json: string | null;
  /** What the response of the handler will bring; `null` after the handler. */
  #own: Commands | null = new Commands();
  /** Whether the handler continues in a later turn. */
  #isLate = false;
  #isScheduled = false;

  /** @internal `json`: the data of the connection. `report` gets the error of a call that failed after the handler's end. */
  constructor(
    id: string,
    params: Readonly<Record<string, string>>,
    json: string | null,
    sockets: HubSockets,
    report: (error: unknown) => void,
  ) {
    this.id = id;
    this.params = params as PathParams<Pattern>;
    this.#json = json;
    this.#sockets = sockets;
    this.#report = report;
  }

  /**
   * A value that the hub keeps with the connection and gives to each handler, in any process; `null` at first. It travels with
   * each message as JSON of at most 4096 bytes: set a new value to change it. @throws {InvalidConfigError}
   */
  get data(): unknown {
    return this.#json === null ? null : JSON.parse(this.#json);
  }

  set data(value: unknown) {
    const json = asciiJson(value);
    if (json.length > DATA_MAX)
      throw new InvalidConfigError(
        `The data of a connection is ${json.length} bytes as JSON; the limit is ${DATA_MAX}.`,
      );
    this.#json = json;
    this.#add((commands, key) => commands.add(DATA, key, json));
  }

  /** Sends a message: text, or bytes as a binary message. @throws {InvalidConfigError}; `PAYLOAD_TOO_LARGE` above 2 MiB. */
  send(message: string | Uint8Array): void {
    const code = codeOf(message);
    this.#add((commands, key) => commands.add(code, key, message));
  }

  /** Sends a message to all other connections that subscribe to the topic. @throws as {@link send} */
  publish(topic: string, message: string | Uint8Array): void {
    codeOf(message);
    checkKey("topic", topic);
    this.#add((commands) => commands.addPublish(topic, message, this.id));
  }

  /** Subscribes the connection to a topic of this worker name. @throws {InvalidConfigError} */
  subscribe(topic: string): void {
    checkKey("topic", topic);
    this.#add((commands, key) => commands.add(SUBSCRIBE, key, topic));
  }

  unsubscribe(topic: string): void {
    checkKey("topic", topic);
    this.#add((commands, key) => commands.add(UNSUBSCRIBE, key, topic));
  }

  /** Closes the connection. `code`: 1000, or 3000 to 4999. @throws {InvalidConfigError} */
  close(code = 1_000, reason = ""): void {
    checkClose(code, reason);
    this.#add((commands, key) => commands.addClose(key, code, reason));
  }

  /** @internal All messages of the connection shall come to this process. */
  pin(): void {
    this.#add((commands, key) => commands.add(PIN, key, ""));
  }

  /** @internal The handler continues in a later turn: what it sends must not wait for its end. */
  goOn(): void {
    this.#isLate = true;
    if (this.#own && !this.#own.isEmpty) this.#schedule();
  }

  /** @internal Ends the handler; returns what its response brings. */
  end(): Uint8Array {
    const own = this.#own!;
    this.#own = null;
    return own.isEmpty ? nothing : own.take();
  }

  #add(fill: (commands: Commands, key: string) => void): void {
    if (this.#own === null) return void this.#sockets.add((commands) => fill(commands, this.id)).catch(this.#report);
    fill(this.#own, "");
    if (this.#isLate) this.#schedule();
  }

  /** Sends what the handler has collected, unless it ends in this turn. */
  #schedule(): void {
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    setImmediate(() => {
      this.#isScheduled = false;
      if (this.#own === null || this.#own.isEmpty) return;
      const bytes = this.#own.take();
      const named = (commands: Commands): void => {
        for (const { code, key, content } of readCommands(bytes)) commands.add(code, key || this.id, content);
      };
      this.#sockets.add(named).catch(this.#report);
    });
  }
}

const nothing = new Uint8Array();

/** JSON whose characters are ASCII, as a header may have them. */
function asciiJson(value: unknown): string {
  const json = JSON.stringify(value) as string | undefined;
  if (json === undefined) throw new InvalidConfigError("The data of a connection is not a value of JSON.");
  return json.replace(/[\u007f-\uffff]/g, (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, "0")}`);
}
