/** Clients from outside: each connection to a socket asks the workers of a bus, with ids of its own. */

import { lstatSync, statSync, unlinkSync } from "node:fs";
import type { Socket, SocketListener } from "bun";
import { SlotbusError, InvalidConfigError, RpcError } from "../errors.ts";
import type { Resolved } from "../options.ts";
import { Client, type ClientHost, type ClientRules } from "./client.ts";
import { type ServeOptions, stdioServeOptions } from "./options.ts";
import { RPC, type RpcMessage } from "./rpc.ts";
import { addressInUse } from "../errors/plain.ts";

type Resolution = Resolved<(typeof stdioServeOptions)["rows"]>;

/** A socket that clients connect to. */
export class StdioServer implements AsyncDisposable {
  /** Port of a tcp socket; 0: it is a unix socket. */
  readonly port: number;
  /** Path of a unix socket; `null`: it is a tcp socket. */
  readonly path: string | null;
  readonly #rules: ClientRules;
  readonly #maxClients: number;
  readonly #host: ClientHost;
  readonly #onClose: () => void;
  readonly #listener: SocketListener<Client | null>;
  readonly #inode: number;
  readonly #clients = new Set<Client>();
  #isListening = true;
  #closing: Promise<void> | null = null;

  /** @internal Use `StdioBus.serve`. */
  static async listen(host: ClientHost, options: ServeOptions, onClose: () => void): Promise<StdioServer> {
    const resolved = stdioServeOptions.resolve(options);
    const { unix, tcp } = resolved;
    if ((unix === null) === (tcp === null)) throw new InvalidConfigError("serve takes either `unix` or `tcp`.");
    if (unix !== null) await clearPath(unix);
    return new StdioServer(host, resolved, onClose);
  }

  private constructor(host: ClientHost, { unix, tcp, ...limits }: Resolution, onClose: () => void) {
    this.#host = host;
    this.#maxClients = limits.maxClients;
    this.#onClose = onClose;
    const socket = {
      open: (opened: Socket<Client | null>): void => this.#open(opened),
      data: ({ data: client }: Socket<Client | null>, bytes: Buffer): void => client?.read(bytes),
      end: ({ data: client }: Socket<Client | null>): void => void client?.inputEnded(),
      drain: ({ data: client }: Socket<Client | null>): void => client?.drained(),
      close: ({ data: client }: Socket<Client | null>): void => this.#closed(client),
      error: (): void => {}, // `close` follows
    };
    if (unix !== null) {
      this.#listener = listenPrivately(unix, () => Bun.listen({ unix, allowHalfOpen: true, socket, data: null }));
      this.path = unix;
      this.#rules = { ...limits, address: unix, token: null };
      this.port = 0;
      this.#inode = statSync(unix).ino;
    } else {
      const { port, hostname, token } = tcp!;
      try {
        const listener = Bun.listen({ port, hostname, allowHalfOpen: true, socket, data: null as Client | null });
        this.#listener = listener;
        this.port = listener.port;
      } catch (cause) {
        throw listenError(`${hostname}:${port}`, cause);
      }
      this.path = null;
      this.#rules = { ...limits, address: `${hostname}:${this.port}`, token };
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

  /** Whether it takes no more connections. */
  get closed(): boolean {
    return !this.#isListening;
  }

  /** @internal Takes no more connections; those there are go on. */
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

  /** Takes no more connections and closes those there are, behind what is written to them. Any number of times. */
  close(): Promise<void> {
    return (this.#closing ??= this.#close());
  }

  async #close(): Promise<void> {
    this.stopListening();
    await Promise.all([...this.#clients].map((client) => client.end()));
    this.#onClose();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
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
async function clearPath(path: string): Promise<void> {
  const found = lstatSync(path, { throwIfNoEntry: false });
  if (!found) return;
  if (!found.isSocket()) throw addressInUse(path, "is there and is no socket");
  const ignore = (): void => {};
  const socket = { open: ignore, data: ignore, close: ignore, error: ignore, connectError: ignore };
  const live = await Bun.connect({ unix: path, socket }).catch((error: { code?: string }) => error);
  if ("terminate" in live) {
    live.terminate();
    throw addressInUse(path, "is a socket that somebody listens on");
  }
  if (live.code !== "ECONNREFUSED") throw addressInUse(path, `is a socket that may be in use (${live.code})`);
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
  if (code === "EADDRINUSE") return addressInUse(address, "is in use", cause);
  return new SlotbusError("RESOURCE", `${address} cannot be listened on: ${(cause as Error).message}.`, { cause });
}
