/** The client's view of one slot of a connection by frames. */

import type { Exchange } from "../../bus/exchange.ts";
import type { SlotReport } from "../../bus/wire.ts";
import type { StateName } from "../../native/statistics.ts";
import type { Rest } from "./rest.ts";
import type { Parts } from "./collector.ts";
import type { FrameIncoming, FrameOutgoing } from "./streams.ts";
import type { FrameWriter } from "./writer.ts";

/** One slot. `quarantine`: the caller has given up, and the worker has not said that the exchange is over. */
export class Place {
  state: "free" | "flight" | "quarantine" = "free";
  /** Name of the exchange in frames. */
  id = 0;
  exchange: Exchange | null = null;
  /** `clock.now()` at which the request was sent, and at which its timeout is over. */
  since = 0;
  deadline = Infinity;
  /** Where the first frame is, to take it back: see `FrameWriter.recall`. */
  batch = 0;
  at = 0;
  /** Rest of a request that does not stream. */
  rest: Rest | null = null;
  /** Whether the request body streams. */
  streams = false;
  outgoing: FrameOutgoing | null = null;
  /** A response that has arrived in part, and its status and the size of its head. */
  response: Parts | null = null;
  status = 0;
  headBytes = 0;
  /** Whether the collected response is the head of a stream. */
  isHead = false;
  incoming: FrameIncoming | null = null;
  /** Bytes of a whole response that nobody waits for and that have not arrived; -1: unknown. */
  left = -1;
  /** Whether the worker has said that it never began the request. */
  isRefused = false;

  /** Whether no handler can have seen the request: its first frame, or a part of its body, was not sent. */
  isUnseen(writer: FrameWriter): boolean {
    return this.isRefused || !writer.hasSent(this.batch) || (this.rest !== null && !this.rest.isSent);
  }

  /** Whether the worker has begun to answer. */
  get isAnswered(): boolean {
    return this.response !== null || this.incoming !== null || this.outgoing !== null;
  }

  /** Sends no more of a request body. Returns whether a part of it was missing. */
  dropRest(writer: FrameWriter): boolean {
    const { rest } = this;
    this.rest = null;
    if (!rest || rest.isSent) return false;
    writer.remove(rest);
    return true;
  }
}

/** The slots of a connection. */
export class Places {
  readonly all: readonly Place[];
  readonly #free: number[];
  #serial = 0;

  constructor(count: number) {
    this.all = Array.from({ length: count }, () => new Place());
    this.#free = this.all.map((_, slot) => slot).reverse();
  }

  /** Takes a free slot for an exchange. At least one slot must be free. `timeoutMs`: `Infinity` for no timeout. */
  take(exchange: Exchange, now: number, timeoutMs: number, streams: boolean): Place {
    const slot = this.#free.pop()!;
    const place = this.all[slot]!;
    place.state = "flight";
    place.id = ((++this.#serial << 8) | slot) >>> 0;
    place.exchange = exchange;
    place.since = now;
    place.deadline = timeoutMs === Infinity ? Infinity : now + timeoutMs;
    place.streams = streams;
    place.left = -1;
    place.isRefused = false;
    exchange.place = slot;
    return place;
  }

  /** Returns the slot of an open exchange; `null` for any other id. */
  find(id: number): Place | null {
    const place = this.all[id & 0xff];
    return place && place.id === id && place.state !== "free" ? place : null;
  }

  /** Describes each slot in the words of shared memory. CLAIMED: the worker may run the request. */
  reports(now: number, writer: FrameWriter): SlotReport[] {
    return this.all.map((place) => {
      const { state, since, exchange } = place;
      const [name, ageMs] = state === "free" ? ["FREE", 0] : [stateOf(place, writer), now - since];
      return { state: name as StateName, ageMs: ageMs as number, exchange };
    });
  }

  free(place: Place): void {
    place.state = "free";
    place.outgoing = null;
    place.incoming = null;
    place.response = null;
    place.isHead = false;
    this.#free.push(place.id & 0xff);
  }
}

function stateOf(place: Place, writer: FrameWriter): StateName {
  if (place.state === "quarantine") return "ABANDONED";
  if (place.incoming) return "STREAMING";
  if (place.streams && place.outgoing === null) return "READY"; // credit comes when the handler starts
  return place.isUnseen(writer) ? "READY" : "CLAIMED";
}
