/** The option `via`: which wire carries the requests of a bus. */

/** Name of a wire. */
export type WireKind = "memory" | "socket" | "nats";

/** A wire, as {@link memory}, {@link socket} and `nats` of `slotbus/nats` return it. */
export interface Via {
  readonly wire: WireKind;
}

/** A wire to other machines, as `nats` returns it. */
export interface RemoteVia extends Via {
  readonly wire: "nats";
}

/** Shared memory: needs Bun on Linux and the C library. Opening fails where one of them is missing. */
export function memory(): Via {
  return { wire: "memory" };
}

/** A unix socket: slower, but works wherever Bun or Node does, and needs no library. */
export function socket(): Via {
  return { wire: "socket" };
}

/** Whether a value comes from {@link memory}, {@link socket} or `nats`. */
export function isVia(value: unknown): value is Via {
  const wire = typeof value === "object" && value !== null && "wire" in value ? value.wire : undefined;
  return wire === "memory" || wire === "socket" || (wire === "nats" && "link" in (value as object));
}
