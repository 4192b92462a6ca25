/** A command line that cannot be meant; the command exits with 2. */
export class UsageError extends Error {}
