/** Options of a hub: their defaults, their ranges, and the one error each wrong value gets. */

import { checkInteger, checkTimeout, checkToken, shown } from "../check.ts";
import { InvalidConfigError } from "../errors.ts";
import { checkName, resolveDirectory } from "../runtime-directory.ts";

export interface HubOptions {
  /** 1-24 of `A-Z a-z 0-9 _ -`, starting with a letter or digit. Default `"hub"`. One live hub has it. */
  name?: string;
  /** Listens there; 0: any that is free. Default: listens nowhere, and `hub.fetch` is for a server of one's own. */
  port?: number;
  /** Default `"127.0.0.1"`: this machine only. */
  hostname?: string;
  /** Runtime directory. Default `$SLOTBUS_DIR`, else `/dev/shm/slotbus-<euid>`. */
  directory?: string;
  /** From the request to the head of its answer, in ms: 504 after that. Default 30 000. */
  timeout?: number;
  /** Between two pieces of a request's body, in ms: 408 after that. Default 30 000. */
  bodyTimeout?: number;
  /** Largest body of a request, in bytes: 413 above it. Default 10 MiB. */
  payloadLimit?: number;
  /** Requests that can be with one worker process at once. 1-256, default 32. */
  slots?: number;
  /** Requests that wait for a worker of one name: 503 above it. Default 1024. */
  queue?: number;
  /** Longest spin before sleeping, in µs. Default 50, or 0 on one processor. */
  spin?: number;
  /** How long routes of a worker that is gone answer 503, in ms; then they are 404. Default 30 000. */
  goneFor?: number;
  /** Believe `x-forwarded-*` of clients and add to it. Default `false`: it is replaced. */
  trustProxy?: boolean;
  /** How a hung worker is found: pings, in ms. `false`: not at all. */
  ping?: false | { interval?: number; timeout?: number; misses?: number };
  /** Server-sent events. */
  sse?: SseOptions;
  /** Opens `/_slotbus/` to others than this machine: `authorization: Bearer <token>`, 16 characters at least. */
  adminToken?: string;
  /**
   * The control plane on a port too, for whoever cannot open the hub's socket: events, health; a worker's requests travel
   * through memory, so it runs on this machine anyhow. 0: any that is free. Default: none. Needs `controlToken`.
   */
  controlPort?: number;
  /** What is asked for there: `authorization: Bearer <token>`, 16 characters at least. */
  controlToken?: string;
  /** Where that port is. Default `"127.0.0.1"`: this machine only. */
  controlHostname?: string;
}

export interface SseOptions {
  /** Between two comments that keep a quiet stream alive, in ms. Default 15 000, at most 240 000. */
  heartbeat?: number;
  /** Bytes that wait for one client; what comes beyond is lost to it, and it is told. Default 1 MiB. */
  clientBytes?: number;
  /** Events of one stream kept for clients that come back, and bytes of them. Default 1000, 1 MiB. */
  replay?: number;
  replayBytes?: number;
  /** Paths of routes for which events are kept. Default 10 000. */
  paths?: number;
}

type Other = "port" | "spin" | "ping" | "sse" | "adminToken" | `control${string}`;

/** Options of a hub with the defaults filled in. */
export interface ResolvedHubOptions extends Readonly<Required<Omit<HubOptions, Other>>> {
  readonly port: number | null;
  readonly spin: number | undefined;
  readonly ping: { readonly interval: number; readonly timeout: number; readonly misses: number } | null;
  readonly sse: Readonly<Required<SseOptions>>;
  readonly adminToken: string | null;
  readonly control: { readonly port: number; readonly hostname: string; readonly token: string } | null;
}

const NAME = /^[A-Za-z0-9][A-Za-z0-9_-]{0,23}$/;
/** Of the name of a worker's bus: the hub's, a dot, the worker's. No hub has a dot, so no two pairs make one name. */
const BUS_NAME_MAX = 64;

export function resolveHubOptions(options: HubOptions = {}): ResolvedHubOptions {
  const { name = "hub", port, hostname = "127.0.0.1", ping = {} } = options;
  return {
    name: checkHubName(name),
    port: port === undefined ? null : checkInteger("port", port, 0, 65_535),
    hostname: checkHostname("hostname", hostname),
    directory: resolveDirectory(options.directory),
    timeout: checkTimeout("timeout", options.timeout ?? 30_000),
    bodyTimeout: checkTimeout("bodyTimeout", options.bodyTimeout ?? 30_000),
    payloadLimit: checkInteger("payloadLimit", options.payloadLimit ?? 10 << 20, 1, 2 ** 30, " bytes"),
    slots: checkInteger("slots", options.slots ?? 32, 1, 256),
    queue: checkInteger("queue", options.queue ?? 1_024, 0, 1_000_000),
    spin: options.spin === undefined ? undefined : checkInteger("spin", options.spin, 0, 10_000, " µs"),
    goneFor: checkInteger("goneFor", options.goneFor ?? 30_000, 0, 86_400_000, " ms"),
    trustProxy: options.trustProxy ?? false,
    ping: ping === false ? null : resolvePing(ping),
    sse: resolveSse(options.sse ?? {}),
    adminToken: options.adminToken === undefined ? null : checkToken("adminToken", options.adminToken),
    control: resolveControl(options),
  };
}

/** @throws {InvalidConfigError} */
export function checkHubName(name: unknown): string {
  if (typeof name === "string" && NAME.test(name)) return name;
  throw new InvalidConfigError(`${shown(name)} is no name of a hub.`, {
    hint: "Use 1 to 24 of A-Z a-z 0-9 _ - and start with a letter or digit.",
  });
}

function resolveControl({
  controlPort: port,
  controlToken: token,
  controlHostname: hostname = "127.0.0.1",
}: HubOptions): ResolvedHubOptions["control"] {
  if (port === undefined && token === undefined) return null;
  if (port === undefined || token === undefined)
    throw new InvalidConfigError("controlPort and controlToken go together.", {
      hint: "Give both, or neither: then workers reach the hub by its socket alone.",
    });
  return {
    port: checkInteger("controlPort", port, 0, 65_535),
    hostname: checkHostname("controlHostname", hostname),
    token: checkToken("controlToken", token),
  };
}

function checkHostname(option: string, hostname: unknown): string {
  if (typeof hostname === "string" && /^[\w.:[\]-]+$/.test(hostname)) return hostname;
  throw new InvalidConfigError(`${option} is ${shown(hostname)}; it must be a name or an address.`);
}

function resolveSse(sse: SseOptions): Required<SseOptions> {
  return {
    heartbeat: checkInteger("sse.heartbeat", sse.heartbeat ?? 15_000, 10, 240_000, " ms"),
    clientBytes: checkInteger("sse.clientBytes", sse.clientBytes ?? 1 << 20, 1_024, 2 ** 30, " bytes"),
    replay: checkInteger("sse.replay", sse.replay ?? 1_000, 0, 1_000_000),
    replayBytes: checkInteger("sse.replayBytes", sse.replayBytes ?? 1 << 20, 0, 2 ** 30, " bytes"),
    paths: checkInteger("sse.paths", sse.paths ?? 10_000, 1, 10_000_000),
  };
}

function resolvePing({
  interval = 10_000,
  timeout = 2_000,
  misses = 3,
}: Exclude<HubOptions["ping"], false | undefined>) {
  return {
    interval: checkInteger("ping.interval", interval, 10, 86_400_000, " ms"),
    timeout: checkInteger("ping.timeout", timeout, 1, 86_400_000, " ms"),
    misses: checkInteger("ping.misses", misses, 1, 1_000),
  };
}

/** The bus of a worker's name. @throws {InvalidNameError}, {@link InvalidConfigError} */
export function busNameOf(hub: string, worker: unknown): string {
  const name = `${hub}.${checkName(worker)}`;
  if (name.length <= BUS_NAME_MAX) return name;
  throw new InvalidConfigError(`the worker's name has ${name.length - hub.length - 1} characters.`, {
    hint: `Beside the hub "${hub}" it can have ${BUS_NAME_MAX - hub.length - 1}.`,
  });
}
