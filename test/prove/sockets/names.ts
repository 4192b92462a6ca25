/** Shared by the programs of the proof of WebSockets: names, and the messages to and from its processes. */

import type { Common } from "../actor.ts";

export const HUB = "proof";
export const WORKER = "chat";
export const TOPIC = "all";
/** Publications of one life of a publisher. A life ends when it is not known whether a publication has arrived. */
export const LIFE = 1_000_000;

/** Orders to a process. `publish`: this worker publishes from now on. */
export type Order = "go" | "end" | "publish";

/** `lost`: the hub has reported a lost message of the connection. */
export type HubReport = Common | { is: "open"; port: number } | { is: "lost"; connection: string };
/** `overlap`: the process handled a message of the client when the next one began. It may have been killed. */
export type WorkerReport = Common | { is: "open" } | { is: "overlap"; pid: number; client: number };
