/** Failures that need no class: a {@link SlotbusError} with one of these codes. */

/** What each of these codes means, and whether the same call may succeed later without a change. */
export const CODES = {
  /**
   * Shared memory held what no legal step of the peer could have written.
   * @cure Look for what writes over memory in the worker: other native code, a worker in C. The worker was evicted.
   */
  REGION_CORRUPT: { retryable: false },
  /**
   * The kernel, the directory's rights, or the client's list of users refused.
   * @cure Run both sides as one user, list the other in `allowedUids`, `chmod 0700` the directory, or set SLOTBUS_DIR to your own.
   */
  PERMISSION_DENIED: { retryable: false },
  /**
   * The other side sent something that the protocol does not know.
   * @cure Find out what else speaks on that connection; bring both sides to one version.
   */
  PROTOCOL: { retryable: false },
  /**
   * Memory, descriptors or another resource of the system ran out.
   * @cure Free what the message names: descriptors (`ulimit -n`), memory, processes.
   */
  RESOURCE: { retryable: true },
  /**
   * The client of a bus ended the attachment of this worker, and says why: it hung, missed the pings of its hub, or broke the
   * protocol. The worker attaches again.
   * @cure Do as the reason says: a handler that computes for long belongs into a thread or a process of its own.
   */
  EVICTED: { retryable: true },
  /**
   * The file system of the runtime directory is full.
   * @cure `df` on the runtime directory; `slotbus clean`; in Docker a larger `--shm-size`.
   */
  NO_SPACE: { retryable: true },
  /**
   * A handler returned nothing and had not answered, or the answer that it deferred was dropped.
   * @cure Return the answer (`null` for none). To answer later, keep the function that `request.defer()` returns and call it.
   */
  NO_ANSWER: { retryable: false },
  /**
   * A body was used after its memory had been given back: a borrowed one after its end, or `request.body` of a request that is
   * answered and whose body was borrowed.
   * @cure Use what you borrow before you release it and before the request is answered. Or ask for `request.body` first.
   */
  BODY_RELEASED: { retryable: false },
  /**
   * The fleet's file, or what a member wrote into it, is nothing that slotbus could have made.
   * @cure End all members, remove the file that is named, start again.
   */
  FLEET_CORRUPT: { retryable: false },
  /**
   * Only the single member of a fleet may reset its leases.
   * @cure Let the others leave first; `slotbus ls` says how many there are.
   */
  LEASE_RESET: { retryable: true },
  /**
   * The program of a pool does not exist, or may not be executed.
   * @cure Install it, or correct `command`, `cwd` or `env.PATH`.
   */
  PROGRAM_NOT_FOUND: { retryable: false },
  /**
   * The bus has no pool with this id; or it has several, and none was named.
   * @cure Name one of the pools that the message lists.
   */
  UNKNOWN_POOL: { retryable: false },
  /**
   * Another process listens on the address.
   * @cure Stop that process, or choose another address.
   */
  ADDRESS_IN_USE: { retryable: false },
} as const satisfies Readonly<Record<string, { retryable: boolean }>>;
