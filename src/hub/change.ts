/** The changes that the processes of a shared hub publish to each other, as frames of a ring. */

import type { Frame, Ring } from "../fleet/ring.ts";
import type { StreamEvent } from "./event-log.ts";
import type { Registrant, RouteRequest } from "./names.ts";

/** A change as it is published. `ticket` identifies it in the process that published it. */
export type Change =
  | { is: "sync" }
  | ({ is: "register"; id: string; name: string; again: boolean; routes: readonly RouteRequest[] } & Registrant)
  | { is: "unregister"; id: string }
  | { is: "evict"; name: string; process: string; reason: string }
  | { is: "emit"; source: string; type: string; data: string }
  | { is: "push"; path: string; event: StreamEvent }
  | { is: "push-all"; pattern: string; params: Readonly<Record<string, string>>; event: StreamEvent }
  | { is: "command"; worker: string; commands: Uint8Array }
  | { is: "delivered"; counts: readonly (readonly [event: number, clients: number])[] };

/** Kind of a frame with commands for WebSockets: the ticket, the length of the worker's name, the name, the commands. */
const COMMAND_FRAME = 1;

const NAME_AT = 9;

/** Publishes a change to the ring. @throws {PayloadTooLargeError} */
export function publishChange(ring: Ring, change: Change, ticket: number): void {
  if (change.is !== "command") return void ring.publish(Buffer.from(JSON.stringify({ ...change, ticket })));
  const name = Buffer.from(change.worker);
  const head = Buffer.alloc(NAME_AT);
  head.writeDoubleLE(ticket);
  head[NAME_AT - 1] = name.length;
  ring.publish(Buffer.concat([head, name, change.commands]), { kind: COMMAND_FRAME });
}

/** Reads a change from a frame of the ring. */
export function changeOf(frame: Frame): Change & { ticket: number } {
  if (frame.kind !== COMMAND_FRAME) return frame.json<Change & { ticket: number }>();
  const bytes = Buffer.from(frame.body.buffer);
  const end = NAME_AT + bytes[NAME_AT - 1]!;
  const commands = bytes.subarray(end);
  return { is: "command", worker: bytes.toString("utf8", NAME_AT, end), commands, ticket: bytes.readDoubleLE() };
}
