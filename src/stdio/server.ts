/** Clients from outside: each connection to a socket asks the workers of a bus, with ids of its own. */

import { lstatSync, statSync, unlinkSync } from "node:fs";
import type { Socket, SocketListener } from "bun";
import { checkChoice, checkInteger, checkKeys, checkOptions, shown } from "../check.ts";
import { AddressInUseError, InvalidConfigError, ProtocolError, ResourceError, RpcError } from "../errors.ts";
import type { StdioBus } from "./bus.ts";
import { Fault, type Framing, FRAMINGS, messageReader, Outbox } from "./framing.ts";
import {
  CANCEL,
  errorJson,
  kindOf,
  peekId,
  PROGRESS,
  Questions,
  RPC,
  type RpcId,
  type RpcMessage,
  toJson,
} from "./rpc.ts";

/** Where a bus listens for clients, and how much of each it takes. */
export interface ServeOptions {
  /** Path of a unix socket, made with mode 0600. One that nobody listens on any more is replaced. */
  unix?: string;
  /**
   * `port` 0: any that is free. `hostname` is 127.0.0.1 by default; there is no password: whoever connects may ask. That a client
   * is gone is seen when an answer cannot be written; on a unix socket at once.
   */
  tcp?: { port: number; hostname?: string };
  /** Default `"ndjson"`. */
  framing?: Framing;
  /** Connections at once; one more is told so and closed. 1 to 65 536, default 256. */
  maxClients?: number;
  /** Requests of one connection at once; with more it is read no further than `maxMessageBytes` ahead. 1 to 65 536, default 64. */
  maxInFlight?: number;
  /** Longest message of a client, in bytes; a longer one is answered with an error. 64 B to 1 GiB, default 1 MiB. */
  maxMessageBytes?: number;
  /** A connection is not read while so many bytes wait for it, and is told no notifications. Default 4 MiB. */
  maxQueuedBytes?: number;
}

interface Limits {
  readonly framing: Framing;
  readonly maxClients: number;
  readonly maxInFlight: number;
  readonly maxMessageBytes: number;
  readonly maxQueuedBytes: number;
}

const KEYS = ["unix", "tcp", "framing", "maxClients", "maxInFlight", "maxMessageBytes", "maxQueuedBytes"];
/** Bytes of the path of a unix socket, with the zero at its end. */
const UNIX_PATH_MAX = 108;
/** Sessions of one client that notifications are told for; the oldest is forgotten. */
const SESSIONS_MAX = 1_024;

function resolve(options: ServeOptions): Limits {
  checkKeys("serve", checkOptions("serve", options), KEYS);
  if ((options.unix === undefined) === (options.tcp === undefined)) {
    throw new InvalidConfigError("serve takes either `unix` or `tcp`.");
  }
  return {
    framing: checkChoice("framing", options.framing ?? "ndjson", FRAMINGS),
    maxClients: checkInteger("maxClients", options.maxClients ?? 256, 1, 65_536),
    maxInFlight: checkInteger("maxInFlight", options.maxInFlight ?? 64, 1, 65_536),
    maxMessageBytes: checkInteger("maxMessageBytes", options.maxMessageBytes ?? 2 ** 20, 64, 2 ** 30),
    maxQueuedBytes: checkInteger("maxQueuedBytes", options.maxQueuedBytes ?? 4 * 2 ** 20, 1_024, 2 ** 30),
  };
}

/** A socket that clients connect to. */
export class StdioServer implements AsyncDisposable {
  /** Port of a tcp socket; 0: it is a unix socket. */
  readonly port: number;
  /** Path of a unix socket; `null`: it is a tcp socket. */
  readonly path: string | null;
  readonly #bus: StdioBus;
  readonly #limits: Limits;
  readonly #onStop: () => void;
  readonly #listener: SocketListener<Client | null>;
  readonly #inode: number;
  readonly #clients = new Set<Client>();
  #isListening = true;

  /** @internal Use {@link StdioBus.serve}. */
  static async listen(bus: StdioBus, options: ServeOptions, onStop: () => void): Promise<StdioServer> {
    const limits = resolve(options);
    if (options.unix !== undefined) await clearPath(options.unix);
    return new StdioServer(bus, options, limits, onStop);
  }

  private constructor(bus: StdioBus, options: ServeOptions, limits: Limits, onStop: () => void) {
    this.#bus = bus;
    this.#limits = limits;
    this.#onStop = onStop;
    const socket = {
      open: (opened: Socket<Client | null>): void => this.#open(opened),
      data: ({ data: client }: Socket<Client | null>, bytes: Buffer): void => client?.read(bytes),
      end: ({ data: client }: Socket<Client | null>): void => client?.inputEnded(),
      drain: ({ data: client }: Socket<Client | null>): void => client?.write(),
      close: ({ data: client }: Socket<Client | null>): void => this.#closed(client),
      error: (): void => {}, // `close` follows
    };
    if (options.unix !== undefined) {
      this.#listener = listenPrivately(options.unix, () =>
        Bun.listen({ unix: options.unix!, allowHalfOpen: true, socket, data: null }),
      );
      this.path = options.unix;
      this.port = 0;
      this.#inode = statSync(options.unix).ino;
    } else {
      const { port, hostname = "127.0.0.1" } = checkOptions("tcp", options.tcp!);
      checkInteger("tcp.port", port, 0, 65_535);
      try {
        const listener = Bun.listen({ port, hostname, allowHalfOpen: true, socket, data: null as Client | null });
        this.#listener = listener;
        this.port = listener.port;
      } catch (cause) {
        throw listenError(`${hostname}:${port}`, cause);
      }
      this.path = null;
      this.#inode = 0;
    }
  }

  /** Connections now. */
  get clientCount(): number {
    return this.#clients.size;
  }

  /** Takes no more connections; those there are go on. */
  stopListening(): void {
    if (!this.#isListening) return;
    this.#isListening = false;
    this.#listener.stop();
    if (this.path === null) return;
    try {
      if (lstatSync(this.path).ino === this.#inode) unlinkSync(this.path);
    } catch {
      // It is gone already.
    }
  }

  /** Takes no more connections and closes those there are, behind what is written to them. */
  async stop(): Promise<void> {
    this.stopListening();
    await Promise.all([...this.#clients].map((client) => client.end()));
    this.#onStop();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }

  /** @internal A worker asks: the client whose session it names answers; `null`: there is none. */
  asked(message: RpcMessage, signal: AbortSignal): Promise<unknown> | null {
    const { sessionId } = message;
    if (typeof sessionId !== "string") return null;
    for (const client of this.#clients) {
      if (client.answers && client.sessions.has(sessionId)) return client.ask(message, signal);
    }
    return null;
  }

  /** @internal A worker told something: those hear of it whose session it names. */
  notified(message: RpcMessage): void {
    const { sessionId } = message;
    if (typeof sessionId !== "string") return;
    for (const client of this.#clients) if (client.sessions.has(sessionId)) client.tell(message);
  }

  #open(socket: Socket<Client | null>): void {
    const client = new Client(socket, this.#bus, this.#limits);
    socket.data = client;
    this.#bus.clients.connects++;
    this.#clients.add(client);
    if (this.#clients.size <= this.#limits.maxClients) return;
    client.post(errorJson(null, new RpcError(RPC.busError, `there are ${this.#limits.maxClients} clients already`)));
    void client.end();
  }

  #closed(client: Client | null): void {
    if (!client || !this.#clients.delete(client)) return;
    this.#bus.clients.disconnects++;
    client.closed();
  }
}

/** One connection. */
class Client {
  readonly sessions = new Set<string>();
  readonly #socket: Socket<Client | null>;
  readonly #bus: StdioBus;
  readonly #limits: Limits;
  readonly #messages: ReturnType<typeof messageReader>;
  readonly #outbox: Outbox;
  /** What the socket did not take. */
  #unsent: Uint8Array | null = null;
  /** What came and was not looked at yet. */
  #unread: Uint8Array[] = [];
  #unreadBytes = 0;
  /** By JSON of their id. */
  readonly #calls = new Map<string, AbortController>();
  /** Requests of workers that it is to answer. */
  readonly #questions = new Questions();
  #notices = 0;
  #waiters: (() => void)[] = [];
  #isFlushing = false;
  #isReading = false;
  #isPaused = false;
  /** It sends no more. */
  #hasInputEnded = false;
  /** All that it sent was read. */
  #isAtEnd = false;
  #isEnding = false;
  #isClosed = false;
  readonly #whenClosed = Promise.withResolvers<void>();

  constructor(socket: Socket<Client | null>, bus: StdioBus, limits: Limits) {
    this.#socket = socket;
    this.#bus = bus;
    this.#limits = limits;
    this.#messages = messageReader(limits.framing, limits.maxMessageBytes);
    this.#outbox = new Outbox(limits.framing);
  }

  /** Whether it can answer a worker. */
  get answers(): boolean {
    return !this.#hasInputEnded && !this.#isEnding;
  }

  get #queued(): number {
    return this.#outbox.bytes + (this.#unsent?.length ?? 0);
  }

  get #isFull(): boolean {
    return this.#calls.size + this.#notices >= this.#limits.maxInFlight || this.#queued >= this.#limits.maxQueuedBytes;
  }

  read(bytes: Uint8Array): void {
    if (this.#isEnding) return;
    this.#unread.push(bytes.slice());
    this.#unreadBytes += bytes.length;
    this.#readOn();
  }

  /** It sends no more, as at the end of `printf … | nc`: what it asked for is answered, then it is closed. */
  inputEnded(): void {
    this.#hasInputEnded = true;
    this.#questions.rejectAll(clientGone());
    this.#readOn();
  }

  /** Reads what is there as far as it may. */
  #readOn(): void {
    if (this.#isReading || this.#isClosed) return;
    this.#isReading = true;
    let hasAll = false;
    while (!hasAll && !this.#isFull) {
      const message = this.#messages.next();
      if (message !== undefined) {
        this.#receive(message);
        continue;
      }
      const chunk = this.#unread.shift();
      if (chunk) {
        this.#unreadBytes -= chunk.length;
        this.#messages.push(chunk);
      } else if (this.#isAtEnd || !this.#hasInputEnded) hasAll = true;
      else this.#finish();
    }
    this.#isReading = false;
    if (hasAll && this.#isAtEnd && this.#calls.size + this.#notices === 0) return this.#leave();
    // A socket that is paused does not tell of its end, so some is read ahead.
    const isAhead = this.#unreadBytes >= this.#limits.maxMessageBytes;
    if (isAhead === this.#isPaused) return;
    this.#isPaused = isAhead;
    if (isAhead) this.#socket.pause();
    else this.#socket.resume();
  }

  /** Its last message may have no end. */
  #finish(): void {
    this.#isAtEnd = true;
    this.#messages.finish();
  }

  /** Closes it behind what waits for it. */
  #leave(): void {
    if (this.#isEnding) return;
    this.#isEnding = true;
    this.write();
  }

  #receive(message: unknown): void {
    if (message instanceof Fault) {
      const id = peekId(message.head, message.tail) ?? null;
      const code = message.reason === "too long" ? RPC.invalidRequest : RPC.parseError;
      this.post(errorJson(id, new RpcError(code, `${message}`)));
      if (message.isFatal) void this.end();
      return;
    }
    const kind = kindOf(message);
    if (kind === "request") this.#ask(message as RpcMessage);
    else if (kind === "notification") this.#notify(message as RpcMessage);
    else if (kind === "response") this.#questions.answer(message as RpcMessage);
    else this.post(errorJson(null, new RpcError(RPC.invalidRequest, "this is no request")));
  }

  #ask(message: RpcMessage): void {
    const id = message.id as RpcId;
    const key = JSON.stringify(id);
    if (this.#calls.has(key)) {
      this.post(errorJson(id, new RpcError(RPC.invalidRequest, `a request with id ${key} is not answered yet`)));
      return;
    }
    const { sessionId } = message;
    if (typeof sessionId === "string") this.#remember(sessionId);
    const controller = new AbortController();
    this.#calls.set(key, controller);
    const onProgress = (value: unknown): Promise<void> | undefined => {
      this.post(`{"jsonrpc":"2.0","method":"${PROGRESS}","params":{"id":${key},"value":${toJson(value, "progress")}}}`);
      return this.#room();
    };
    this.#bus.forward(
      message,
      { signal: controller.signal, onProgress },
      (response) => this.#answer(key, toJson(response, "a response")),
      (error) => this.#answer(key, errorJson(id, error)),
    );
  }

  #answer(key: string, json: string): void {
    this.#calls.delete(key);
    this.post(json);
    this.#readOn();
  }

  /** A worker's request, which it answers. */
  ask(message: RpcMessage, signal: AbortSignal): Promise<unknown> {
    return this.#questions.ask(message, signal, (json) => this.post(json));
  }

  #notify(message: RpcMessage): void {
    if (message.method === CANCEL) {
      const id = (message.params as { id?: unknown } | undefined)?.id;
      const reason = new RpcError(RPC.requestCancelled, "the request was cancelled");
      this.#calls.get(JSON.stringify(id) ?? "")?.abort(reason);
      return;
    }
    this.#notices++;
    const done = (): void => {
      this.#notices--;
      this.#readOn();
    };
    this.#bus.forward(message, {}, done, (error) => {
      this.post(errorJson(null, error));
      done();
    });
  }

  #remember(session: string): void {
    if (this.sessions.has(session)) return;
    if (this.sessions.size >= SESSIONS_MAX) this.sessions.delete(this.sessions.values().next().value!);
    this.sessions.add(session);
  }

  /** Of a worker; one that finds no room is dropped and counted. */
  tell(message: RpcMessage): void {
    if (this.#queued < this.#limits.maxQueuedBytes) this.post(toJson(message, "a notification"));
    else this.#bus.countDropped();
  }

  post(json: string): void {
    if (this.#isClosed) return;
    this.#outbox.add(json);
    if (this.#isFlushing) return;
    this.#isFlushing = true;
    queueMicrotask(() => {
      this.#isFlushing = false;
      this.write();
    });
  }

  /** For when it has read enough; `undefined`: it has. */
  #room(): Promise<void> | undefined {
    if (this.#queued < this.#limits.maxQueuedBytes) return undefined;
    return new Promise((done) => this.#waiters.push(done));
  }

  #wake(): void {
    for (const done of this.#waiters.splice(0)) done();
  }

  /** Writes what the socket takes. */
  write(): void {
    if (this.#isClosed) return;
    while (this.#unsent || this.#outbox.bytes > 0) {
      let bytes = this.#unsent;
      if (!bytes) {
        const data = this.#outbox.take();
        bytes = typeof data === "string" ? Buffer.from(data) : data;
      }
      const sent = this.#socket.write(bytes);
      if (sent < 0) return; // closed
      this.#unsent = sent < bytes.length ? bytes.subarray(sent) : null;
      if (this.#unsent) return;
    }
    this.#wake();
    if (this.#isEnding) this.#socket.end();
    else this.#readOn();
  }

  /** Closes it behind what waits for it; resolves when it is closed, after a second in any case. */
  async end(): Promise<void> {
    if (this.#isClosed) return;
    this.#unread = [];
    this.#isEnding = true;
    this.write();
    const timer = setTimeout(() => this.#socket.terminate(), 1_000);
    await this.#whenClosed.promise;
    clearTimeout(timer);
  }

  closed(): void {
    this.#isClosed = true;
    this.#wake();
    const reason = clientGone();
    this.#questions.rejectAll(reason);
    for (const controller of this.#calls.values()) controller.abort(reason);
    this.#whenClosed.resolve();
  }
}

function clientGone(): ProtocolError {
  return new ProtocolError("the client has closed its connection.", { mayHaveExecuted: true });
}

/** Throws unless nothing, or a socket that nobody listens on, is at the path; such a socket is removed. */
async function clearPath(path: unknown): Promise<void> {
  if (typeof path !== "string" || path === "" || path.includes("\0") || Buffer.byteLength(path) >= UNIX_PATH_MAX) {
    throw new InvalidConfigError(`unix is ${shown(path)}; it must be a path of at most ${UNIX_PATH_MAX - 1} bytes.`);
  }
  const found = lstatSync(path, { throwIfNoEntry: false });
  if (!found) return;
  if (!found.isSocket()) throw new AddressInUseError(path, "is there and is no socket");
  const ignore = (): void => {};
  const socket = { open: ignore, data: ignore, close: ignore, error: ignore, connectError: ignore };
  const live = await Bun.connect({ unix: path, socket }).catch((error: { code?: string }) => error);
  if ("terminate" in live) {
    live.terminate();
    throw new AddressInUseError(path, "is a socket that somebody listens on");
  }
  if (live.code !== "ECONNREFUSED") throw new AddressInUseError(path, `is a socket that may be in use (${live.code})`);
  unlinkSync(path);
}

/** The socket is nobody else's from its first moment on. */
function listenPrivately<T>(path: string, listen: () => T): T {
  const before = process.umask(0o177);
  try {
    return listen();
  } catch (cause) {
    throw listenError(path, cause);
  } finally {
    process.umask(before);
  }
}

function listenError(address: string, cause: unknown): Error {
  const { code } = cause as { code?: string };
  if (code === "EADDRINUSE") return new AddressInUseError(address, "is in use", cause);
  return new ResourceError(`${address} cannot be listened on: ${(cause as Error).message}.`, { cause });
}
