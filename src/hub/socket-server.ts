/** Calls the handlers of WebSocket routes: a handshake or a message arrives as a request of the bus. */

import type { Answerable } from "../bus/answer.ts";
import type { WorkerRequest } from "../bus/request.ts";
import { HubRequest } from "./context.ts";
import { ACCEPTED, CONNECTION, DATA_HEADER, readClose, textOf, UNKNOWN } from "./socket-commands.ts";
import { HubSocket, type SocketHandlers } from "./socket.ts";
import type { HubSockets } from "./socket-sender.ts";

/** Thrown by a handler that needs a connection's state and does not have it. */
export const unknownConnection = new Error("This process does not have the connection.");

type Report = (error: unknown, request: { id: string; path: string }) => void;

export class SocketServer {
  readonly #sockets: HubSockets;
  readonly #report: Report;

  constructor(sockets: HubSockets, report: Report) {
    this.#sockets = sockets;
    this.#report = report;
  }

  /** Handles the handshake of a connection. */
  async open(request: WorkerRequest, handlers: SocketHandlers): Promise<Answerable> {
    const socket = this.#socketOf(request, request.headers.get(CONNECTION) ?? "", null);
    const opening = handlers.open?.(socket, new HubRequest(request));
    if (opening instanceof Promise) socket.goOn();
    const answer = await opening;
    if (answer === false)
      return { status: 403, json: { error: "The worker refused this WebSocket.", code: "REFUSED" } };
    if (answer !== undefined && answer !== true) return answer;
    await this.#sockets.settled();
    const headers = new Headers(socket.headers ?? {});
    if (socket.protocol !== "") headers.set("sec-websocket-protocol", socket.protocol);
    return { contentType: ACCEPTED, headers, body: socket.end() };
  }

  /** Handles a message, or the end of a connection. A handler that fails is reported; the connection stays. */
  handle(request: WorkerRequest, handlers: SocketHandlers): Answerable | Promise<Answerable> {
    const socket = this.#socketOf(request, request.id, request.headers.get(DATA_HEADER));
    try {
      const running = call(handlers, socket, request);
      if (running instanceof Promise) return this.#later(running, socket, request);
    } catch (error) {
      if (error === unknownConnection) return { status: UNKNOWN };
      this.#report(error, request);
    }
    return this.#sockets.settled() === null ? socket.end() : this.#later(undefined, socket, request);
  }

  async #later(running: unknown, socket: HubSocket, request: WorkerRequest): Promise<Answerable> {
    socket.goOn();
    try {
      await running;
    } catch (error) {
      this.#report(error, request);
    }
    await this.#sockets.settled();
    return socket.end();
  }

  #socketOf(request: WorkerRequest, id: string, json: string | null): HubSocket {
    return new HubSocket(id, request.params, json, this.#sockets, (error) => this.#report(error, request));
  }
}

function call(handlers: SocketHandlers, socket: HubSocket, request: WorkerRequest): unknown {
  switch (request.query) {
    case "text":
      return handlers.message?.(socket, textOf(request.body));
    case "binary":
      return handlers.message?.(socket, request.body as Uint8Array<ArrayBuffer>);
    case "lost":
      return handlers.lost?.(socket, textOf(request.body));
    case "close": {
      const { code, reason } = readClose(request.body);
      return handlers.close?.(socket, code, reason);
    }
  }
  return undefined;
}
