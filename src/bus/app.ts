/** The second argument of a mounted app's `fetch`: the part of Bun's `Server` that works behind the bus. */

import { InvalidConfigError } from "../errors.ts";

/** Address of an HTTP client, as returned by Bun's `server.requestIP`. */
export interface ClientAddress {
  readonly address: string;
  readonly family: "IPv4" | "IPv6";
  /** Always 0: the hub does not forward the port. */
  readonly port: number;
}

/** Second argument of an app's `fetch`: the part of Bun's `Server` that works behind the bus. The other methods throw. */
export interface AppServer {
  /** Returns the address of the HTTP client; `null` without a hub, and for a request other than the one passed to `fetch`. */
  requestIP(request: Request): ClientAddress | null;
}

const absent = (name: string, hint: string) => (): never => {
  throw new InvalidConfigError(`server.${name}() is not available to an app behind the bus.`, { hint });
};

const EVENTS = "Use server-sent events: `sse()` as a route of `HubWorker`, or a response whose body streams.";

/** Shared by all apps, because Elysia never releases it. Methods that only tune a server do nothing. */
export class MountedServer implements AppServer {
  readonly requestIP: (request: Request) => ClientAddress | null;
  readonly timeout = (): void => {}; // the hub has its own time limits
  readonly reload = (): void => {}; // the app's `fetch` is looked up for each request
  readonly stop = async (): Promise<void> => {}; // Elysia calls it when the app ends; the worker ends by itself
  readonly ref = (): void => {};
  readonly unref = (): void => {};
  readonly upgrade = absent("upgrade", EVENTS);
  readonly publish = absent("publish", EVENTS);
  readonly subscriberCount = absent("subscriberCount", EVENTS);
  readonly fetch = absent("fetch", "Call the `fetch` of the app or of the bus.");

  readonly #knowsClients: boolean;

  /** Without `requestIP`, the method returns `null` for each request. */
  constructor(requestIP?: (request: Request) => ClientAddress | null) {
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
