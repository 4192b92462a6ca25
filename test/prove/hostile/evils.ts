/** Attacks of a hostile client on the streams of its worker. */

export const EVIL = ["back", "beyond", "taken", "bad-end", "bad-error", "flips", "free"] as const;
export type Evil = (typeof EVIL)[number];
/** Attacks that change nothing in use: the worker stays attached. */
export const LEGAL: readonly Evil[] = ["free"];
