/** The stdio bus: programs in any language as workers that speak JSON-RPC over standard input and output. */

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
 * Worker processes that speak JSON-RPC 2.0 over standard input and output: any program that reads and writes lines of JSON.
 *
 *     await using bus = await StdioBus.start({ pools: [{ id: "py", command: "python3", args: ["worker.py"], instances: 2 }] });
 *     const sum = await bus.request("add", [1, 2]);
 *
 * A worker has at most `concurrency` requests at once, and at most `queuedBytes` bytes wait for its pipe. Further requests wait
 * in the queue of the pool, up to `queue.limit`.
 */
export class StdioBus extends StdioCore {
  /**
   * Starts all workers and resolves when all are ready. If one fails to start, all are stopped. Events, and requests and
   * notifications of workers, are held until the turn of the event loop after that: add listeners, handlers and subscriptions
   * before the next `await`.
   *
   * @throws (rejects) {InvalidConfigError} for unknown keys, duplicate ids and values out of range; `PROGRAM_NOT_FOUND`,
   * {WorkerStartError}.
   */
  static start(options: StdioBusOptions, /** @internal For tests. */ make?: MakeSupervisor): Promise<StdioBus> {
    return Promise.try(() => new StdioBus(options, make).begin());
  }

  /**
   * Sends a request to a worker and resolves to the result. A request with a `key` goes to the key's worker, others go to
   * the worker with the fewest requests.
   *
   * @throws (rejects) {RpcError}: the worker's own error; {@link RequestTimeoutError}; {@link WorkerDiedError};
   * {@link BusOverloadedError}; {@link NoWorkerError}; `PROTOCOL`: the response is not valid; `UNKNOWN_POOL`,
   * {@link InvalidConfigError}, {@link ClosedError}; the reason of the signal.
   */
  request<T = unknown>(method: string, params?: unknown, options?: StdioRequestOptions): Promise<T> {
    return this.#ask("request", method, params, options) as Promise<T>;
  }

  /** Sends a notification to a worker and resolves when it is sent. Waits for room and rejects as {@link request} does. */
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
   * Sends a whole message, with all its members. For a request it resolves to the whole response, also to an error response,
   * with the id of the request; equal ids do not collide, as the worker sees another id. For a notification it resolves to
   * `undefined`. The members `pool` and `sessionId` of the message are used as pool and key unless the options set them.
   *
   * @throws (rejects) as {@link request} does, except {@link RpcError}.
   */
  send(message: RpcMessage, options: StdioRequestOptions = {}): Promise<RpcMessage | undefined> {
    const promise = new Promise(grab);
    this.forward(message, options, ends.resolve, ends.reject);
    return promise as Promise<RpcMessage | undefined>;
  }

  // ---- messages of workers --------------------------------------------------------------------------------------------

  /**
   * Adds a handler for requests of workers. A request without a handler goes to the client of {@link serve} with the same
   * `sessionId` (with the protocol `"mcp"`: to the client whose request the worker is running), then to the handler of `"*"`,
   * else the worker gets error -32601. At most `concurrency` handlers run per worker; at the limit the bus stops reading from
   * the worker, so a handler that sends a request to its own worker can deadlock. Returns a function that removes the handler.
   *
   * @throws {InvalidConfigError} when the method already has a handler.
   */
  onRequest(method: string, handler: WorkerRequestHandler): () => void {
    return this.audience.onRequest(method, handler);
  }

  /**
   * Subscribes to notifications of workers, except `$/ready`, cancel notifications and progress of requests. Ends with the bus.
   *
   *     for await (const { method, params, pid } of bus.subscribe({ method: "log" })) …
   *
   * @throws {InvalidConfigError}, `UNKNOWN_POOL`, {@link ClosedError}, the reason of an aborted signal.
   */
  subscribe(options: NotificationOptions = {}): Subscription<WorkerNotification> {
    const resolved = notificationOptions.resolve(options);
    this.checkOpen();
    if (resolved.pool !== null) this.poolOf(resolved.pool);
    return this.audience.subscribe(resolved);
  }

  // ---- clients --------------------------------------------------------------------------------------------------------

  /**
   * Opens a server, so that other programs can send requests to the workers. Each connection speaks JSON-RPC in lines (or
   * another framing) with its own ids; a TCP connection sends a token first. Clients of a pool with the protocol `"mcp"` speak
   * MCP. Call it again for further servers. A server ends with `server.close()` or with the bus.
   *
   * @throws (rejects) {InvalidConfigError}; {@link ClosedError}; `UNKNOWN_POOL`; `ADDRESS_IN_USE` when the path or port is in
   * use.
   */
  async serve(options: ServeOptions): Promise<StdioServer> {
    this.checkOpen();
    const { unix, tcp } = options ?? {};
    const address = unix ?? (tcp?.port ? `${tcp.port}` : null);
    if (address !== null) void closeOlder(`socket ${address}`); // frees the address at once
    const server = await StdioServer.listen(this.clients, options, () => this.audience.servers.delete(server));
    this.audience.servers.add(server);
    if (address !== null) noteOpened(`socket ${address}`, server);
    if (this.closed) await server.close(); // the bus was closed meanwhile
    return server;
  }
}
