/** The second argument of a mounted app's `fetch`: the part of Bun's `Server` that works behind the bus. */

import { InvalidConfigError } from "../errors.ts";

/** Address of an HTTP client, as returned by Bun's `server.requestIP`. */
export interface ClientAddress {
  readonly address: string;
  readonly family: "IPv4" | "IPv6";
  /** Always 0: the hub does not forward the port. */
  readonly port: number;
}

/** Options of `upgrade`: the data of the connection, and headers of the response. */
export interface UpgradeOptions {
  readonly data?: unknown;
  readonly headers?: ConstructorParameters<typeof Headers>[0];
}

/** Second argument of an app's `fetch`: the part of Bun's `Server` that works behind the bus. The other methods throw. */
export interface AppServer {
  /** Returns the address of the HTTP client; `null` without a hub, and for a request other than the one passed to `fetch`. */
  requestIP(request: Request): ClientAddress | null;
}

const absent = (name: string, hint: string) => (): never => {
  throw new InvalidConfigError(`server.${name}() is not available to an app behind the bus.`, { hint });
};

const EVENTS =
  "Mount the app in a `HubWorker` with its handlers, { fetch: app.fetch, websocket }, or use server-sent events or `ws()`.";

/** Shared by all apps, because Elysia never releases it. Methods that only tune a server do nothing. */
export class MountedServer implements AppServer {
  readonly requestIP: (request: Request) => ClientAddress | null;
  readonly timeout = (): void => {}; // the hub has its own time limits
  readonly reload = (): void => {}; // the app's `fetch` is looked up for each request
  readonly stop = async (): Promise<void> => {}; // Elysia calls it when the app ends; the worker ends by itself
  readonly ref = (): void => {};
  readonly unref = (): void => {};
  readonly upgrade: (request: Request, options?: UpgradeOptions) => boolean;
  readonly publish = absent("publish", EVENTS);
  readonly subscriberCount = absent("subscriberCount", EVENTS);
  readonly fetch = absent("fetch", "Call the `fetch` of the app or of the bus.");

  readonly #knowsClients: boolean;

  /**
   * Without `requestIP`, the method returns `null` for each request. `upgrade` returns whether the request is the handshake of a
   * WebSocket; without it, and for other requests, the method throws.
   */
  constructor(
    requestIP?: (request: Request) => ClientAddress | null,
    upgrade?: (request: Request, options: UpgradeOptions) => boolean,
  ) {
    this.upgrade = (request, options = {}) => upgrade?.(request, options) || absent("upgrade", EVENTS)();
    this.#knowsClients = requestIP !== undefined;
    this.requestIP = requestIP ?? (() => null);
  }

  /** Sets `app.server`, where Elysia looks for the server. An app that listens itself keeps its own server. */
  giveTo(app: object): void {
    if (!("server" in app && "getServer" in app)) return;
    const { server } = app;
    if (server === null || (server instanceof MountedServer && !server.#knowsClients)) app.server = this;
  }
}
