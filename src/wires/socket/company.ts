/** The interface of a wire to its socket connections, so that these do not import the wire. */

import type { Arena, HeadWriter } from "../../bus/codec.ts";
import type { Exchange } from "../../bus/exchange.ts";
import type { HeadReader } from "../../bus/head.ts";
import type { WireKind } from "../../bus/via.ts";
import type { Connection, Departure } from "../../bus/wire.ts";
import type { Clock } from "../../clock.ts";
import type { CounterName } from "../../native/statistics.ts";

/** The process of a worker. */
export interface PeerProcess {
  readonly pid: number;
  readonly uid: number;
  /** Id of the worker among all machines; only on a wire between machines. */
  readonly instance?: string | undefined;
  /** Whether the process has certainly ended. */
  readonly hasEnded: boolean;
  /** Frees what {@link hasEnded} needs. */
  forget(): void;
}

/** The part of a wire that its socket connections use. */
export interface SocketCompany {
  readonly wire: WireKind;
  readonly clock: Clock;
  readonly headLimit: number;
  readonly payloadLimit: number;
  /** Time after which a worker that answers no ping is reported as `stalled`, in ms. */
  readonly stalledAfter: number;
  readonly heads: HeadWriter;
  readonly answers: HeadReader;
  /** Memory in which a request is encoded, and into which the head of a response is copied. */
  readonly outgoing: Arena;
  readonly incoming: Arena;
  count(counter: CounterName): void;
  /** Records the time from a request to its response, in ms. */
  roundTrip(ms: number): void;
  /** A connection may have room for more requests. */
  room(): void;
  /** Called when a connection has ended: see `WireEvents.left`. */
  left(connection: Connection, departure: Departure, how: string, had: Exchange[]): void;
}
