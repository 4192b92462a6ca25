/** What a hostile client does to the streams of its worker. */

export const EVIL = ["back", "beyond", "taken", "bad-end", "bad-error", "flips", "free"] as const;
export type Evil = (typeof EVIL)[number];
/** Touches nothing that is in use: the worker stays. */
export const LEGAL: readonly Evil[] = ["free"];
