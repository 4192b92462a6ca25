/** A server for clients of a stdio bus: each connection sends requests to the workers, with its own ids. */

import { lstatSync, renameSync, rmSync, statSync, unlinkSync } from "node:fs";
import type { Socket, SocketListener } from "bun";
import { SlotbusError, RpcError } from "../errors.ts";
import { Client, type ClientHost, type ClientRules, type ClientSocket, type ServedPool } from "./client.ts";
import type { LinkIdentity } from "./events.ts";
import { resolveServe, type ServeOptions } from "./options.ts";
import { RPC, type RpcMessage } from "./rpc.ts";
import { StandardSocket } from "./standard.ts";
import { addressInUse } from "../errors/plain.ts";

type Resolution = ReturnType<typeof resolveServe>;

/** Whether standard input has, or had, a server. */
let isStandardTaken = false;

/** A server of a stdio bus: a socket that clients connect to, or standard input and output of this process. */
export class StdioServer implements AsyncDisposable {
  /** Port of a TCP server; 0 for other servers. */
  readonly port: number;
  /** Path of a unix socket; `null` for other servers. */
  readonly path: string | null;
  #rules: ClientRules;
  readonly #maxClients: number;
  readonly #host: ClientHost;
  readonly #onClose: () => void;
  /** `null` for standard input. */
  readonly #listener: SocketListener<Client | null> | null;
  readonly #inode: number;
  readonly #clients = new Set<Client>();
  #isListening = true;
  #closing: Promise<void> | null = null;
  readonly #done = Promise.withResolvers<void>();

  /** @internal Use `StdioBus.serve`. */
  static async listen(host: ClientHost, options: ServeOptions, onClose: () => void): Promise<StdioServer> {
    const resolved = resolveServe(options);
    const { unix, stdio, pool } = resolved;
    const served = host.servedPool(pool, null);
    if (stdio && isStandardTaken) throw addressInUse("Standard input", "already has a server");
    if (unix !== null) await clearPath(unix);
    return new StdioServer(host, resolved, served, onClose);
  }

  private constructor(host: ClientHost, given: Resolution, pool: ServedPool | null, onClose: () => void) {
    const { unix, tcp, stdio, ...limits } = given;
    const protocol = pool?.options.protocol ?? "json-rpc";
    const rules = { ...limits, served: pool, protocol, isStandard: stdio } as const;
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
    if (stdio) {
      isStandardTaken = true;
      this.#listener = null;
      this.path = null;
      this.port = 0;
      this.#rules = { ...rules, address: "standard input", token: null };
      this.#inode = 0;
      this.#openStandard();
    } else if (unix !== null) {
      this.#listener = listenPrivately(unix, () => Bun.listen({ unix, allowHalfOpen: true, socket, data: null }));
      this.path = unix;
      this.#rules = { ...rules, address: unix, token: null };
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
      this.#rules = { ...rules, address: `${hostname}:${this.port}`, token };
      this.#inode = 0;
    }
  }

  /** Token that the first message of a connection must contain; `null`: none. */
  get token(): string | null {
    return this.#rules.token;
  }

  /** Number of open connections. */
  get clientCount(): number {
    return this.#clients.size;
  }

  /** Resolves when the server is closed. A server of standard input closes when input has ended and all is answered. */
  get done(): Promise<void> {
    return this.#done.promise;
  }

  /** Whether the server has stopped accepting connections. */
  get closed(): boolean {
    return !this.#isListening;
  }

  /** @internal Stops accepting connections. Open connections continue. */
  stopListening(): void {
    if (!this.#isListening) return;
    this.#isListening = false;
    if (this.path === null) this.#listener?.stop();
    else stopAt(this.path, this.#inode, () => this.#listener!.stop());
  }

  /** Stops accepting connections, and closes open ones after their pending output. May be called repeatedly. */
  close(): Promise<void> {
    return (this.#closing ??= this.#close());
  }

  async #close(): Promise<void> {
    this.stopListening();
    await Promise.all([...this.#clients].map((client) => client.end()));
    this.#onClose();
    this.#done.resolve();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** @internal Returns the clients that can answer a request of a worker. */
  clientsFor(worker: LinkIdentity, message: RpcMessage): Client[] {
    return [...this.#clients].filter((client) => client.answers && client.hears(worker, message));
  }

  /** @internal Passes a notification of a worker to its clients. */
  notified(worker: LinkIdentity, message: RpcMessage): void {
    for (const client of this.#clients) if (client.hears(worker, message)) client.tell(message);
  }

  #openStandard(): void {
    const socket = new StandardSocket();
    const client = this.#add(socket);
    void socket.open({
      read: (bytes) => client.read(bytes),
      inputEnded: () => client.inputEnded(),
      drained: () => client.drained(),
      closed: () => {
        this.#closed(client);
        void this.close();
      },
    });
  }

  #add(socket: ClientSocket): Client {
    const client = new Client(socket, this.#host, this.#rules);
    this.#host.counts.connects++;
    this.#clients.add(client);
    return client;
  }

  #open(socket: Socket<Client | null>): void {
    const served = this.#host.servedPool(this.#rules.pool, this.#rules.served);
    this.#rules = { ...this.#rules, served, protocol: served?.options.protocol ?? "json-rpc" };
    const client = (socket.data = this.#add(socket));
    if (this.#clients.size <= this.#maxClients) return;
    client.turnAway(new RpcError(RPC.busError, `the server already has ${this.#maxClients} clients (maxClients)`));
  }

  #closed(client: Client | null): void {
    if (!client || !this.#clients.delete(client)) return;
    this.#host.counts.disconnects++;
    client.closed();
  }
}

/** Removes a stale socket. Throws if anything else is at the path. */
async function clearPath(path: string): Promise<void> {
  const found = lstatSync(path, { throwIfNoEntry: false });
  if (!found) return;
  if (!found.isSocket()) throw addressInUse(path, "already exists and is not a socket");
  const ignore = (): void => {};
  const socket = { open: ignore, data: ignore, close: ignore, error: ignore, connectError: ignore };
  const live = await Bun.connect({ unix: path, socket }).catch((error: { code?: string }) => error);
  if ("terminate" in live) {
    live.terminate();
    throw addressInUse(path, "is a socket that another server listens on");
  }
  if (live.code !== "ECONNREFUSED") throw addressInUse(path, `is a socket that may be in use (${live.code})`);
  const now = lstatSync(path, { throwIfNoEntry: false });
  if (now?.ino === found.ino && now.ctimeMs === found.ctimeMs) unlinkSync(path); // otherwise another server has just opened it
}

/** Stops a listener. Bun removes any file at its path, so the socket of another server is moved aside meanwhile. */
function stopAt(path: string, inode: number, stop: () => void): void {
  const aside = `${path}.${crypto.randomUUID()}`;
  let isOurs = false;
  try {
    isOurs = lstatSync(path).ino === inode;
    if (!isOurs) renameSync(path, aside);
  } catch {
    return stop(); // there is nothing at the path, or nothing in its directory can be removed
  }
  stop();
  if (isOurs) rmSync(path, { force: true });
  else renameSync(aside, path);
}

/** Listens with a umask that makes the socket private from the start. */
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
  return new SlotbusError("RESOURCE", `Cannot listen on ${address}: ${(cause as Error).message}.`, { cause });
}
