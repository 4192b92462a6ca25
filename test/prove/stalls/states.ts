/** States in which a process can be stopped, and faults. */

export const STATES = [
  "idle",
  "parked",
  "ready",
  "claimed",
  "done",
  "abandoned",
  "lent",
  "attaching",
  "closing",
  "sync handler",
  "sync wait",
] as const;
export type State = (typeof STATES)[number];

export const FAULTS = ["stop worker", "stop client", "evict, continue"] as const;
export type Fault = (typeof FAULTS)[number];

/** A client has no handler. A worker is evicted for what its handlers do not end, so it has some; its answers are taken at once. */
export const IMPOSSIBLE: ReadonlySet<`${State} ${Fault}`> = new Set<`${State} ${Fault}`>([
  "sync handler stop client",
  "idle evict, continue",
  "parked evict, continue",
  "ready evict, continue", // an unclaimed request has moved long before
  "done evict, continue",
  "attaching evict, continue",
  "sync wait evict, continue",
]);
