/** An app mounted in a hub's worker: its requests as the client sent them, and the client's address. */

import { type ClientAddress, MountedServer } from "../bus/app.ts";
import { toWebRequest } from "../bus/fetch.ts";
import type { HeaderList } from "../bus/headers.ts";
import type { FetchHandler, Handler } from "../bus/request.ts";
import { addressIn, firstOf } from "./forwarded.ts";

/** The hub's word on the requests that apps have. */
const words = new WeakMap<Request, HeaderList>();

const server = new MountedServer((request) => {
  const headers = words.get(request);
  return headers ? clientOf(headers) : null;
});

/** An app that sees its paths without their first `cut` characters. */
export function appHandler(app: FetchHandler, cut: number): Handler {
  server.giveTo(app);
  return async (request) => {
    const { headers } = request;
    const web = toWebRequest(request, request.path.slice(cut) || "/", originOf(headers));
    words.set(web, headers);
    return app.fetch(web, server);
  };
}

/** Scheme and host that the client used, as the hub says; of several, which a chain of proxies writes, the first. */
function originOf(headers: HeaderList): string {
  const isSecure = firstOf(headers.get("x-forwarded-proto") ?? "").toLowerCase() === "https";
  const host = firstOf(headers.get("x-forwarded-host") ?? headers.get("host") ?? "slotbus");
  return `${isSecure ? "https" : "http"}://${host}`;
}

/**
 * A hub behind no proxy passes on one address. With `trustProxy` the last one is that of the proxy, which wrote the one before;
 * a client may have written those further left.
 */
function clientOf(headers: HeaderList): ClientAddress | null {
  const route = headers.get("x-forwarded-for")?.split(",") ?? [];
  const client = addressIn(route.at(-2) ?? route.at(-1) ?? "");
  return client && { ...client, port: 0 };
}
