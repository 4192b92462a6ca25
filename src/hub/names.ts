/** Names that hub and worker derive from the hub's. */

/** File of the control socket in the runtime directory. */
export function controlSocketOf(hub: string): string {
  return `${hub}.control`;
}

/** Largest body of a request to the control plane, in bytes. */
export const CONTROL_LIMIT = 4 << 20;

/** What a hub asks a worker for, to see whether it answers. No client can. */
export const PING_PATH = "/__ping__";
