/** Options of a stdio bus, of its pools, servers, subscriptions and requests. */

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
/** Bytes of the path of a unix socket, without the zero at its end. */
const UNIX_PATH_MAX = 107;

// ---- the bus and its pools --------------------------------------------------------------------------------------------

const limitRows = {
  /** Requests that one worker has at once; more wait. A worker that asks so many itself is not read meanwhile. */
  concurrency: integer(64, 1, 65_536),
  /** A worker is given no more requests while so many bytes wait for its pipe. */
  queuedBytes: bytes(4 * 2 ** 20, 1_024, GIB),
  /** Longest message of a worker. A longer one fails its own request. */
  messageBytes: bytes(10 * 2 ** 20, 64, GIB),
  /** Timeout of a request that has none of its own. */
  timeout: timeout(30_000),
  /** Requests of a pool that wait for a worker. Beyond the limit they reject with `BusOverloadedError`, or wait. */
  queue: group({ limit: integer(1_024, 0, 1_000_000), policy: choice("reject", ["reject", "wait"]) }),
  /** A worker is replaced, as by its age, when so many of its requests in a row timed out and it answered nothing since. */
  maxTimeouts: endless(Infinity, 1, 1_000_000),
  /** What becomes of a worker that writes what is not a message: `"skip"` goes on behind it, `"restart"` kills it. */
  onFault: choice("skip", ["skip", "restart"]),
};

/** Limits of a bus; a pool may have its own in their place. */
export interface StdioLimits extends Given<typeof limitRows> {}

const ownRows = {
  /** Name of the pool, unique in its bus. */
  id: needed(text(undefined, "1 to 255 characters", (id) => id !== "" && id.length <= 255)),
  /**
   * How a request is given up and how its progress is told: `"json-rpc"` by `$/cancelRequest` and `$/progress` with the request's id,
   * `"lsp"` and `"mcp"` as language servers and servers of the Model Context Protocol expect. `"mcp"` also greets each worker.
   */
  protocol: choice("json-rpc", PROTOCOLS),
  /** How messages are told apart. Without it: `"content-length"` with the protocol `"lsp"`, else `"ndjson"`. */
  framing: optional(choice("ndjson", FRAMINGS), "of the protocol"),
  /** `true`: a worker is ready when it says so by the notification `$/ready`. `false`: when it runs. */
  ready: boolean(false),
  /**
   * Called for each new process, also after a restart, before it takes requests: language servers and tool servers must be told
   * `initialize` first, and state that the last one had is given to the next. The worker is ready when the promise that it
   * returns has settled, within `startupTimeout`; a rejection ends the process, as one that does not get ready. Without it a pool
   * with the protocol `"mcp"` sends `initialize`, with no capabilities, and `notifications/initialized`.
   */
  initialize: callback<(worker: StartingWorker) => unknown>(),
};

const { name: _, ...processRows } = poolOptions.rows;

/** @internal Options of a pool. */
export const stdioPoolOptions = new Options("a pool", {
  ...processRows,
  /** Workers. */
  instances: integer(1, 1, 1_024),
  ...ownRows,
  ...limitRows,
});

/** Workers of one program. */
export interface StdioPoolOptions extends Given<typeof stdioPoolOptions.rows> {}

/** @internal A pool with its defaults; `program` is for the supervisor. */
export type ResolvedStdioPool = Resolved<typeof stdioPoolOptions.rows> & {
  readonly framing: Framing;
  readonly program: ResolvedPool;
};

/** @internal Options of a bus. */
export const stdioOptions = new Options("a StdioBus", {
  /** The programs. */
  pools: needed(
    custom<readonly StdioPoolOptions[]>(undefined, "1 to 1024 pools", (pools, name) =>
      Array.isArray(pools) && pools.length > 0 && pools.length <= 1_024
        ? pools
        : refuse(name, pools, "1 to 1024 pools"),
    ),
  ),
  ...limitRows,
});

/** What a `StdioBus` is made of. */
export interface StdioBusOptions extends Given<(typeof stdioOptions)["rows"]> {}

/** A worker that takes no requests yet. */
export interface StartingWorker extends LinkIdentity {
  /** Asks it; as `bus.request`, without a timeout of its own. @throws (rejects) {ClosedError} when it is ready. */
  request<T = unknown>(method: string, params?: unknown): Promise<T>;
  /** Tells it; as `bus.notify`. @throws (rejects) {ClosedError} when it is ready. */
  notify(method: string, params?: unknown): Promise<void>;
  /** Answers its requests for that method as long as it lives, before the handlers of `bus.onRequest`. */
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
      throw new InvalidConfigError(`two pools have the id ${shown(id)}.`, { hint: "Give each its own." });
    }
    ids.add(id);
    const env = { SLOTBUS_NAME: undefined, ...resolved.env, [STDIO_VARIABLE]: framing };
    return { ...resolved, framing, program: completePool({ ...resolved, name: id, env }, `${at}.`) };
  });
}

// ---- requests ---------------------------------------------------------------------------------------------------------

/** What a call is asked with. */
export interface CallOptions {
  /** Goes to the worker that has this key, as long as it lives; SDK workers see it as `ctx.key`. */
  key?: string | undefined;
  /**
   * In ms, from the call to the answer. `Infinity`: no limit. 0 does not wait: a request is not sent, a notification goes out only if
   * its worker has room. Default: that of the pool.
   */
  timeout?: number | undefined;
  /** Rejects with `signal.reason`; the worker is told that nobody waits, as its protocol says. */
  signal?: AbortSignal | undefined;
  /** May run twice: if its worker ends it is sent to another one, once, within the same timeout. */
  idempotent?: boolean | undefined;
  /**
   * Called with each piece the worker sends before its answer, in order. While a promise that it returns is pending, and the
   * request too, nothing more is read from that worker. With the protocol `"mcp"` a piece is `{ progress, total, message }`. With `"mcp"` and `"lsp"` the
   * request gets a token of its own; one that its params have stays.
   */
  onProgress?: ((value: unknown) => unknown) | undefined;
}

/** What a request takes besides its method and params. */
export interface StdioRequestOptions extends CallOptions {
  /** Id of the pool; it may be left out when there is one. */
  pool?: string | undefined;
}

const REQUEST_KEYS = ["pool", "key", "timeout", "signal", "idempotent", "onProgress"];

/** Checks all but `timeout` and the value of `pool`. Throws {@link InvalidConfigError}. */
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
  /** Ends it at once; reading rejects with `signal.reason`. */
  signal,
  /**
   * What is kept for a reader. When it is full, `"drop-newest"` and `"drop-oldest"` lose an item and count it; `"close"` ends the
   * subscription with `EventsLostError` behind what is queued; `"block"` reads no more from the worker that told, until
   * there is room: a reader that then stays away stops that worker's requests too.
   */
  queue: group({
    limit: integer(256, 1, 1_048_576),
    policy: choice("drop-newest", ["drop-newest", "drop-oldest", "close", "block"]),
  }),
};

/** @internal Options of a subscription to messages. */
export const subscribeOptions = new Options("a subscription", subscribeRows);

/** How a subscription keeps what its reader has not taken. */
export interface SubscribeOptions extends Given<typeof subscribeRows> {}

const filterRows = {
  /** Only notifications of this method. */
  method: optional(text(undefined, "text", () => true)),
  /** Only notifications of this pool. */
  pool: optional(text(undefined, "id of a pool", () => true)),
};

/** @internal Options of a subscription to notifications. */
export const notificationOptions = new Options("a subscription", { ...filterRows, ...subscribeRows });

/** Which notifications a subscription gets, and how it keeps them. */
export interface NotificationOptions extends SubscribeOptions, Given<typeof filterRows> {}

// ---- servers ----------------------------------------------------------------------------------------------------------

const tcpRows = {
  /** 0: any that is free; `StdioServer.port` says which. */
  port: needed(integer(undefined, 0, 65_535)),
  /** Without it this machine alone reaches the port. Bytes on the wire are not encrypted. */
  hostname: text("127.0.0.1", "a name or an address", (name) => name !== ""),
  /**
   * What the first message of each connection must bring, in printable characters; `StdioServer.token` returns it. `false`: no
   * token; every program, of every user, that reaches the port may ask.
   */
  token: custom<string | false | undefined, string | null>(
    undefined,
    "16 to 1024 characters, or false",
    (token, name) =>
      token === false ? null : token === undefined ? randomBytes(32).toString("hex") : checkToken(name, token),
    "32 random bytes",
  ),
};

/** A tcp port for clients, and what they must know. */
export interface TcpOptions extends Given<typeof tcpRows> {}

/** @internal Options of a server of a bus. */
export const stdioServeOptions = new Options("serve", {
  /** Path of a unix socket, made with mode 0600. One that nobody listens on any more is replaced. */
  unix: optional(
    text(undefined, `a path of at most ${UNIX_PATH_MAX} bytes`, (path) => {
      return path !== "" && !path.includes("\0") && Buffer.byteLength(path) <= UNIX_PATH_MAX;
    }),
  ),
  /** Id of the pool that its clients ask. Without it: the only one, or that of a message's `pool`. */
  pool: optional(text(undefined, "id of a pool", () => true)),
  /** A tcp port. That a client is gone is seen when an answer cannot be written; on a unix socket at once. */
  tcp: optional(group(tcpRows)),
  /**
   * Standard input and output of this process, which then prints nothing else there: one client, which also gets what workers tell
   * and ask without a `sessionId`. The server closes when input has ended and all was answered.
   */
  stdio: boolean(false),
  /** How messages are told apart. */
  framing: choice("ndjson", FRAMINGS),
  /** Connections at once; one more is told so and closed. */
  maxClients: integer(256, 1, 65_536),
  /** Requests of one connection at once; with more it is read no further than `messageBytes` ahead. */
  concurrency: integer(64, 1, 65_536),
  /** Longest message of a client; a longer one is answered with an error. */
  messageBytes: bytes(2 ** 20, 64, GIB),
  /** A connection is not read while so many bytes wait for it, and is told no notifications. */
  queuedBytes: bytes(4 * 2 ** 20, 1_024, GIB),
});

/** Where a bus listens for clients, and how much of each it takes. */
export interface ServeOptions extends Given<(typeof stdioServeOptions)["rows"]> {}

/** Fills in defaults. @throws {InvalidConfigError} @internal */
export function resolveServe(given: ServeOptions, at?: string): Resolved<(typeof stdioServeOptions)["rows"]> {
  const resolved = stdioServeOptions.resolve(given, at === undefined ? {} : { at });
  const { unix, tcp, stdio } = resolved;
  if ([unix !== null, tcp !== null, stdio].filter(Boolean).length === 1) return resolved;
  throw new InvalidConfigError(`${at ?? "serve"} takes either \`unix\`, \`tcp\` or \`stdio\`.`);
}
