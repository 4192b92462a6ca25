/** What a test left, for `leaks.ts` to report at its end. Child processes load this file too, which is why it does nothing. */

/** Slots that were in use without a reason. */
export const slotsLeft = new Set<string>();
