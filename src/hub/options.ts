/** Options of a hub and of its workers: defaults, ranges, and the flags of `slotbus hub`. */

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
import { type HubRoutes, readRoutes } from "./handlers.ts";

const DAY_MS = 86_400_000;
const GIB = 2 ** 30;
/** Of the name of a worker's bus: the hub's, a dot, the worker's. No hub has a dot, so no two pairs make one name. */
const BUS_NAME_MAX = 64;

const isHubName = (name: string): boolean => /^[A-Za-z0-9][A-Za-z0-9_-]{0,23}$/.test(name);
const hubName = text("hub", "1 to 24 of A-Z a-z 0-9 _ -", isHubName);
const port = integer(undefined, 0, 65_535);
const hostname = text("127.0.0.1", "a name or an address", (name) => /^[\w.:[\]-]+$/.test(name));
const token = custom<string>(undefined, "16 to 1024 characters", (given, name) => checkToken(name, given));
const directory = custom<string>(undefined, "a path", resolveDirectory, "$SLOTBUS_DIR, else /dev/shm/slotbus-<euid>");

const sse = {
  /** Time between two comments that keep a quiet stream alive, in ms. */
  heartbeat: flag(integer(15_000, 10, 240_000, " ms"), "between two comments on a quiet event stream"),
  /** Bytes that wait for one client. Events beyond are dropped, and the client is told how many. */
  clientBytes: flag(bytes(1 << 20, 1_024, GIB), "what may wait for one client of a stream"),
  /** Events of one stream that are kept for clients that come back. */
  maxReplay: flag(integer(1_000, 0, 1_000_000), "events of a stream kept for clients that come back"),
  /** Bytes of those events. */
  replayBytes: flag(bytes(1 << 20, 0, GIB), "size of the kept events of a stream"),
  /** Paths for which events are kept. */
  maxPaths: flag(integer(10_000, 1, 10_000_000), "paths for which events are kept"),
};

const cors = {
  /** Origins whose pages may read: `["https://app.example"]`, or `"*"` for all. */
  origins: flag(
    needed(custom<readonly string[] | "*">(undefined, "a list of origins, or *", checkOrigins)),
    "origins whose pages may read event streams, between commas; or *",
  ),
  /** Pages may send cookies and HTTP passwords. Needs origins by name. */
  credentials: flag(boolean(false), "pages of these origins may send cookies"),
  /** How long a browser remembers what it was allowed, in ms. */
  maxAge: flag(integer(600_000, 0, DAY_MS, " ms"), "how long a browser remembers the answer to a preflight"),
};
const corsGroup = group(cors);

/** @throws {InvalidConfigError} for an origin that no browser sends. */
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

/** @throws {InvalidConfigError} for credentials with every origin: no browser accepts that, and no site should mean it. */
function checkCors<R extends Resolved<typeof cors>>(rule: R, name: string): R {
  if (rule.credentials && rule.origins === "*")
    refuse(`${name}.credentials`, true, 'false with the origins "*"; list the origins');
  return rule;
}

/** Options of `Hub.start`. */
export const hubOptions = new Options("a hub", {
  /** Name by which workers find the hub. No other live hub in the directory has it. */
  name: flag(hubName, "name by which workers find the hub"),
  /** Port to listen on; 0 takes a free one. `false` listens nowhere: `hub.fetch` is for a server of your own. */
  port: flag(orFalse(integer(3_200, 0, 65_535)), "port to listen on; 0 takes a free one"),
  /** Address to listen on. */
  hostname: flag(hostname, "address to listen on; 0.0.0.0 is every address of the machine"),
  /** Runtime directory. */
  directory,
  /** Time from a request to the head of its answer, in ms: 504 after that. */
  timeout: flag(timeout(30_000), "from a request to the head of its answer"),
  /** Time between two pieces of a request's body, in ms: 408 after that. */
  bodyTimeout: flag(timeout(30_000), "between two pieces of a request's body"),
  /** Largest body of a request: 413 above it. */
  payloadBytes: flag(bytes(10 << 20, 1, GIB), "largest body of a request"),
  /** Requests that one worker process has at once. */
  slots: flag(integer(32, 1, 256), "requests that one worker process has at once"),
  /** Requests that wait for a worker of one name. */
  queue: group({
    /** Requests that may wait: 503 above it. */
    limit: flag(integer(1_024, 0, 1_000_000), "requests that wait for one worker name"),
    /** What happens beyond the limit. */
    policy: flag(choice("reject", ["reject", "wait"]), "what happens beyond the limit"),
  }),
  /** Longest spin before the process sleeps, in µs. 0 on a machine with one processor. */
  spin: flag(optional(integer(undefined, 0, 10_000, " µs"), "50"), "microseconds of spinning before sleep; 0: none"),
  /** Time for which routes of a worker that left answer 503, in ms; then they are 404. */
  goneFor: flag(integer(30_000, 0, DAY_MS, " ms"), "how long routes of a worker that left answer 503"),
  /** Believes `x-forwarded-*` headers of clients and adds to them. Otherwise they are replaced. */
  trustProxy: flag(boolean(false), "believe x-forwarded-* of clients"),
  /** How a hung worker is found. `false`: it is not. */
  ping: flag(
    orFalse(
      group({
        /** Time between two pings, in ms. */
        interval: flag(integer(10_000, 10, DAY_MS, " ms"), "between two pings of a worker"),
        /** Time for the answer, in ms. */
        timeout: flag(integer(2_000, 1, DAY_MS, " ms"), "time for the answer to a ping"),
        /** Pings missed in a row after which a worker is evicted. */
        maxMisses: flag(integer(3, 1, 1_000), "pings missed in a row after which a worker is evicted"),
      }),
    ),
    "send no pings: hung workers stay",
  ),
  /** Server-sent events. */
  sse: group(sse),
  /** Which pages of other origins may read event streams that the hub keeps, and its errors. Answers of workers are theirs. */
  cors: optional({ ...corsGroup, resolve: (...given) => checkCors(corsGroup.resolve(...given), given[1]) }),
  /** Whoever sends it may see `/_slotbus/`, as `authorization: Bearer <token>`. Without it the page is for this machine. */
  adminToken: optional(token),
  /**
   * The control plane on a port too, for programs that cannot open the hub's socket: events and health. A worker's requests
   * travel through memory, so a worker runs on the hub's machine in any case.
   */
  control: optional(
    group({
      /** Port of the control plane; 0 takes a free one. */
      port: flag(needed(port), "port of the control plane; it needs a token"),
      /** Address of that port. */
      hostname: flag(hostname, "address of that port"),
      /** Token that is asked for there: `authorization: Bearer <token>`. */
      token: needed(token),
    }),
  ),
});

/** Options of {@link Hub.start}. */
export interface HubOptions extends Given<typeof hubOptions.rows> {}

/** Options of server-sent events. */
export interface SseOptions extends Given<typeof sse> {}

/** Options of a hub with the defaults filled in. */
export interface ResolvedHubOptions extends Resolved<typeof hubOptions.rows> {}

/** Options of `HubWorker.start`. */
export const hubWorkerOptions = new Options("a worker of a hub", {
  /** Name of the worker. Processes of one name share its requests. */
  name: needed(custom<string>(undefined, "1 to 64 of A-Z a-z 0-9 . _ -", (name) => checkName(name, "worker"))),
  /** Handlers, apps and event streams by pattern: the shape of `Bun.serve`'s `routes`. */
  routes: needed(custom<HubRoutes, ReturnType<typeof readRoutes>>(undefined, "by pattern", readRoutes)),
  /** Name of the hub. */
  hub: hubName,
  /** Requests handled at once; never more than the hub gives. */
  concurrency: integer(256, 1, 256),
  /** How long `start` waits for the hub, in ms. */
  timeout: timeout(Infinity, 0),
  /** Pauses between two attempts to reach the hub; each is twice as long as the one before, with jitter. */
  reconnect: group({
    /** First pause, in ms. */
    initial: integer(1_000, 1, 3_600_000, " ms"),
    /** Longest pause, in ms. */
    max: integer(30_000, 1, 3_600_000, " ms"),
  }),
  /** Time between two looks at whether the hub still knows the worker, in ms. */
  watchdog: integer(5_000, 10, DAY_MS, " ms"),
  /** Runtime directory. */
  directory: optional(directory, directory.fallback),
});

/** Options of {@link HubWorker.start}. */
export interface HubWorkerOptions<Pattern extends string = string> extends Omit<
  Given<typeof hubWorkerOptions.rows>,
  "routes"
> {
  /** Handlers, apps and event streams by pattern: the shape of `Bun.serve`'s `routes`. */
  routes: HubRoutes<Pattern>;
}

/** The bus of a worker's name. @throws {InvalidConfigError} */
export function busNameOf(hub: string, worker: unknown): string {
  const name = `${hub}.${checkName(worker, "worker")}`;
  if (name.length <= BUS_NAME_MAX) return name;
  const room = BUS_NAME_MAX - hub.length - 1;
  throw new InvalidConfigError(`The name of the worker has ${name.length - hub.length - 1} characters.`, {
    hint: `Beside the hub "${hub}" it can have ${room}.`,
  });
}
