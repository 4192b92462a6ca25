/** Starts the HTTP server of a hub. */

import type { Server, WebSocketHandler } from "bun";
import { SlotbusError } from "../errors.ts";
import type { ResolvedHubOptions } from "./options.ts";

/** Longest idle time of a connection, in s: the maximum of Bun. */
export const IDLE_S = 255;

/** @throws `RESOURCE` when the port is taken. */
export function listen(
  { hostname, shared }: ResolvedHubOptions,
  port: number,
  fetch: (request: Request, server: Server<unknown>) => Response | Promise<Response>,
  websocket: WebSocketHandler<unknown>,
): Server<unknown> {
  try {
    return Bun.serve({
      port,
      hostname,
      reusePort: shared,
      idleTimeout: IDLE_S, // the hub's own time limits are shorter
      maxRequestBodySize: Number.MAX_SAFE_INTEGER, // the hub enforces payloadBytes: Bun's own 413 has no body
      fetch,
      websocket,
    }) as Server<unknown>;
  } catch (cause) {
    throw new SlotbusError("RESOURCE", `Cannot listen on ${hostname}:${port}: another process may use it.`, {
      cause,
    });
  }
}
