/** Options of a stdio bus and its pools, servers, subscriptions and requests. */

import { randomBytes } from "node:crypto";
import { checkKeys, checkSignal, checkToken, shown } from "../check.ts";
import { InvalidConfigError } from "../errors.ts";
import {
  boolean,
  bytes,
  callback,
  choice,
  custom,
  endless,
  type Given,
  group,
  integer,
  needed,
  Options,
  optional,
  refuse,
  type Resolved,
  signal,
  text,
  timeout,
} from "../options.ts";
import { completePool, poolOptions, type ResolvedPool } from "../supervisor/options.ts";
import { type Framing, FRAMINGS, STDIO_VARIABLE } from "./framing.ts";
import type { LinkIdentity, WorkerRequestHandler } from "./events.ts";
import { PROTOCOLS, protocols } from "./protocol.ts";

const GIB = 2 ** 30;
/** Longest path of a unix socket in bytes, without the terminating NUL. */
const UNIX_PATH_MAX = 107;

// ---- the bus and its pools --------------------------------------------------------------------------------------------

const limitRows = {
  /** Requests that one worker has at once; more wait. Limits the worker's own requests too: at the limit they stay unread. */
  concurrency: integer(64, 1, 65_536),
  /** Bytes that may wait for a worker's pipe. At the limit the worker gets no more requests. */
  queuedBytes: bytes(4 * 2 ** 20, 1_024, GIB),
  /** Longest message of a worker. A longer response rejects its request. */
  messageBytes: bytes(10 * 2 ** 20, 64, GIB),
  /** Default timeout of a request. */
  timeout: timeout(30_000),
  /** Requests of a pool that wait for a worker. Beyond the limit a request rejects with `BusOverloadedError`, or waits. */
  queue: group({ limit: integer(1_024, 0, 1_000_000), policy: choice("reject", ["reject", "wait"]) }),
  /** Timeouts in a row, without a response in between, after which a worker is replaced (as by `recycle`). */
  maxTimeouts: endless(Infinity, 1, 1_000_000),
  /**
   * What happens when a worker writes something that is not a message: `"skip"` continues after it, `"restart"` kills the
   * worker.
   */
  onFault: choice("skip", ["skip", "restart"]),
};

/** Limits of a bus. A pool can override them. */
export interface StdioLimits extends Given<typeof limitRows> {}

const ownRows = {
  /** Name of the pool, unique in the bus. */
  id: needed(text(undefined, "1 to 255 characters", (id) => id !== "" && id.length <= 255)),
  /**
   * How requests are cancelled and how progress is reported. `"json-rpc"`: by `$/cancelRequest` and `$/progress` with the
   * request's id. `"lsp"` and `"mcp"`: as language servers and MCP servers expect. `"mcp"` also sends `initialize` to each
   * worker.
   */
  protocol: choice("json-rpc", PROTOCOLS),
  /** How messages are separated. Default: `"content-length"` for the protocol `"lsp"`, else `"ndjson"`. */
  framing: optional(choice("ndjson", FRAMINGS), "of the protocol"),
  /** `true`: a worker is ready when it has sent the notification `$/ready`. `false`: as soon as it runs. */
  ready: boolean(false),
  /**
   * Called for each new process, also after a restart, before it takes requests. Use it to send `initialize` to a language
   * server, and to restore the state of the previous process. The worker is ready when the returned promise resolves, which
   * must happen within `startupTimeout`; a rejection ends the process. Without this option a pool with the protocol `"mcp"`
   * sends `initialize` without capabilities, and `notifications/initialized`.
   */
  initialize: callback<(worker: StartingWorker) => unknown>(),
};

const { name: _, ...processRows } = poolOptions.rows;

/** @internal Options of a pool. */
export const stdioPoolOptions = new Options("a pool", {
  ...processRows,
  /** Number of workers. */
  instances: integer(1, 1, 1_024),
  ...ownRows,
  ...limitRows,
});

/** A pool: workers that run the same program. */
export interface StdioPoolOptions extends Given<typeof stdioPoolOptions.rows> {}

/** @internal A pool with its defaults filled in; `program` is for the supervisor. */
export type ResolvedStdioPool = Resolved<typeof stdioPoolOptions.rows> & {
  readonly framing: Framing;
  readonly program: ResolvedPool;
};

/** @internal Options of a bus. */
export const stdioOptions = new Options("a StdioBus", {
  /** The pools, each with its program. */
  pools: needed(
    custom<readonly StdioPoolOptions[]>(undefined, "1 to 1024 pools", (pools, name) =>
      Array.isArray(pools) && pools.length > 0 && pools.length <= 1_024
        ? pools
        : refuse(name, pools, "1 to 1024 pools"),
    ),
  ),
  ...limitRows,
});

/** Options of a `StdioBus`. */
export interface StdioBusOptions extends Given<(typeof stdioOptions)["rows"]> {}

/** A worker that is starting, as `initialize` gets it. */
export interface StartingWorker extends LinkIdentity {
  /** Sends a request, as `bus.request` does, without a timeout. @throws (rejects) {ClosedError} once the worker is ready. */
  request<T = unknown>(method: string, params?: unknown): Promise<T>;
  /** Sends a notification, as `bus.notify` does. @throws (rejects) {ClosedError} once the worker is ready. */
  notify(method: string, params?: unknown): Promise<void>;
  /** Adds a handler for requests of this process. It takes precedence over the handlers of `bus.onRequest`. */
  onRequest(method: string, handler: WorkerRequestHandler): void;
}

/** Fills in defaults. Throws {@link InvalidConfigError}. @internal */
export function resolveStdioOptions(given: StdioBusOptions): ResolvedStdioPool[] {
  const { pools, ...limits } = stdioOptions.resolve(given);
  const ids = new Set<string>();
  return pools.map((pool, index) => {
    const at = `pools[${index}]`;
    const resolved = stdioPoolOptions.resolve(pool, { at, base: limits });
    const { id, protocol } = resolved;
    const framing = resolved.framing ?? protocols[protocol].framing;
    if (ids.has(id)) {
      throw new InvalidConfigError(`Two pools have the id ${shown(id)}.`, { hint: "Give each pool its own id." });
    }
    ids.add(id);
    const env = { SLOTBUS_NAME: undefined, ...resolved.env, [STDIO_VARIABLE]: framing };
    return { ...resolved, framing, program: completePool({ ...resolved, name: id, env }, `${at}.`) };
  });
}

// ---- requests ---------------------------------------------------------------------------------------------------------

/** Options of a request, without its pool. */
export interface CallOptions {
  /**
   * Key of a worker: requests with the same key go to the same worker while it lives. Handlers of `serve` get it in their
   * context.
   */
  key?: string | undefined;
  /**
   * Time from the call to the response, in ms; `Infinity`: no limit. Default: the pool's `timeout`. With 0 nothing waits: a
   * request is not sent, a notification is sent only if its worker has room.
   */
  timeout?: number | undefined;
  /** Cancels the request, which rejects with `signal.reason`. The worker gets the cancel notification of its protocol. */
  signal?: AbortSignal | undefined;
  /** The request may run twice: if its worker ends, it is sent once more, to another worker, within the same timeout. */
  idempotent?: boolean | undefined;
  /**
   * Called in order with each piece of progress that the worker sends before its response. If it returns a promise, the bus
   * stops reading from the worker until that promise or the request has settled. With the protocol `"mcp"` a piece is
   * `{ progress, total, message }`. With `"mcp"` and `"lsp"` the request gets a progress token, unless its params have one.
   */
  onProgress?: ((value: unknown) => unknown) | undefined;
}

/** Options of a request. */
export interface StdioRequestOptions extends CallOptions {
  /** Id of the pool. Optional when the bus has a single pool. */
  pool?: string | undefined;
}

const REQUEST_KEYS = ["pool", "key", "timeout", "signal", "idempotent", "onProgress"];

/** Checks all options except `timeout` and the value of `pool`. @throws {InvalidConfigError} */
export function checkRequestOptions(options: StdioRequestOptions): void {
  const { key, signal: aborted, idempotent, onProgress } = options;
  for (const name in options) if (!REQUEST_KEYS.includes(name)) checkKeys("a request", options, REQUEST_KEYS);
  if (key !== undefined && typeof key !== "string") refuse("key", key, "text");
  if (idempotent !== undefined && typeof idempotent !== "boolean") refuse("idempotent", idempotent, "true or false");
  if (onProgress !== undefined && typeof onProgress !== "function") refuse("onProgress", onProgress, "a function");
  if (aborted !== undefined) checkSignal(aborted);
}

// ---- subscriptions ----------------------------------------------------------------------------------------------------

const subscribeRows = {
  /** Ends the subscription at once; reading rejects with `signal.reason`. */
  signal,
  /**
   * Items that wait for the reader. When the queue is full, `"drop-newest"` and `"drop-oldest"` drop an item and count it.
   * `"close"` ends the subscription: after the queued items, reading rejects with `EventsLostError`. `"block"` stops reading
   * from the worker that sent the item until there is room: if the reader never comes back, requests of this worker stall too.
   */
  queue: group({
    limit: integer(256, 1, 1_048_576),
    policy: choice("drop-newest", ["drop-newest", "drop-oldest", "close", "block"]),
  }),
};

/** @internal Options of a subscription to messages. */
export const subscribeOptions = new Options("a subscription", subscribeRows);

/** Options of a subscription to messages. */
export interface SubscribeOptions extends Given<typeof subscribeRows> {}

const filterRows = {
  /** Only notifications of this method. */
  method: optional(text(undefined, "text", () => true)),
  /** Only notifications of this pool. */
  pool: optional(text(undefined, "id of a pool", () => true)),
};

/** @internal Options of a subscription to notifications. */
export const notificationOptions = new Options("a subscription", { ...filterRows, ...subscribeRows });

/** Options of a subscription to notifications. */
export interface NotificationOptions extends SubscribeOptions, Given<typeof filterRows> {}

// ---- servers ----------------------------------------------------------------------------------------------------------

const tcpRows = {
  /** Port number. 0 chooses a free port; read it from `StdioServer.port`. */
  port: needed(integer(undefined, 0, 65_535)),
  /** Address to listen on. By default only this machine can connect. The connection is not encrypted. */
  hostname: text("127.0.0.1", "a name or an address", (name) => name !== ""),
  /**
   * Secret that the first message of each connection must contain, in printable characters. Read it from `StdioServer.token`.
   * `false`: no token; every program of every user that can reach the port can send requests.
   */
  token: custom<string | false | undefined, string | null>(
    undefined,
    "16 to 1024 characters, or false",
    (token, name) =>
      token === false ? null : token === undefined ? randomBytes(32).toString("hex") : checkToken(name, token),
    "32 random bytes",
  ),
};

/** Options of a TCP server for clients. */
export interface TcpOptions extends Given<typeof tcpRows> {}

/** @internal Options of a server of a bus. */
export const stdioServeOptions = new Options("serve", {
  /** Path of a unix socket, created with mode 0600. A stale socket at this path is replaced. */
  unix: optional(
    text(undefined, `a path of at most ${UNIX_PATH_MAX} bytes`, (path) => {
      return path !== "" && !path.includes("\0") && Buffer.byteLength(path) <= UNIX_PATH_MAX;
    }),
  ),
  /** Id of the pool for its clients. Default: the only pool, or the one that a message names in `pool`. */
  pool: optional(text(undefined, "id of a pool", () => true)),
  /**
   * A TCP port. The server notices a disconnected TCP client when a write fails; on a unix socket it notices that at once.
   */
  tcp: optional(group(tcpRows)),
  /**
   * Serves one client on standard input and output of this process, which must print nothing else there. The client also gets
   * workers' notifications and requests without a `sessionId`. The server closes when input has ended and all is answered.
   */
  stdio: boolean(false),
  /** How messages are separated. */
  framing: choice("ndjson", FRAMINGS),
  /** Connections at once. A further connection gets an error and is closed. */
  maxClients: integer(256, 1, 65_536),
  /** Requests of one connection at once. At the limit the server reads at most `messageBytes` more from it. */
  concurrency: integer(64, 1, 65_536),
  /** Longest message of a client. A longer message gets an error response. */
  messageBytes: bytes(2 ** 20, 64, GIB),
  /** Bytes that may wait for a client. At the limit the server stops reading from it and drops notifications for it. */
  queuedBytes: bytes(4 * 2 ** 20, 1_024, GIB),
});

/** Options of `bus.serve`: where it listens, and its limits per client. */
export interface ServeOptions extends Given<(typeof stdioServeOptions)["rows"]> {}

/** Fills in defaults. @throws {InvalidConfigError} @internal */
export function resolveServe(given: ServeOptions, at?: string): Resolved<(typeof stdioServeOptions)["rows"]> {
  const resolved = stdioServeOptions.resolve(given, at === undefined ? {} : { at });
  const { unix, tcp, stdio } = resolved;
  if ([unix !== null, tcp !== null, stdio].filter(Boolean).length === 1) return resolved;
  throw new InvalidConfigError(`${at ?? "serve"} needs exactly one of \`unix\`, \`tcp\` and \`stdio\`.`);
}
