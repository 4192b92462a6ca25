/** Clients from outside: each connection to a socket asks the workers of a bus, with ids of its own. */

import { randomBytes } from "node:crypto";
import { lstatSync, statSync, unlinkSync } from "node:fs";
import type { Socket, SocketListener } from "bun";
import { checkChoice, checkInteger, checkKeys, checkOptions, checkToken, isSameToken, shown } from "../check.ts";
import { AddressInUseError, InvalidConfigError, ProtocolError, ResourceError, RpcError } from "../errors.ts";
import type { StdioBus } from "./bus.ts";
import { Fault, type Framing, FRAMINGS, messageReader, Outbox } from "./framing.ts";
import {
  AUTH,
  CANCEL,
  errorJson,
  idOf,
  kindOf,
  peekId,
  PROGRESS,
  Questions,
  responseJson,
  RPC,
  type RpcId,
  type RpcMessage,
  toJson,
} from "./rpc.ts";

/** Where a bus listens for clients, and how much of each it takes. */
export interface ServeOptions {
  /** Path of a unix socket, made with mode 0600. One that nobody listens on any more is replaced. */
  unix?: string;
  /** A tcp port. That a client is gone is seen when an answer cannot be written; on a unix socket at once. */
  tcp?: TcpOptions;
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

/** A tcp port for clients, and what they must know. */
export interface TcpOptions {
  /** 0: any that is free; {@link StdioServer.port} says which. */
  port: number;
  /** Default `"127.0.0.1"`: this machine only. Bytes on the wire are not encrypted. */
  hostname?: string;
  /**
   * What the first message of each connection must bring: 16 to 1024 printable characters. Default: 32 random bytes in hex, which
   * {@link StdioServer.token} returns. `false`: no token; every program, of every user, that reaches the port may ask.
   */
  token?: string | false;
}

interface Limits {
  readonly framing: Framing;
  readonly maxClients: number;
  readonly maxInFlight: number;
  readonly maxMessageBytes: number;
  readonly maxQueuedBytes: number;
}

const KEYS = ["unix", "tcp", "framing", "maxClients", "maxInFlight", "maxMessageBytes", "maxQueuedBytes"];
const TCP_KEYS = ["port", "hostname", "token"];
/** Time that a connection has to send the token, in ms. */
const AUTH_MS = 2_000;
/** Bytes of a connection that are read before it has sent the token; the longest token fits. */
const AUTH_BYTES = 4_096;
/** How an HTTP request begins. */
const HTTP = /^[A-Z]{3,7} \//;
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
  /** In messages. */
  readonly #address: string;
  readonly #token: string | null;
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
      this.#address = options.unix;
      this.#token = null;
      this.port = 0;
      this.#inode = statSync(options.unix).ino;
    } else {
      const { port, hostname = "127.0.0.1", token } = checkOptions("tcp", options.tcp!, "{ port: 4000 }");
      checkKeys("tcp", options.tcp!, TCP_KEYS);
      checkInteger("tcp.port", port, 0, 65_535);
      if (token === undefined) this.#token = randomBytes(32).toString("hex");
      else this.#token = token === false ? null : checkToken("tcp.token", token);
      try {
        const listener = Bun.listen({ port, hostname, allowHalfOpen: true, socket, data: null as Client | null });
        this.#listener = listener;
        this.port = listener.port;
      } catch (cause) {
        throw listenError(`${hostname}:${port}`, cause);
      }
      this.path = null;
      this.#address = `${hostname}:${this.port}`;
      this.#inode = 0;
    }
  }

  /** Token that the first message of a connection must bring; `null`: none is asked for. */
  get token(): string | null {
    return this.#token;
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
    const client = new Client(socket, this.#bus, this.#limits, this.#address, this.#token);
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
  readonly #address: string;
  readonly #token: string | null;
  /** Runs until the token has come. */
  #authTimer: ReturnType<typeof setTimeout> | null = null;
  /** Bytes that were read before that. */
  #authBytes = 0;
  /** It may ask: it has sent the token, or needs none. */
  #isTrusted: boolean;
  /** It has sent a message. */
  #isKnown = false;
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

  constructor(socket: Socket<Client | null>, bus: StdioBus, limits: Limits, address: string, token: string | null) {
    this.#socket = socket;
    this.#bus = bus;
    this.#limits = limits;
    this.#address = address;
    this.#token = token;
    this.#isTrusted = token === null;
    if (token !== null) this.#authTimer = setTimeout(this.#onAuthTime, AUTH_MS);
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
    if (this.#isReading || this.#isEnding || this.#isClosed) return;
    this.#isReading = true;
    let hasAll = false;
    while (!hasAll && !this.#isFull && !this.#isEnding) {
      const message = this.#messages.next();
      if (message !== undefined) {
        this.#receive(message);
        continue;
      }
      if (!this.#isKnown && this.#messages.isSkipping) {
        this.#refuse(RPC.invalidRequest, `its first message is longer than ${this.#limits.maxMessageBytes} bytes`);
        break;
      }
      const chunk = this.#unread.shift();
      if (chunk) {
        this.#unreadBytes -= chunk.length;
        this.#messages.push(this.#isTrusted ? chunk : this.#cutToAuth(chunk));
      } else if (this.#isAtEnd || !this.#hasInputEnded) hasAll = true;
      else this.#finish();
    }
    this.#isReading = false;
    if (this.#isEnding) return;
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

  #receive(given: unknown): void {
    if (given instanceof Fault) return this.#misread(given);
    const kind = kindOf(given);
    if (kind === "nothing") return this.#refuse(RPC.invalidRequest, "it sent JSON that is not a message", idOf(given));
    const message = given as RpcMessage;
    if (message.method === AUTH) return this.#authenticate(message);
    if (!this.#isTrusted) {
      return this.#refuse(RPC.unauthorized, `its first message was not ${AUTH} with the token`, message.id);
    }
    this.#isKnown = true;
    if (kind === "request") this.#ask(message);
    else if (kind === "notification") this.#notify(message);
    else this.#questions.answer(message);
  }

  /** Behind a message that is too long the next one is found, and at the end nothing comes. All else ends the connection. */
  #misread(fault: Fault): void {
    const id = peekId(fault.head, fault.tail);
    const isLong = fault.reason === "too long";
    const code = isLong ? RPC.invalidRequest : RPC.parseError;
    if (this.#isKnown && (isLong || fault.reason === "cut")) {
      this.post(errorJson(id ?? null, new RpcError(code, `${fault}`)));
      return;
    }
    if (this.#isTrusted) return this.#refuse(code, `it sent ${fault}`, id);
    // The bytes may be the token, so the log does not show them.
    const what = HTTP.test(Buffer.from(fault.head).toString("latin1")) ? ": an HTTP request, as of a web page" : "";
    this.#refuse(code, `it sent ${fault.bytes} bytes that are ${fault.reason}${what}`, id);
  }

  // ---- who may ask ------------------------------------------------------------------------------------------------------

  /** Checks the token. Where none is asked for, any will do. */
  #authenticate({ id, params }: RpcMessage): void {
    const token = (params as { token?: unknown } | null | undefined)?.token;
    if (this.#token !== null && !(typeof token === "string" && isSameToken(token, this.#token))) {
      return this.#refuse(RPC.unauthorized, `its ${AUTH} has a wrong token`, id);
    }
    this.#isTrusted = true;
    this.#isKnown = true;
    this.#stopAuthTimer();
    if (id !== undefined) this.post(responseJson(id, true));
  }

  /** The part of a chunk that is read before the token has come; the rest stays unread. */
  #cutToAuth(chunk: Uint8Array): Uint8Array {
    const part = chunk.subarray(0, AUTH_BYTES - this.#authBytes);
    this.#authBytes += part.length;
    if (part.length === 0) this.#refuse(RPC.unauthorized, `it sent ${AUTH_BYTES} bytes without the token`);
    else if (part.length < chunk.length) {
      this.#unread.unshift(chunk.subarray(part.length));
      this.#unreadBytes += chunk.length - part.length;
    }
    return part;
  }

  readonly #onAuthTime = (): void => {
    this.#refuse(RPC.unauthorized, `it did not send the token within ${AUTH_MS} ms`);
  };

  #stopAuthTimer(): void {
    if (this.#authTimer) clearTimeout(this.#authTimer);
    this.#authTimer = null;
  }

  /** Closes the connection and logs why. A peer that may not speak JSON-RPC, as a browser, gets no answer. */
  #refuse(code: number, why: string, id?: RpcId): void {
    if (this.#isEnding) return;
    const from = this.#socket.remoteAddress;
    this.#bus.clientRefused(`a connection to ${this.#address}${from ? ` from ${from}` : ""} was closed: ${why}.`);
    if (this.#isKnown || id !== undefined) this.post(errorJson(id ?? null, new RpcError(code, why)));
    void this.end();
  }

  // ---- what it asks -----------------------------------------------------------------------------------------------------

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
    this.#stopAuthTimer();
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
  const now = lstatSync(path, { throwIfNoEntry: false });
  if (now?.ino === found.ino && now.ctimeMs === found.ctimeMs) unlinkSync(path); // else another one listens there by now
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
