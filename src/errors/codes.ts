/** Failures without a class of their own: a {@link SlotbusError} with one of these codes. */

/** Each code, and whether the same call may succeed later, unchanged. */
export const CODES = {
  /**
   * Shared memory contains values that a correct peer never writes. The worker was evicted.
   * @cure Look for code that overwrites memory in the worker: another native library, a worker in C.
   */
  REGION_CORRUPT: { retryable: false },
  /**
   * Access was denied by the kernel, by the mode of the runtime directory, or by the client's `allowedUids`.
   * @cure Run both sides as one user, add the other user to `allowedUids`, `chmod 0700` the directory, or set
   * SLOTBUS_DIR.
   */
  PERMISSION_DENIED: { retryable: false },
  /**
   * The other side sent data that does not follow the protocol.
   * @cure Find out what else writes to this connection; run the same version of slotbus on both sides.
   */
  PROTOCOL: { retryable: false },
  /**
   * The system ran out of memory, descriptors or another resource.
   * @cure Free the resource that the message names: descriptors (`ulimit -n`), memory, processes.
   */
  RESOURCE: { retryable: true },
  /**
   * The client evicted this worker, for the reason in the message: the worker hung, missed the pings of its hub, or
   * broke the protocol. The worker attaches again.
   * @cure Fix the cause that the message names. Move long computations out of the handler into a thread or another
   * process.
   */
  EVICTED: { retryable: true },
  /**
   * The NATS server cannot be reached. Nothing was sent. slotbus connects again by itself.
   * @cure Check that the server runs, that `servers` names it, and that the network lets this machine reach it.
   */
  DISCONNECTED: { retryable: true },
  /**
   * A client of a shared bus was stopped, or its event loop was blocked, for 10 s while its streams held places of a full
   * worker. The worker ended its session with that client, and attaches again when the client continues.
   * @cure Continue the client (SIGCONT), or end it. Give a worker more `concurrency` than one client can have streams.
   */
  CLIENT_STOPPED: { retryable: true },
  /**
   * The file system of the runtime directory is full.
   * @cure Check it with `df`. Free space with `slotbus clean`; in Docker, raise `--shm-size`.
   */
  NO_SPACE: { retryable: true },
  /**
   * A handler returned nothing and did not call `request.defer()`, or it dropped the function that `defer()` returned.
   * @cure Return a response (`null` for an empty one). To respond later, keep the function of `request.defer()` and call
   * it.
   */
  NO_ANSWER: { retryable: false },
  /**
   * A body was used when its memory already served other requests: a borrowed body after its release, or
   * `request.body` after the response, if the handler had borrowed the body.
   * @cure Use a borrowed body before you release it and before you respond. Or read `request.body` first: it is a copy.
   */
  BODY_RELEASED: { retryable: false },
  /**
   * The fleet's file is not valid: slotbus did not write it, or a member overwrote it.
   * @cure Stop all members, remove the file that the message names, and start them again.
   */
  FLEET_CORRUPT: { retryable: false },
  /**
   * The leases of a fleet can be reset only while it has a single member.
   * @cure Stop the other members first; `slotbus ls` shows how many there are.
   */
  LEASE_RESET: { retryable: true },
  /**
   * The NATS server did not confirm a claim, a renewal or a release in time. It may have happened. A claim that happened ends with
   * its ttl; a guard counts as held until its own deadline.
   * @cure Check the server, and that its JetStream has a leader for the stream that the message names. Then try again.
   */
  CLAIM_UNCONFIRMED: { retryable: true },
  /**
   * The stream of a fleet's leases on the NATS server has settings that claims cannot rely on, or a key of it is not a lease.
   * @cure Delete the stream or the key that the message names, while no process holds a lease: the next claim creates it again.
   */
  CLAIM_BUCKET: { retryable: false },
  /**
   * The program of a pool does not exist or is not executable.
   * @cure Install it, or correct `command`, `cwd` or `env.PATH`.
   */
  PROGRAM_NOT_FOUND: { retryable: false },
  /**
   * The bus has no pool with this id, or it has several pools and the call named none.
   * @cure Name one of the pools that the message lists.
   */
  UNKNOWN_POOL: { retryable: false },
  /**
   * The module of a pool does not export a function with this name, or the call expects a stream from a function that returns
   * a value, or the reverse.
   * @cure Correct the name: the message lists the nearest one. Call generators with `stream`, other functions with `run`.
   */
  UNKNOWN_FUNCTION: { retryable: false },
  /**
   * The module of a pool failed to load in a worker process. `cause` is its own error.
   * @cure Fix the error in `cause`, then start the pool again.
   */
  MODULE_FAILED: { retryable: false },
  /**
   * An argument or a result of a task cannot be copied to another process: it contains a function, a class with private
   * state, a promise, a stream or another object that structured clone rejects.
   * @cure Send plain data: text, numbers, arrays, objects, dates, maps, sets, buffers, errors.
   */
  NOT_CLONEABLE: { retryable: false },
  /**
   * Another process already listens on the address.
   * @cure Stop that process, or choose another address.
   */
  ADDRESS_IN_USE: { retryable: false },
} as const satisfies Readonly<Record<string, { retryable: boolean }>>;
