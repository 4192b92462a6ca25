/** Sizes of the replay wire: small, so that limits are met often. */

/** Largest head, in bytes. */
export const HEAD_BYTES = 2_048;
/** Largest body, in bytes. */
export const PAYLOAD_BYTES = 1_024;
