/** What hub and worker agree on: names, paths that no client can ask for, and what is said there. */

/** File of the control socket in the runtime directory. */
export function controlSocketOf(hub: string): string {
  return `${hub}.control`;
}

/** Largest body of a request to the control plane, in bytes. */
export const CONTROL_LIMIT = 4 << 20;

/** What a hub asks a worker for, to see whether it answers. No client can. */
export const PING_PATH = "/__ping__";

/** Path of the POST on a route's pattern by which a worker hears of the clients of its event streams. No client can. */
export const LIFECYCLE_PATH = "/__sse__";

/** A route as a worker asks for it. */
export interface RouteRequest {
  readonly method: string;
  readonly path: string;
  /** Server-sent events that the hub serves; the method is GET. */
  readonly sse?: boolean;
}

export interface Lifecycle {
  readonly sse_lifecycle: "connect" | "disconnect";
  readonly params: Readonly<Record<string, string>>;
}
