/** Apps (Hono, Elysia) mounted in a hub worker: they get requests as the client sent them, and the client's address. */

import { type ClientAddress, MountedServer, type UpgradeOptions } from "../bus/app.ts";
import { toWebRequest } from "../bus/fetch.ts";
import type { HeaderList } from "../bus/headers.ts";
import type { FetchHandler, Handler, WorkerRequest } from "../bus/request.ts";
import { addressIn, firstOf } from "./forwarded.ts";

/** Headers that the hub added to the requests of apps. */
const words = new WeakMap<Request, HeaderList>();

/** Handshakes of WebSockets, and how the app has accepted each. */
const handshakes = new WeakMap<Request, { accepted: Accepted | null }>();

/** A handshake that an app has accepted. */
interface Accepted {
  readonly data: unknown;
  readonly headers: Headers;
}

const server = new MountedServer(
  (request) => {
    const headers = words.get(request);
    return headers ? clientOf(headers) : null;
  },
  (request, { data, headers }: UpgradeOptions) => {
    const handshake = handshakes.get(request);
    if (handshake) handshake.accepted = { data, headers: new Headers(headers) };
    return handshake !== undefined;
  },
);

/** Calls the app with the handshake of a WebSocket. `accepted`: the app has called `server.upgrade`. */
export async function fetchUpgrade(app: FetchHandler, request: WorkerRequest, cut: number) {
  const handshake: { accepted: Accepted | null } = { accepted: null };
  const response = await call(app, request, cut, (web) => handshakes.set(web, handshake));
  return { response: response as Response | undefined, accepted: handshake.accepted };
}

/** Returns a handler that calls the app; the app sees paths without their first `cut` characters. */
export function appHandler(app: FetchHandler, cut: number): Handler {
  server.giveTo(app);
  return (request) => call(app, request, cut);
}

async function call(app: FetchHandler, request: WorkerRequest, cut: number, note?: (web: Request) => void) {
  const { headers } = request;
  const web = toWebRequest(request, request.path.slice(cut) || "/", originOf(headers));
  words.set(web, headers);
  note?.(web);
  return app.fetch(web, server);
}

/** Scheme and host that the client used, from the headers of the hub. A chain of proxies writes several; the first counts. */
function originOf(headers: HeaderList): string {
  const isSecure = firstOf(headers.get("x-forwarded-proto") ?? "").toLowerCase() === "https";
  const host = firstOf(headers.get("x-forwarded-host") ?? headers.get("host") ?? "slotbus");
  return `${isSecure ? "https" : "http"}://${host}`;
}

/**
 * Address of the client. Without a proxy, `x-forwarded-for` has one address. With `trustProxy`, the last address is the proxy and
 * the address before it is the client as the proxy saw it; the client may have forged all others.
 */
function clientOf(headers: HeaderList): ClientAddress | null {
  const route = headers.get("x-forwarded-for")?.split(",") ?? [];
  const client = addressIn(route.at(-2) ?? route.at(-1) ?? "");
  return client && { ...client, port: 0 };
}
