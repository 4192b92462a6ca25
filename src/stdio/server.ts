/** Clients from outside: each connection to a socket asks the workers of a bus, with ids of its own. */

import { randomBytes } from "node:crypto";
import { lstatSync, statSync, unlinkSync } from "node:fs";
import type { Socket, SocketListener } from "bun";
import { checkChoice, checkInteger, checkKeys, checkOptions, checkToken, shown } from "../check.ts";
import { AddressInUseError, InvalidConfigError, ResourceError, RpcError } from "../errors.ts";
import { Client, type ClientHost, type ClientRules } from "./client.ts";
import { type Framing, FRAMINGS } from "./framing.ts";
import type { PeerLimits } from "./peer.ts";
import { RPC, type RpcMessage } from "./rpc.ts";

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

const KEYS = ["unix", "tcp", "framing", "maxClients", "maxInFlight", "maxMessageBytes", "maxQueuedBytes"];
const TCP_KEYS = ["port", "hostname", "token"];
/** Bytes of the path of a unix socket, with the zero at its end. */
const UNIX_PATH_MAX = 108;

function resolve(options: ServeOptions): PeerLimits & { maxClients: number } {
  checkKeys("serve", options, KEYS);
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
  readonly #rules: ClientRules;
  readonly #maxClients: number;
  readonly #host: ClientHost;
  readonly #onStop: () => void;
  readonly #listener: SocketListener<Client | null>;
  readonly #inode: number;
  readonly #clients = new Set<Client>();
  #isListening = true;

  /** @internal Use `StdioBus.serve`. */
  static async listen(host: ClientHost, options: ServeOptions, onStop: () => void): Promise<StdioServer> {
    const limits = resolve(options);
    if (options.unix !== undefined) await clearPath(options.unix);
    return new StdioServer(host, options, limits, onStop);
  }

  private constructor(host: ClientHost, options: ServeOptions, limits: ReturnType<typeof resolve>, onStop: () => void) {
    this.#host = host;
    this.#maxClients = limits.maxClients;
    this.#onStop = onStop;
    const socket = {
      open: (opened: Socket<Client | null>): void => this.#open(opened),
      data: ({ data: client }: Socket<Client | null>, bytes: Buffer): void => client?.read(bytes),
      end: ({ data: client }: Socket<Client | null>): void => void client?.inputEnded(),
      drain: ({ data: client }: Socket<Client | null>): void => client?.drained(),
      close: ({ data: client }: Socket<Client | null>): void => this.#closed(client),
      error: (): void => {}, // `close` follows
    };
    if (options.unix !== undefined) {
      this.#listener = listenPrivately(options.unix, () =>
        Bun.listen({ unix: options.unix!, allowHalfOpen: true, socket, data: null }),
      );
      this.path = options.unix;
      this.#rules = { ...limits, address: options.unix, token: null };
      this.port = 0;
      this.#inode = statSync(options.unix).ino;
    } else {
      const { port, hostname = "127.0.0.1", token } = checkOptions("tcp", options.tcp!, "{ port: 4000 }");
      checkKeys("tcp", options.tcp!, TCP_KEYS);
      checkInteger("tcp.port", port, 0, 65_535);
      const checked =
        token === undefined ? randomBytes(32).toString("hex") : token !== false && checkToken("tcp.token", token);
      try {
        const listener = Bun.listen({ port, hostname, allowHalfOpen: true, socket, data: null as Client | null });
        this.#listener = listener;
        this.port = listener.port;
      } catch (cause) {
        throw listenError(`${hostname}:${port}`, cause);
      }
      this.path = null;
      this.#rules = { ...limits, address: `${hostname}:${this.port}`, token: checked || null };
      this.#inode = 0;
    }
  }

  /** Token that the first message of a connection must bring; `null`: none is asked for. */
  get token(): string | null {
    return this.#rules.token;
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
      if (client.answers && client.has(sessionId)) return client.ask(message, signal);
    }
    return null;
  }

  /** @internal A worker told something: those hear of it whose session it names. */
  notified(message: RpcMessage): void {
    const { sessionId } = message;
    if (typeof sessionId !== "string") return;
    for (const client of this.#clients) if (client.has(sessionId)) client.tell(message);
  }

  #open(socket: Socket<Client | null>): void {
    const client = new Client(socket, this.#host, this.#rules);
    socket.data = client;
    this.#host.counts.connects++;
    this.#clients.add(client);
    if (this.#clients.size <= this.#maxClients) return;
    client.turnAway(new RpcError(RPC.busError, `there are ${this.#maxClients} clients already`));
  }

  #closed(client: Client | null): void {
    if (!client || !this.#clients.delete(client)) return;
    this.#host.counts.disconnects++;
    client.closed();
  }
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
