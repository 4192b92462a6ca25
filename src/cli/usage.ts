/** A failure that one line explains: the command prints it and exits with 1. */
export class CommandError extends Error {}

/** A command line that cannot be meant: the command prints what is wrong and exits with 2. */
export class UsageError extends CommandError {}
