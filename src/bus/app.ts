/** What a mounted app gets beside the request: the part of `Bun.serve`'s server that there is behind the bus. */

import { InvalidConfigError } from "../errors.ts";

/** Address of a client, as of `server.requestIP` of Bun. */
export interface ClientAddress {
  readonly address: string;
  readonly family: "IPv4" | "IPv6";
  /** 0: the hub does not pass it on. */
  readonly port: number;
}

/** Second argument of an app's `fetch`: the part of Bun's `Server` that there is behind the bus. Its other methods throw. */
export interface AppServer {
  /** Returns the address of the client; `null` without a hub, and for a request that is not the one `fetch` was called with. */
  requestIP(request: Request): ClientAddress | null;
}

const absent = (name: string, hint: string) => (): never => {
  throw new InvalidConfigError(`server.${name}() is not available to an app behind the bus.`, { hint });
};

const EVENTS = "Use server-sent events: `sse()` as a route of `HubWorker`, or a stream as the answer.";

/** One for all apps: Elysia keeps it for good. What an app calls only to tune the server does nothing. */
export class MountedServer implements AppServer {
  readonly requestIP: (request: Request) => ClientAddress | null;
  readonly timeout = (): void => {}; // the hub has its own limits, and none for event streams
  readonly reload = (): void => {}; // `fetch` of the app is looked up for each request
  readonly stop = async (): Promise<void> => {}; // Elysia calls it when the app ends; the worker ends by itself
  readonly ref = (): void => {};
  readonly unref = (): void => {};
  readonly upgrade = absent("upgrade", EVENTS);
  readonly publish = absent("publish", EVENTS);
  readonly subscriberCount = absent("subscriberCount", EVENTS);
  readonly fetch = absent("fetch", "Call `fetch` of the app, or of the bus.");

  readonly #knowsClients: boolean;

  /** Without `requestIP` no client has an address. */
  constructor(requestIP?: (request: Request) => ClientAddress | null) {
    this.#knowsClients = requestIP !== undefined;
    this.requestIP = requestIP ?? (() => null);
  }

  /** Elysia looks for the server in the app. One that listens itself keeps its own. */
  giveTo(app: object): void {
    if (!("server" in app && "getServer" in app)) return;
    const { server } = app;
    if (server === null || (server instanceof MountedServer && !server.#knowsClients)) app.server = this;
  }
}
