/** The worker's view of one slot of a connection by frames. */

import type { Claim } from "../../bus/claim.ts";
import type { Head } from "../../bus/head.ts";
import type { Rest } from "./rest.ts";
import type { Parts } from "./collector.ts";
import type { FrameIncoming, FrameOutgoing } from "./streams.ts";

const NONE = new Uint8Array(0);

/** One exchange. `arriving`: its head or body is not complete. */
export class Entry {
  state: "free" | "arriving" | "waiting" | "taken" = "free";
  id = 0;
  method = 0;
  serial = 0;
  timeoutMs = 0;
  headBytes = 0;
  streams = false;
  head: Head | null = null;
  body: Uint8Array = NONE;
  request: Parts | null = null;
  claim: Claim | null = null;
  isCancelled = false;
  incoming: FrameIncoming | null = null;
  outgoing: FrameOutgoing | null = null;
  rest: Rest | null = null;
}
