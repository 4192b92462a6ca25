/** How a worker hears of the clients of its event streams: a POST on the route's pattern. */

/** Path of that POST: none that a client can ask for. */
export const LIFECYCLE_PATH = "/__sse__";

export interface Lifecycle {
  readonly sse_lifecycle: "connect" | "disconnect";
  readonly params: Readonly<Record<string, string>>;
}
