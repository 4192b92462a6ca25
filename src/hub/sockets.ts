/**
 * WebSockets of a hub. The hub keeps the connections; each message is a request to a process of the worker, one at a time per
 * connection, and the response brings what the worker wants to send.
 */

import type { Server, ServerWebSocket, WebSocketHandler } from "bun";
import { backoff } from "../backoff.ts";
import type { BusResponse, StreamedResponse } from "../bus/response.ts";
import { systemClock } from "../clock.ts";
import { RemoteError, RequestTimeoutError, SlotbusError } from "../errors.ts";
import { Failure } from "./failure.ts";
import { Ids } from "./ids.ts";
import type { ResolvedHubOptions } from "./options.ts";
import { handshakeOf, headerOf, type Incoming } from "./proxy.ts";
import type { Registry } from "./registry.ts";
import type { Route } from "./routes.ts";
import type { HubMessageInfo, Service } from "./service.ts";
import * as commands from "./socket-commands.ts";
import { type Command, Commands, readCommands, textOf } from "./socket-commands.ts";
import { Connection, Gate, type Item } from "./socket-connection.ts";

type AnyServer = Server<unknown>;

/** Messages that are with the workers of one name at most; further ones wait in the order of their connections. */
const AT_ONCE = 256;
/** Pauses while no worker can take a message. */
const PAUSE = { initial: 10, max: 1_000 };
/** Time for which a hub that closes waits until its workers know that the connections are closed, in ms. */
const FAREWELL_MS = 1_000;
/** Close codes of RFC 6455 (7.4.1). */
const GOING_AWAY = 1_001;
const POLICY = 1_008;
const FAILED = 1_011;
const RESTARTS = 1_012;

export class Sockets {
  readonly #registry: Registry;
  readonly #options: ResolvedHubOptions;
  readonly #lost: (message: HubMessageInfo) => void;
  readonly #ids = new Ids();
  readonly #connections = new Map<string, Connection>();
  /** Servers that have had a connection: a message to a topic goes to each of them. */
  readonly #servers = new Set<AnyServer>();
  readonly #gates = new Map<string, Gate>();
  /** Current WebSocket routes by key. */
  #routes = new Map<string, Route<Service>>();
  readonly #running = new Set<Promise<void>>();
  #isClosed = false;
  /** Lets the other processes of a shared hub carry out commands; `null`: there are none. */
  share: ((worker: string, commands: Uint8Array) => Promise<void>) | null = null;
  /** Number of messages from clients. */
  messages = 0;
  /** Number of these that were lost with a process. */
  losses = 0;

  /** `lost` is called for each message that was lost with its process. */
  constructor(registry: Registry, options: ResolvedHubOptions, lost: (message: HubMessageInfo) => void) {
    this.#registry = registry;
    this.#options = options;
    this.#lost = lost;
  }

  /** Number of open connections. */
  get size(): number {
    return this.#connections.size;
  }

  /** The option `websocket` of the server that calls the hub. */
  handler(): WebSocketHandler<unknown> {
    const { messageBytes, clientBytes, idle, compress } = this.#options.ws;
    return {
      maxPayloadLength: Math.min(messageBytes, this.#options.payloadBytes),
      backpressureLimit: clientBytes,
      closeOnBackpressureLimit: true,
      idleTimeout: Math.ceil(idle / 1_000),
      sendPings: true,
      perMessageDeflate: compress,
      open: (ws) => this.#opened(ws, ws.data as Connection),
      message: (ws, message) => this.#received(ws.data as Connection, message),
      close: (ws, code, reason) => this.#ended(ws.data as Connection, code, reason),
    };
  }

  // ---- handshake --------------------------------------------------------------------------------------------------

  /**
   * Opens a connection. Resolves to `null` when it is open, or to the response of a worker that refused it. `onEnd` is called when
   * an open connection ends. @throws (rejects) {Failure}, and errors of the bus
   */
  async open(
    route: Route<Service>,
    incoming: Incoming,
    server: AnyServer | undefined,
    onEnd: (() => void) | null,
  ): Promise<StreamedResponse | null> {
    if (!server) throw new Failure(501, "NO_WEBSOCKET", "Pass the server to hub.fetch as its second argument.");
    this.#check(incoming);
    const id = this.#ids.next();
    const handshake = handshakeOf(incoming, id);
    const limit = this.#options.ws.waitingBytes;
    const connection = new Connection(id, keyOf(route), route.owner.name, handshake, server, limit, onEnd);
    let response: StreamedResponse;
    try {
      response = await route.owner.bus.stream(handshake, { timeout: route.limits.timeout });
    } catch (error) {
      if (error instanceof RequestTimeoutError && error.mayHaveExecuted) this.#sayEnded(connection, 1_006, "");
      throw error;
    }
    if (response.status !== 200 || response.contentType !== commands.ACCEPTED) return response;
    const welcome = await response.bytes();
    this.#readWelcome(connection, welcome, response.workerPid);
    const headers = response.toHeaders();
    headers.delete("content-type");
    this.#upgrade(connection, incoming.request, headers);
    return null;
  }

  #check({ request, headers, isTrusted }: Incoming): void {
    const { origins, maxConnections } = this.#options.ws;
    if (request.method !== "GET" || headerOf(headers, "sec-websocket-key") === null)
      throw new Failure(400, "BAD_HANDSHAKE", "This is not the handshake of a WebSocket.");
    if (headerOf(headers, "sec-websocket-version") !== "13")
      throw new Failure(426, "BAD_HANDSHAKE", "The hub speaks version 13 of WebSocket.", {
        "sec-websocket-version": "13",
      });
    const origin = headerOf(headers, "origin");
    const forwarded = isTrusted ? headerOf(headers, "x-forwarded-host") : null;
    const host = (forwarded?.split(",")[0] ?? headerOf(headers, "host") ?? "").trim();
    const isAllowed = origins === null ? isOf(origin, host) : origins === "*" || origins.includes(origin ?? "");
    if (origin !== null && !isAllowed)
      throw new Failure(403, "BAD_ORIGIN", `Pages of ${origin.slice(0, 200)} may not open WebSockets here.`);
    if (this.#isClosed) throw new Failure(503, "CLOSING", "The hub is closing.", { "retry-after": "1" });
    if (this.size >= maxConnections)
      throw new Failure(503, "TOO_MANY_WEBSOCKETS", `The hub has ${maxConnections} WebSockets.`, {
        "retry-after": "1",
      });
  }

  /** Reads what must be known before the connection is open. */
  #readWelcome(connection: Connection, welcome: Uint8Array, pid: number): void {
    for (const { code, content } of readCommands(welcome)) {
      if (code === commands.PIN) connection.pid = pid;
      if (code === commands.DATA) connection.setData(dataOf(content));
    }
    connection.welcome = welcome;
    if (connection.pid === null) connection.forgetHandshake();
  }

  #upgrade(connection: Connection, request: Request, headers: Headers): void {
    const { server } = connection;
    this.#connections.set(connection.id, connection);
    let isOpen = false;
    try {
      isOpen = server.upgrade(request, { data: connection, headers } as never);
    } catch (cause) {
      throw new Failure(501, "NO_WEBSOCKET", `The server has no option websocket: hub.websocket (${String(cause)}).`);
    } finally {
      if (!isOpen) {
        this.#connections.delete(connection.id);
        this.#sayEnded(connection, 1_006, "");
      }
    }
    if (!isOpen) throw new DOMException("The client has disconnected.", "AbortError");
    this.#servers.add(server);
  }

  #opened(ws: ServerWebSocket<unknown>, connection: Connection): void {
    connection.ws = ws;
    const welcome = connection.welcome!;
    connection.welcome = null;
    const route = this.#routes.get(connection.key);
    if (!route || this.#isClosed) return this.#shut(connection, GOING_AWAY, "");
    connection.isRunning = true; // messages wait until the worker's first commands were carried out
    void this.#keep(this.#carryOut(connection, welcome).then(() => this.#run(connection)));
  }

  // ---- messages ---------------------------------------------------------------------------------------------------

  #received(connection: Connection, message: string | Uint8Array): void {
    if (connection.isClosing) return;
    this.messages++;
    const item: Item = { kind: typeof message === "string" ? "text" : "binary", body: message };
    if (!connection.add(item)) return this.#shut(connection, POLICY, "Too many messages wait for the worker.");
    this.#start(connection);
  }

  #ended(connection: Connection, code: number, reason: string): void {
    this.#connections.delete(connection.id);
    connection.isClosing = true;
    connection.onEnd?.();
    connection.onEnd = null;
    this.#sayEnded(connection, code, reason);
  }

  /** Tells the worker that the connection is closed, after its last message. */
  #sayEnded(connection: Connection, code: number, reason: string): void {
    const text = Buffer.from(reason);
    connection.add({ kind: "close", body: Buffer.concat([new Uint8Array([code & 255, code >> 8]), text]) });
    this.#start(connection);
  }

  #start(connection: Connection): void {
    if (connection.isRunning) return;
    connection.isRunning = true;
    void this.#keep(this.#run(connection));
  }

  #keep(running: Promise<void>): void {
    this.#running.add(running);
    void running.finally(() => this.#running.delete(running));
  }

  /** Delivers what waits, one message after another. */
  async #run(connection: Connection): Promise<void> {
    for (let item = connection.take(); item !== null; item = connection.take()) {
      try {
        await this.#deliver(connection, item);
      } catch (error) {
        this.#failed(connection, item, error as Error);
      }
    }
    connection.isRunning = false;
  }

  /** Delivers a message as soon as a worker takes it. @throws (rejects) when a worker may have handled it. */
  async #deliver(connection: Connection, item: Item): Promise<void> {
    for (let attempt = 0; ; attempt++) {
      const route = this.#routes.get(connection.key);
      if (!route) return; // the connection is closed too
      try {
        return await this.#ask(connection, item, route);
      } catch (error) {
        const isUntouched = error instanceof SlotbusError && !error.mayHaveExecuted;
        if (!isUntouched || this.#isClosed) throw error;
        await Bun.sleep(backoff(attempt, PAUSE, systemClock.random));
      }
    }
  }

  async #ask(connection: Connection, item: Item, route: Route<Service>): Promise<void> {
    const { bus, name } = route.owner;
    const { timeout } = route.limits;
    const gate = this.#gateOf(name);
    const turn = gate.enter();
    let response: BusResponse;
    try {
      if (turn) await turn;
      const request = connection.request(item);
      if (connection.pid === null) response = await bus.request(request, { timeout });
      else response = await this.#askPinned(connection, item, route);
    } finally {
      gate.leave();
    }
    const { body } = response;
    const at = commands.onlyMessage(body);
    if (at > 0) this.#send(connection, body[0]!, body.subarray(at));
    else if (body.length > 0) await this.#carryOut(connection, body);
  }

  /** Sends an item to the process that has the connection's state. If the process has ended, another one repeats the handshake. */
  async #askPinned(connection: Connection, item: Item, { owner, limits }: Route<Service>): Promise<BusResponse> {
    const { bus } = owner;
    const { timeout } = limits;
    const worker = bus.workers.find(({ pid }) => pid === connection.pid)?.id;
    if (worker !== undefined) {
      const response = await bus.request(connection.request(item), { timeout, worker });
      if (response.status !== commands.UNKNOWN) return response;
    }
    const again = await bus.request(connection.handshake, { timeout });
    if (again.contentType !== commands.ACCEPTED) {
      this.#shut(connection, POLICY, "The worker refused the connection after a restart.");
      return again;
    }
    connection.pid = again.workerPid;
    await this.#carryOut(connection, again.body);
    return this.#askPinned(connection, item, { owner, limits } as Route<Service>);
  }

  #gateOf(worker: string): Gate {
    let gate = this.#gates.get(worker);
    if (!gate) this.#gates.set(worker, (gate = new Gate(AT_ONCE)));
    return gate;
  }

  /** A message was, or may have been, with a worker when that failed. It is not sent again. */
  #failed(connection: Connection, item: Item, error: Error): void {
    if (error instanceof RemoteError || item.kind === "close") return; // the worker has reported it
    const reason = error.message;
    if (item.kind !== "lost") {
      this.losses++;
      this.#lost({ worker: connection.worker, connection: connection.id, path: connection.path, reason });
    }
    // A handler that still runs would overlap with the next one.
    if (error instanceof RequestTimeoutError)
      this.#shut(connection, FAILED, "The worker did not handle a message in time.");
    else if (!(error instanceof SlotbusError) || error.code === "PROTOCOL") this.#shut(connection, FAILED, "");
    else if (item.kind !== "lost") connection.first = { kind: "lost", body: reason };
  }

  // ---- commands ---------------------------------------------------------------------------------------------------

  /** Carries out commands of a worker. @throws `PROTOCOL` */
  command(worker: string, bytes: Uint8Array): void {
    for (const command of readCommands(bytes)) this.#act(worker, command);
  }

  /** Carries out the response of a worker, in its order. @throws (rejects) `PROTOCOL` */
  async #carryOut(connection: Connection, bytes: Uint8Array): Promise<void> {
    let rest: Commands | null = null;
    for (const command of readCommands(bytes)) {
      command.key ||= connection.id;
      const isOwn = command.key === connection.id && !isPublished(command);
      if (this.share === null || (isOwn && rest === null)) this.#act(connection.worker, command);
      else (rest ??= new Commands()).add(command.code, command.key, command.content);
    }
    if (rest) await this.share!(connection.worker, rest.take());
  }

  #act(worker: string, command: Command): void {
    const { code, key, content } = command;
    if (isPublished(command)) return this.#publish(worker, command);
    const connection = this.#connections.get(key);
    const ws = connection?.ws;
    if (!connection || !ws || connection.worker !== worker) return; // closed, or of another process
    switch (code) {
      case commands.SEND_TEXT:
      case commands.SEND_BINARY:
        return this.#send(connection, code, content);
      case commands.SUBSCRIBE:
        return void ws.subscribe(topicOf(worker, textOf(content)));
      case commands.UNSUBSCRIBE:
        return void ws.unsubscribe(topicOf(worker, textOf(content)));
      case commands.DATA:
        return connection.setData(dataOf(content));
      case commands.CLOSE: {
        const { code: reasonCode, reason } = commands.readClose(content);
        connection.drop();
        return this.#shut(connection, reasonCode, reason);
      }
    }
  }

  #send({ ws, isClosing }: Connection, code: number, message: Uint8Array): void {
    if (!ws || isClosing) return;
    const { compress } = this.#options.ws;
    if (code === commands.SEND_TEXT) ws.sendText(textOf(message), compress);
    else ws.sendBinary(message as Uint8Array<ArrayBuffer>, compress);
  }

  #publish(worker: string, { code, key, content }: Command): void {
    const { except, message } = commands.readPublished(content);
    const { compress } = this.#options.ws;
    const topic = topicOf(worker, key);
    const data = code === commands.PUBLISH_TEXT ? textOf(message) : (message as Uint8Array<ArrayBuffer>);
    const from = except === "" ? undefined : this.#connections.get(except);
    for (const server of this.#servers) {
      if (from?.ws && from.server === server) from.ws.publish(topic, data, compress);
      else server.publish(topic, data, compress);
    }
  }

  #shut(connection: Connection, code: number, reason: string): void {
    if (connection.isClosing) return;
    connection.isClosing = true;
    connection.ws?.close(code, reason);
  }

  // ---- change -----------------------------------------------------------------------------------------------------

  /** Closes the connections whose route was removed. */
  servicesChanged(): void {
    const before = this.#routes;
    this.#routes = new Map(this.#registry.table.routes.filter(({ ws }) => ws).map((route) => [keyOf(route), route]));
    if ([...before.keys()].every((key) => this.#routes.has(key))) return;
    for (const connection of this.#connections.values())
      if (!this.#routes.has(connection.key)) this.#shut(connection, GOING_AWAY, "The worker has gone.");
  }

  /** Commands of other processes were missed: the clients must connect again. */
  lose(): void {
    for (const connection of this.#connections.values()) this.#shut(connection, RESTARTS, "Messages were missed.");
  }

  /** Closes all connections. Resolves when the workers know it, at the latest after a second. */
  async close(): Promise<void> {
    this.#isClosed = true;
    for (const connection of this.#connections.values()) this.#shut(connection, GOING_AWAY, "The hub is closing.");
    const deadline = performance.now() + FAREWELL_MS;
    while ((this.#running.size > 0 || this.size > 0) && performance.now() < deadline) await Bun.sleep(5);
  }
}

function isPublished({ code }: Command): boolean {
  return code === commands.PUBLISH_TEXT || code === commands.PUBLISH_BINARY;
}

/** Topics of different worker names never meet. */
function topicOf(worker: string, topic: string): string {
  return `${worker}\n${topic}`;
}

function keyOf({ owner, pattern }: Route<Service>): string {
  return `${owner.name} ${pattern.key}`;
}

/** @throws `PROTOCOL` */
function dataOf(content: Uint8Array): string {
  if (content.length <= commands.DATA_MAX) return textOf(content);
  throw new SlotbusError("PROTOCOL", `A worker set ${content.length} bytes of data.`, { mayHaveExecuted: true });
}

/** Whether an origin is the host that the client asked. */
function isOf(origin: string | null, host: string): boolean {
  const own = URL.parse(`http://${host}`)?.host;
  return own !== undefined && URL.parse(origin ?? "")?.host === own;
}
