/** What a bus and a worker need of a wire. */

import type { ResolvedBusOptions } from "../bus/options.ts";
import type { ResolvedWorkerOptions } from "../bus/worker-options.ts";
import type { WireKind } from "../bus/via.ts";
import type { Arrivals, Wire, WireEvents, WorkerWire } from "../bus/wire.ts";
import type { Clock } from "../clock.ts";

/** A name that this process holds, so that no other process opens a bus with it. */
export interface HeldName {
  /** Number of a client that shares the name; `null` for the owner. */
  readonly client: number | null;
  /** Removes the files of the name that no other client uses, and releases the name. Call once. */
  release(): void;
}

/** A name with the place at which its client listens. */
export interface BusName extends HeldName {
  /**
   * Path at which to listen before {@link expose}; does not depend on the working directory. `expose` renames the socket, so a
   * listener that unlinks this path when it stops removes nothing.
   */
  readonly socketPath: string;
  /** Lets workers connect to the socket; with `shared`, workers of other users too. @throws `RESOURCE` */
  expose(shared: boolean): void;
  /** Tells the workers of a shared name that this client listens. Call after {@link expose}. */
  knock(): void;
}

/** What the wire of a client is made of. */
export interface ClientParts<Name extends HeldName = HeldName> {
  readonly bus: ResolvedBusOptions;
  readonly name: Name;
  /** Random number, different each time the bus starts. */
  readonly tag: number;
  readonly clock: Clock;
  /** Time after which a worker with requests and a blocked event loop is reported as `stalled`, in ms. */
  readonly stalledAfter: number;
}

/** One wire, for both sides. */
export interface WireModule<Name extends HeldName = HeldName> {
  readonly kind: WireKind;
  /**
   * Takes the name of the bus: alone ("own"), or as one of up to 64 clients ("share").
   *
   * @throws (rejects) {BusExistsError} when live processes hold the name; `PERMISSION_DENIED`, `RESOURCE`.
   */
  takeName(how: "own" | "share", options: ResolvedBusOptions): Promise<Name>;
  /** Listens for workers. @throws `RESOURCE` */
  client(parts: ClientParts<Name>, events: WireEvents): Wire;
  worker(options: ResolvedWorkerOptions, clock: Clock, arrivals: Arrivals): WorkerWire;
}
