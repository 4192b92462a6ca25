/** The stdio bus: programs in any language as workers, asked by JSON-RPC over their standard input and output. */

import type { Call, Reject, Resolve } from "./call.ts";
import { StdioCore } from "./core.ts";
import { closeOlder, noteOpened } from "../hot.ts";
import type { WorkerNotification, WorkerRequestHandler } from "./events.ts";
import {
  type NotificationOptions,
  notificationOptions,
  type ServeOptions,
  type StdioBusOptions,
  type StdioRequestOptions,
} from "./options.ts";
import type { RpcMessage } from "./rpc.ts";
import { StdioServer } from "./server.ts";
import type { Subscription } from "./subscription.ts";
import type { MakeSupervisor } from "./worker-pool.ts";

const ends: { resolve: Resolve; reject: Reject } = { resolve: () => {}, reject: () => {} };
const grab = (resolve: Resolve, reject: Reject): void => {
  ends.resolve = resolve;
  ends.reject = reject;
};

/**
 * Worker processes that speak JSON-RPC 2.0 over their standard input and output: any program that reads and writes lines of JSON.
 *
 *     await using bus = await StdioBus.start({ pools: [{ id: "py", command: "python3", args: ["worker.py"], instances: 2 }] });
 *     const sum = await bus.request("add", [1, 2]);
 *
 * A worker has at most `concurrency` requests and `queuedBytes` bytes that its pipe has not taken; more wait here, up to the
 * limit of the queue.
 */
export class StdioBus extends StdioCore {
  /**
   * Starts all workers; resolves when all are ready. When one is not, all are stopped. What happens meanwhile, and what workers ask and
   * tell, waits for listeners, handlers and subscriptions that are added as soon as it resolves: it is told in the next turn.
   *
   * @throws (rejects) {InvalidConfigError} for unknown keys (with the one that comes nearest), equal ids and values out of range;
   * `PROGRAM_NOT_FOUND`, {WorkerStartError}.
   */
  static start(
    options: StdioBusOptions,
    /** @internal A test gives its own. */ make?: MakeSupervisor,
  ): Promise<StdioBus> {
    return Promise.try(() => new StdioBus(options, make).begin());
  }

  /**
   * Asks a worker; resolves to the result of its response. The worker is the one of the key, else the one with the fewest
   * requests.
   *
   * @throws (rejects) {RpcError}: the worker's own error; {@link RequestTimeoutError}; {@link WorkerDiedError};
   * {@link BusOverloadedError}; {@link NoWorkerError}; `PROTOCOL`: its answer cannot be
   * read; `UNKNOWN_POOL`, {@link InvalidConfigError}, {@link ClosedError}; the reason of the signal.
   */
  request<T = unknown>(method: string, params?: unknown, options?: StdioRequestOptions): Promise<T> {
    return this.#ask("request", method, params, options) as Promise<T>;
  }

  /** Tells a worker something; resolves when it is on its way. It waits for room and rejects as {@link request} does. */
  notify(method: string, params?: unknown, options?: StdioRequestOptions): Promise<void> {
    return this.#ask("notification", method, params, options) as Promise<void>;
  }

  #ask(
    kind: Call["kind"],
    method: string,
    params: unknown,
    options: StdioRequestOptions | undefined,
  ): Promise<unknown> {
    const promise = new Promise(grab);
    this.call(kind, method, params, null, options, ends.resolve, ends.reject);
    return promise;
  }

  /**
   * Sends a whole message. Of a request it resolves to the worker's whole response, an error too, with the request's own id
   * (on its way it has another, so equal ids do not meet); of a notification to `undefined`. Members of its own go with it;
   * `pool` chooses the pool and `sessionId` is the key, unless the options say otherwise.
   *
   * @throws (rejects) as {@link request} does, but for RpcError.
   */
  send(message: RpcMessage, options: StdioRequestOptions = {}): Promise<RpcMessage | undefined> {
    const promise = new Promise(grab);
    this.forward(message, options, ends.resolve, ends.reject);
    return promise as Promise<RpcMessage | undefined>;
  }

  // ---- what workers say -----------------------------------------------------------------------------------------------

  /**
   * Answers requests of workers. One that no handler is for goes to the client of {@link serve} whose `sessionId` it has (with
   * the protocol `"mcp"`: whose request the worker has), then to the handler of `"*"`; without one it gets -32601. Of each worker
   * `concurrency` handlers run at once; with more it is not read, so a handler that asks its own worker may wait for itself.
   * Returns a function that takes the handler out again.
   *
   * @throws {InvalidConfigError} when the method has a handler.
   */
  onRequest(method: string, handler: WorkerRequestHandler): () => void {
    return this.audience.onRequest(method, handler);
  }

  /**
   * What workers tell from now on, but for `$/ready`, what gives up a request, and the progress of requests. Ends with the bus.
   *
   *     for await (const { method, params, pid } of bus.subscribe({ method: "log" })) …
   *
   * @throws {InvalidConfigError}, `UNKNOWN_POOL`, {@link ClosedError}, the reason of a signal that is aborted.
   */
  subscribe(options: NotificationOptions = {}): Subscription<WorkerNotification> {
    const resolved = notificationOptions.resolve(options);
    this.checkOpen();
    if (resolved.pool !== null) this.poolOf(resolved.pool);
    return this.audience.subscribe(resolved);
  }

  // ---- clients --------------------------------------------------------------------------------------------------------

  /**
   * Lets other programs of this machine ask: each connection to the socket speaks JSON-RPC in lines (or another framing), with
   * ids of its own. A connection by tcp sends a token first. Clients of a pool with the protocol `"mcp"` speak that. Ends with `server.close()`, or with the bus. Each call opens one more
   * server; the others go on.
   *
   * @throws (rejects) {InvalidConfigError}; {@link ClosedError}; `UNKNOWN_POOL`; `ADDRESS_IN_USE` when
   * a live socket has the path or the port.
   */
  async serve(options: ServeOptions): Promise<StdioServer> {
    this.checkOpen();
    const { unix, tcp } = options ?? {};
    const address = unix ?? (tcp?.port ? `${tcp.port}` : null);
    if (address !== null) void closeOlder(`socket ${address}`); // the address is free at once
    const server = await StdioServer.listen(this.clients, options, () => this.audience.servers.delete(server));
    this.audience.servers.add(server);
    if (address !== null) noteOpened(`socket ${address}`, server);
    if (this.closed) await server.close(); // it closed meanwhile
    return server;
  }
}
