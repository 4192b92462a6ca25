/** Pauses between attempts: longer each time, and not the same for all, so that many processes do not try at once. */

/** How pauses grow. */
export interface Backoff {
  /** First pause, in ms. */
  readonly initial: number;
  /** Longest pause, in ms. */
  readonly max: number;
  /** What each pause is multiplied by for the next one. Default 2. */
  readonly factor?: number;
  /** Part of a pause that chance may take away, 0 to 1. Default 0.5. */
  readonly jitter?: number;
}

/** Returns the next pause in ms. `attempt` counts the pauses before it: 0 for the first. */
export function backoff(
  attempt: number,
  { initial, max, factor = 2, jitter = 0.5 }: Backoff,
  random: () => number,
): number {
  return shorten(Math.min(max, initial * factor ** Math.min(attempt, 64)), jitter, random);
}

/** `ms` without up to the part `jitter` of it. */
export function shorten(ms: number, jitter: number, random: () => number): number {
  return ms * (1 - jitter * random());
}
