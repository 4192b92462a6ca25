/** The name of a bus, as the listener of the socket wire uses it. */

import type { HeldName } from "../module.ts";

/** A held name with its socket. */
export interface SocketName extends HeldName {
  /** Path at which to listen before {@link expose}, which renames the socket. */
  readonly socketPath: string;
  /** Lets workers connect to the socket; with `shared`, workers of other users too. @throws `RESOURCE` */
  expose(shared: boolean): void;
  /** Tells the workers of a shared name that this client listens. Call after {@link expose}. */
  knock(): void;
}
