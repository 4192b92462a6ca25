/** What the connections of a bus have in common. */

import type { HeadReader, HeadWriter } from "../../bus/codec.ts";
import type { Exchange } from "../../bus/exchange.ts";
import type { Connection, Departure } from "../../bus/wire.ts";
import type { Clock } from "../../clock.ts";
import type { ClientHandle } from "../../native/client.ts";

/** What all connections of a bus share. */
export interface Company<Member extends Connection = Connection> {
  readonly client: ClientHandle;
  readonly clock: Clock;
  readonly headLimit: number;
  readonly payloadLimit: number;
  readonly heads: HeadWriter;
  readonly answers: HeadReader;
  /** Exchanges that a report is due for. */
  awaited: number;
  /** Called with the timing of each answer, when the bus is timed. */
  readonly timed: ((exchange: Exchange, pid: number, claimUs: number, roundTripUs: number) => void) | null;
  /** Handles what all slots have, and those whose time is over. */
  expire(): void;
  /** Bytes went to a worker, or came from one; it was rung. */
  moved(bytes: number, rang: boolean): void;
  /** A worker broke the protocol: end it when the events that came together are handled. */
  condemn(connection: Member): void;
  /** A place is free outside of the handling of events. */
  room(): void;
  /** Its last word: see `WireEvents.left`. */
  left(connection: Member, departure: Departure, how: string, had: Exchange[]): void;
  /** Its region is gone. */
  dropped(connection: Member, isUnmapped: boolean): void;
}
