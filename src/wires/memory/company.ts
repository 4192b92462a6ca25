/** What the connections of a bus ask of their wire, so that they do not import it. */

import type { HeadReader, HeadWriter } from "../../bus/codec.ts";
import type { Exchange } from "../../bus/exchange.ts";
import type { Connection, Departure } from "../../bus/wire.ts";
import type { Clock } from "../../clock.ts";
import type { ClientHandle } from "../../native/client.ts";

/** The wire of a bus, as its connections see it. */
export interface Company<Member extends Connection = Connection> {
  readonly client: ClientHandle;
  readonly clock: Clock;
  readonly headLimit: number;
  readonly payloadLimit: number;
  readonly heads: HeadWriter;
  readonly answers: HeadReader;
  /** Number of exchanges that a report is due for. */
  awaited: number;
  /** Handles all answers, then the slots whose time is over. */
  expire(): void;
  /** Bytes went to a worker or came from it. `rang`: the worker slept and was woken. */
  moved(bytes: number, rang: boolean): void;
  /** A worker broke the protocol: ends its connection, after the batch of events that is being handled. */
  condemn(connection: Member): void;
  /** A slot was freed by user code, not by an event. */
  room(): void;
  /** A connection has ended: see `WireEvents.left`. */
  left(connection: Member, departure: Departure, how: string, had: Exchange[]): void;
  /** The region of a connection was freed. `isUnmapped`: its addresses too. */
  dropped(isUnmapped: boolean): void;
}
