/** Constants and types that hub and worker share: the control socket, and paths that clients cannot request. */

/** File name of the control socket in the runtime directory. */
export function controlSocketOf(hub: string): string {
  return `${hub}.control`;
}

/** File name of the control socket of one process of a shared hub. `index`: of its member of the fleet. */
export function memberSocketOf(hub: string, index: number): string {
  return `${hub}@${index}.control`;
}

/** Whether a file of the runtime directory is the control socket of a process of this shared hub. */
export function isMemberSocket(hub: string, file: string): boolean {
  return file.startsWith(`${hub}@`) && /^\d+\.control$/.test(file.slice(hub.length + 1));
}

/** Path on the control socket where the other processes of a shared hub read this process's state. */
export const STATE_PATH = "/internal/state";

/** Path on the control socket where they read its figures. */
export const PART_PATH = "/internal/part";

/** Path of the control plane where workers register. */
export const REGISTER_PATH = "/internal/register";

/** Largest body of a request to the control plane, in bytes. */
export const CONTROL_LIMIT = 4 << 20;

/** Path of the ping that a hub sends to its workers. Clients cannot request it. */
export const PING_PATH = "/__ping__";

/** Path of the POST that tells a worker about clients of its event streams. Clients cannot request it. */
export const LIFECYCLE_PATH = "/__sse__";

/** How a worker's requests come to the control plane of its hub. */
export interface ControlChannel {
  /** What to do when the hub does not respond. */
  readonly hint: string;
  /** Sends a request; without a body a GET. `type`: the content type. Rejects if there is no response. */
  send(path: string, body: string | Uint8Array | null, type: string): Promise<Response>;
  /** Whether the request of a rejected {@link send} may have come to the hub. */
  wasSent(error: unknown): boolean;
  close(): Promise<void>;
}

/** A process that registers. */
export interface Registrant {
  /** `null` if the process did not send it. */
  readonly pid: number | null;
  /** Id of its worker among all machines; `null` on the hub's machine. */
  readonly instance: string | null;
}

/** Returns the key of a process: two machines can have the same pid. `null`: it is unknown. */
export function processOf({
  pid,
  instance,
}: {
  pid: number | null;
  instance?: string | null | undefined;
}): string | null {
  return instance ?? pid?.toString() ?? null;
}

/** A route as a worker registers it. */
export interface RouteRequest {
  readonly method: string;
  readonly path: string;
  /** Whether the route is an event stream; its method is then GET. */
  readonly sse?: boolean;
  /** Whether the route takes WebSockets; its method is then GET. */
  readonly ws?: boolean;
  /** Options `timeout`, `bodyTimeout` (in ms; `null`: no limit) and `payloadBytes` of the hub, for this route. */
  readonly timeout?: number | null;
  readonly body_timeout?: number | null;
  readonly payload_bytes?: number;
}

export interface Lifecycle {
  readonly sse_lifecycle: "connect" | "disconnect";
  readonly params: Readonly<Record<string, string>>;
}
