/** Delays between retries: they grow, and are randomized so that many processes do not retry at once. */

/** How delays grow. */
export interface Backoff {
  /** First delay, in ms. */
  readonly initial: number;
  /** Longest delay, in ms. */
  readonly max: number;
  /** Factor between one delay and the next. Default 2. */
  readonly factor?: number;
  /** Part of a delay that is random, 0 to 1. Default 0.5: a delay is shortened by up to half. */
  readonly jitter?: number;
}

/** Returns the next delay in ms. `attempt` is the number of earlier delays: 0 for the first. */
export function backoff(
  attempt: number,
  { initial, max, factor = 2, jitter = 0.5 }: Backoff,
  random: () => number,
): number {
  return shorten(Math.min(max, initial * factor ** Math.min(attempt, 64)), jitter, random);
}

/** Shortens `ms` by a random part of up to `jitter`. */
export function shorten(ms: number, jitter: number, random: () => number): number {
  return ms * (1 - jitter * random());
}
