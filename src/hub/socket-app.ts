/** WebSockets of mounted apps: handlers as `Bun.serve` takes them, above a connection that the hub holds. */

import type { ServerWebSocket, WebSocketHandler } from "bun";
import type { FetchHandler } from "../bus/request.ts";
import { fetchUpgrade } from "./app.ts";
import type { HubSocket, SocketHandlers } from "./socket.ts";
import { unknownConnection } from "./socket-server.ts";

/** Microtasks that a handler may take before its response is sent. What it sends later travels on its own. */
const HOPS = 32;
/** Values of `readyState`. */
const OPEN = 1;
const CLOSED = 3;

/** Connections of this process by id. */
const connections = new Map<string, AppSocket>();

/** An app whose WebSocket handlers follow the option `websocket` of `Bun.serve`. */
export interface SocketApp extends FetchHandler {
  // oxlint-disable-next-line no-explicit-any -- each app has its own data
  readonly websocket?: WebSocketHandler<any>;
}

/** Handlers of Elysia's connections: they are in the data of each. */
const ofElysia: WebSocketHandler<Record<string, undefined | ((...args: unknown[]) => void)>> = {
  open: (ws) => ws.data["open"]?.(ws),
  message: (ws, message) => ws.data["message"]?.(ws, message),
  close: (ws, code, reason) => ws.data["close"]?.(ws, code, reason),
};

/** Returns the handlers of an app's connections; `null` if it has none. The app sees paths without their first `cut` characters. */
export function appSockets(app: SocketApp, cut: number): SocketHandlers | null {
  const handlers = app.websocket ?? ("server" in app && "getServer" in app ? ofElysia : null);
  if (handlers === null) return null;
  return {
    async open(socket, request) {
      const { response, accepted } = await fetchUpgrade(app, request.raw, cut);
      if (!accepted) return response ?? { status: 404 };
      const own = new AppSocket(socket, accepted.data);
      connections.set(socket.id, own);
      socket.headers = accepted.headers;
      socket.pin();
      return await own.run(socket, () => handlers.open?.(own.asBun()));
    },
    message: (socket, message) => {
      const own = connections.get(socket.id);
      if (!own) throw unknownConnection;
      const given = typeof message === "string" ? message : Buffer.from(message.slice().buffer);
      return own.run(socket, () => handlers.message?.(own.asBun(), given));
    },
    close(socket, code, reason) {
      const own = connections.get(socket.id);
      if (!own) return;
      connections.delete(socket.id);
      own.readyState = CLOSED;
      return own.run(socket, () => handlers.close?.(own.asBun(), code, reason));
    },
  };
}

/** A connection as handlers for Bun's server know it. */
class AppSocket {
  readonly data: unknown;
  readonly remoteAddress = "";
  binaryType = "nodebuffer";
  readyState = OPEN;
  readonly #topics = new Set<string>();
  #socket: HubSocket;

  constructor(socket: HubSocket, data: unknown) {
    this.#socket = socket;
    this.data = data;
  }

  asBun(): ServerWebSocket<never> {
    return this as unknown as ServerWebSocket<never>;
  }

  /** Calls a handler; what it sends at once travels with the response. */
  async run(socket: HubSocket, handle: () => unknown): Promise<void> {
    this.#socket = socket;
    const running = handle();
    for (let hop = 0; hop < HOPS; hop++) await Promise.resolve();
    await running;
  }

  get subscriptions(): string[] {
    return [...this.#topics];
  }

  send(message: unknown): number {
    if (this.readyState !== OPEN) return 0;
    const sent = messageOf(message);
    this.#socket.send(sent);
    return sent.length;
  }

  sendText(message: string): number {
    return this.send(message);
  }

  sendBinary(message: unknown): number {
    return this.send(message);
  }

  publish(topic: string, message: unknown): number {
    const sent = messageOf(message);
    this.#socket.publish(topic, sent);
    return sent.length;
  }

  publishText(topic: string, message: string): number {
    return this.publish(topic, message);
  }

  publishBinary(topic: string, message: unknown): number {
    return this.publish(topic, message);
  }

  subscribe(topic: string): boolean {
    this.#socket.subscribe(topic);
    this.#topics.add(topic);
    return true;
  }

  unsubscribe(topic: string): boolean {
    this.#socket.unsubscribe(topic);
    return this.#topics.delete(topic);
  }

  isSubscribed(topic: string): boolean {
    return this.#topics.has(topic);
  }

  close(code?: number, reason?: string): void {
    if (this.readyState !== OPEN) return;
    this.readyState = CLOSED;
    this.#socket.close(code, reason);
  }

  terminate(): void {
    this.close();
  }

  /** The hub pings by itself. */
  ping(): number {
    return 1;
  }

  pong(): number {
    return 1;
  }

  cork<R>(callback: (ws: ServerWebSocket<never>) => R): R {
    return callback(this.asBun());
  }
}

/** Buffers of any kind as bytes. */
function messageOf(message: unknown): string | Uint8Array {
  if (message instanceof ArrayBuffer || message instanceof SharedArrayBuffer) return new Uint8Array(message);
  if (ArrayBuffer.isView(message)) return new Uint8Array(message.buffer, message.byteOffset, message.byteLength);
  return message as string; // checked when it is sent
}
