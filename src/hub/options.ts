/** Options of a hub and of its workers: defaults, ranges, and the flags of `slotbus hub`. */

import { isVia, type RemoteVia } from "../bus/via.ts";
import { checkToken } from "../check.ts";
import { InvalidConfigError } from "../errors.ts";
import {
  boolean,
  bytes,
  choice,
  custom,
  flag,
  type Given,
  group,
  integer,
  needed,
  Options,
  optional,
  orFalse,
  refuse,
  type Resolved,
  text,
  timeout,
} from "../options.ts";
import { checkName, resolveDirectory } from "../runtime-directory.ts";
import { checkProxies } from "./proxies.ts";
import { type HubRoutes, readRoutes } from "./handlers.ts";

const DAY_MS = 86_400_000;
const GIB = 2 ** 30;
/** Longest name of a worker's bus, `HUB.WORKER`. Hub names have no dot, so two pairs cannot share a bus name. */
const BUS_NAME_MAX = 64;

const isHubName = (name: string): boolean => /^[A-Za-z0-9][A-Za-z0-9_-]{0,23}$/.test(name);
const hubName = text("hub", "1 to 24 of A-Z a-z 0-9 _ -", isHubName);
const port = integer(undefined, 0, 65_535);
const hostname = text("127.0.0.1", "a name or an address", (name) => /^[\w.:[\]-]+$/.test(name));
const token = custom<string>(undefined, "16 to 1024 characters", (given, name) => checkToken(name, given));
const directory = custom<string>(undefined, "a path", resolveDirectory, "$SLOTBUS_DIR, else /dev/shm/slotbus-<euid>");

/** The option `via` of a hub and its workers. */
const via = custom<RemoteVia | undefined>(undefined, "`nats()`", checkRemote, "this machine's memory");

function checkRemote(given: RemoteVia | undefined, name: string): RemoteVia | undefined {
  if (given === undefined || (isVia(given) && given.wire === "nats")) return given;
  return refuse(name, given, "`nats()` of slotbus/nats");
}

const sse = {
  /** Time between two comments that keep a quiet stream alive, in ms. */
  heartbeat: flag(integer(15_000, 10, 240_000, " ms"), "time between comments that keep a quiet event stream open"),
  /** Bytes buffered for one client. Further events are dropped; `slotbus-lost` tells the client how many. */
  clientBytes: flag(
    bytes(1 << 20, 1_024, GIB),
    "buffer for each client of an event stream; further events are dropped",
  ),
  /** Events of one stream that are kept for clients that reconnect. */
  maxReplay: flag(integer(1_000, 0, 1_000_000), "events of each path kept for clients that reconnect"),
  /** Size of the kept events of one stream, in bytes. */
  replayBytes: flag(bytes(1 << 20, 0, GIB), "total size of the events kept for each path"),
  /** Paths for which events are kept. */
  maxPaths: flag(integer(10_000, 1, 10_000_000), "number of paths for which events are kept"),
};

const ws = {
  /** Origins whose pages may open WebSockets: a list, or `"*"` for all. Clients that are not browsers send no origin. */
  origins: flag(
    optional(custom<readonly string[] | "*">(undefined, "a list of origins, or *", checkOrigins), "the hub's own"),
    "origins whose pages may open WebSockets, separated by commas; or *",
  ),
  /** Largest message of a client, in bytes; above it the connection is closed with 1009. */
  messageBytes: flag(bytes(1 << 20, 1, GIB), "largest message of a WebSocket client; a larger one closes with 1009"),
  /** Messages of one connection that wait for the worker, in bytes; above it the connection is closed with 1008. */
  waitingBytes: flag(bytes(1 << 20, 1_024, GIB), "messages of one WebSocket that may wait for a worker; then 1008"),
  /** Buffer for one client, in bytes. A client that reads too slowly for it is disconnected. */
  clientBytes: flag(bytes(1 << 20, 1_024, GIB), "buffer for each WebSocket client; one that is slower is disconnected"),
  /** Time after which a silent client is disconnected, in ms, in steps of a second. It gets a ping before. */
  idle: flag(integer(120_000, 8_000, 960_000, " ms"), "time after which a client that answers no ping is disconnected"),
  /** Whether messages are compressed (permessage-deflate) for clients that offer it. */
  compress: flag(boolean(false), "compress messages of WebSockets (permessage-deflate)"),
  /** Connections of one hub process; above it 503. */
  maxConnections: flag(integer(100_000, 1, 10_000_000), "WebSockets of a hub process at most; above it 503"),
};

const cors = {
  /** Origins whose pages may read the responses: `["https://app.example"]`, or `"*"` for all. */
  origins: flag(
    needed(custom<readonly string[] | "*">(undefined, "a list of origins, or *", checkOrigins)),
    "origins whose pages may read event streams, separated by commas; or *",
  ),
  /** Whether these pages may send cookies and HTTP credentials. Not allowed with `"*"`. */
  credentials: flag(boolean(false), "let pages of these origins send cookies"),
  /** Time for which a browser may cache the response to a preflight, in ms. */
  maxAge: flag(integer(600_000, 0, DAY_MS, " ms"), "time for which a browser may cache a preflight"),
};
const corsGroup = group(cors);

/** @throws {InvalidConfigError} for an origin that is not spelled as browsers send it. */
function checkOrigins(given: readonly string[] | "*", name: string): readonly string[] | "*" {
  if (given === "*") return given;
  if (!Array.isArray(given) || given.length === 0) refuse(name, given, 'a list of origins, or "*"');
  for (const [at, origin] of given.entries())
    if (!isOrigin(origin))
      refuse(`${name}[${at}]`, origin, 'an origin as browsers send it: "https://app.example", without a path');
  return [...given];
}

function isOrigin(given: unknown): boolean {
  if (typeof given !== "string" || !/^[a-z][a-z0-9+.-]*:\/\/[^\s/?#@,*]+$/.test(given)) return false;
  return !/^https?:/.test(given) || URL.parse(given)?.origin === given;
}

/** @throws {InvalidConfigError} for credentials together with the origins `"*"`: browsers reject that. */
function checkCors<R extends Resolved<typeof cors>>(rule: R, name: string): R {
  if (rule.credentials && rule.origins === "*") refuse(`${name}.credentials`, true, 'false when origins is "*"');
  return rule;
}

/** Options of `Hub.start`. */
export const hubOptions = new Options("a hub", {
  /** Name by which workers find the hub. Must be unique in the directory. */
  name: flag(hubName, "name by which workers find the hub"),
  /** Port to listen on; 0 picks a free one. With `false` the hub does not listen: call `hub.fetch` in your own server. */
  port: flag(orFalse(integer(3_200, 0, 65_535)), "port to listen on; 0 picks a free one"),
  /** Address to listen on. */
  hostname: flag(hostname, "address to listen on; 0.0.0.0: all addresses"),
  /** Shares name, port and workers with other hub processes that have this option. Needs a fixed port, or `port: false`. */
  shared: flag(boolean(false), "share name, port and workers with other hub processes"),
  /** Runtime directory. */
  directory,
  /** `nats()`: the workers come over this NATS server, from any machine. They need the same option. */
  via,
  /** Longest time from a request to the head of its response, in ms; then 504. */
  timeout: flag(timeout(30_000), "longest wait for the head of a response; then 504"),
  /** Longest time without data of a request body, in ms; then 408. */
  bodyTimeout: flag(timeout(30_000), "longest wait for more data of a request body; then 408"),
  /** Largest request body, in bytes; above it 413. */
  payloadBytes: flag(bytes(10 << 20, 1, GIB), "largest request body; a larger body gets 413"),
  /** Requests that one worker process handles at once. */
  slots: flag(integer(32, 1, 256), "requests that one worker process handles at once"),
  /** Queue of requests per worker name. */
  queue: group({
    /** Requests that may wait for one worker name; above it 503. */
    limit: flag(integer(1_024, 0, 1_000_000), "requests that may wait for the workers of one name"),
    /** What happens to requests above the limit. */
    policy: flag(
      choice("reject", ["reject", "wait"]),
      "what happens to requests above the queue's limit: 503, or wait",
    ),
  }),
  /** Longest time to spin before the process sleeps, in µs. 0 on a machine with one processor. */
  spin: flag(
    optional(integer(undefined, 0, 10_000, " µs"), "50"),
    "longest time to spin before sleeping, in µs; 0 never spins",
  ),
  /** Time for which routes without a worker respond with 503, in ms; then with 404. */
  goneFor: flag(integer(30_000, 0, DAY_MS, " ms"), "time for which a route without a worker gets 503; then 404"),
  /**
   * Whose `x-forwarded-*` headers are trusted: a list of addresses and subnets (`"10.0.0.0/8"`; `"unix"` for peers on a unix socket),
   * or with `true` every peer. The headers of other peers are replaced.
   */
  trustProxy: flag(
    custom<boolean | readonly string[]>(false, "true, false or a list of addresses", checkProxies),
    "trust x-forwarded-* headers of these addresses and subnets, separated by commas; without a list: of every peer",
  ),
  /** Limits for each client address (IPv6: for each /64 subnet); above them 429. */
  perClient: group({
    /** Requests of one client that may run at once. An event stream counts while it is open. */
    concurrency: flag(optional(integer(undefined, 1, 1_000_000)), "requests of one client that may run at once"),
    /** Requests of one client per second. */
    rate: flag(optional(integer(undefined, 1, 1_000_000)), "requests of one client per second"),
    /** Requests of one client that may begin at the same moment, within `rate`. */
    burst: flag(
      optional(integer(undefined, 1, 1_000_000), "the value of rate"),
      "requests of one client that may begin at the same moment",
    ),
  }),
  /** Time for which a hub that drains still accepts requests while `/health` responds with 503, in ms. */
  drainDelay: flag(integer(0, 0, DAY_MS, " ms"), "time between the 503 of /health and the end of listening"),
  /** Pings that find and evict hung workers. `false`: no pings. */
  ping: flag(
    orFalse(
      group({
        /** Time between two pings to a worker, in ms. */
        interval: flag(integer(10_000, 10, DAY_MS, " ms"), "time between pings to a worker"),
        /** Time after which a ping counts as missed, in ms. */
        timeout: flag(integer(2_000, 1, DAY_MS, " ms"), "time after which a ping counts as missed"),
        /** Pings missed in a row after which a worker is evicted. */
        maxMisses: flag(integer(3, 1, 1_000), "missed pings in a row after which a worker is evicted"),
      }),
    ),
    "send no pings; hung workers are not evicted",
  ),
  /** Server-sent events. */
  sse: group(sse),
  /** WebSockets. */
  ws: group(ws),
  /** CORS for event streams and the hub's own errors. Responses of workers are not changed. */
  cors: optional({ ...corsGroup, resolve: (...given) => checkCors(corsGroup.resolve(...given), given[1]) }),
  /** Token for `/_slotbus/`: `authorization: Bearer <token>`. Without it only clients on this machine have access. */
  adminToken: optional(token),
  /**
   * Also serves the control plane on a TCP port, for programs that cannot open the hub's socket: events and health.
   * Workers do not register there.
   */
  control: optional(
    group({
      /** Port of the control plane; 0 picks a free one. */
      port: flag(needed(port), "port of the control plane; it needs a token"),
      /** Address that the control plane listens on. */
      hostname: flag(hostname, "address that the control plane listens on"),
      /** Token that each request must send: `authorization: Bearer <token>`. */
      token: needed(token),
    }),
  ),
});

/** Options of {@link Hub.start}. */
export interface HubOptions extends Given<typeof hubOptions.rows> {}

/** Options of server-sent events. */
export interface SseOptions extends Given<typeof sse> {}

/** Options of WebSockets. */
export interface WsOptions extends Given<typeof ws> {}

/** Options of a hub with the defaults filled in. */
export interface ResolvedHubOptions extends Resolved<typeof hubOptions.rows> {}

/** Options of `HubWorker.start`. */
export const hubWorkerOptions = new Options("a worker of a hub", {
  /** Name of the worker. Processes of one name share its requests. */
  name: needed(custom<string>(undefined, "1 to 64 of A-Z a-z 0-9 . _ -", (name) => checkName(name, "worker"))),
  /** Handlers, apps and event streams by pattern, as `routes` of `Bun.serve`. */
  routes: needed(custom<HubRoutes, ReturnType<typeof readRoutes>>(undefined, "by pattern", readRoutes)),
  /** Name of the hub. */
  hub: hubName,
  /** Requests handled at once, limited by `slots` of the hub. */
  concurrency: integer(256, 1, 256),
  /** Longest time that `start` waits for the hub, in ms. */
  timeout: timeout(Infinity, 0),
  /** Delays between attempts to connect to the hub. Each delay is twice the previous one, with jitter. */
  reconnect: group({
    /** First delay, in ms. */
    initial: integer(1_000, 1, 3_600_000, " ms"),
    /** Longest delay, in ms. */
    max: integer(30_000, 1, 3_600_000, " ms"),
  }),
  /** Interval of the checks that the hub still has the registration, in ms. */
  watchdog: integer(5_000, 10, DAY_MS, " ms"),
  /** Runtime directory. */
  directory: optional(directory, directory.fallback),
  /** `nats()`: the hub may be on another machine. It needs the same option. */
  via,
});

/** Options of {@link HubWorker.start}. */
export interface HubWorkerOptions<Pattern extends string = string> extends Omit<
  Given<typeof hubWorkerOptions.rows>,
  "routes"
> {
  /** Handlers, apps and event streams by pattern, as `routes` of `Bun.serve`. */
  routes: HubRoutes<Pattern>;
}

/** Returns the bus name of a worker. @throws {InvalidConfigError} */
export function busNameOf(hub: string, worker: unknown): string {
  const name = `${hub}.${checkName(worker, "worker")}`;
  if (name.length <= BUS_NAME_MAX) return name;
  const room = BUS_NAME_MAX - hub.length - 1;
  const length = name.length - hub.length - 1;
  throw new InvalidConfigError(`The worker name has ${length} characters; in hub "${hub}" the limit is ${room}.`, {
    hint: "Choose a shorter name for the worker or the hub.",
  });
}
