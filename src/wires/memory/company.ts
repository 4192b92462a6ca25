/** The interface of a wire to its connections, so that these do not import the wire. */

import type { HeadWriter } from "../../bus/codec.ts";
import type { HeadReader } from "../../bus/head.ts";
import type { Exchange } from "../../bus/exchange.ts";
import type { Connection, Departure } from "../../bus/wire.ts";
import type { Clock } from "../../clock.ts";
import type { ClientHandle } from "../../native/client.ts";

/** The part of a wire that its connections use. */
export interface Company<Member extends Connection = Connection> {
  readonly client: ClientHandle;
  readonly clock: Clock;
  readonly headLimit: number;
  readonly payloadLimit: number;
  readonly heads: HeadWriter;
  readonly answers: HeadReader;
  /** Number of exchanges that wait for a report. */
  awaited: number;
  /** Handles all responses, then the slots whose timeout is over. */
  expire(): void;
  /** Called when bytes moved to or from a worker. `rang`: the worker was asleep and was woken. */
  moved(bytes: number, rang: boolean): void;
  /** Ends the connection of an evicted worker, after the current batch of events. */
  condemn(connection: Member): void;
  /** Called when user code, not an event, freed a slot. */
  room(): void;
  /** Called when a connection has ended: see `WireEvents.left`. */
  left(connection: Member, departure: Departure, how: string, had: Exchange[]): void;
  /** Called when the region of a connection was freed. `isUnmapped`: its address space was freed too. */
  dropped(isUnmapped: boolean): void;
}
