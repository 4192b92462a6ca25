/** The connection to a NATS server: one for all that use the same `nats(…)`, opened by the first and closed by the last. */

import type { Msg, NatsConnection, NodeConnectionOptions } from "@nats-io/transport-node";
import { backoff, type Backoff } from "../backoff.ts";
import { type Clock, systemClock } from "../clock.ts";
import { SlotbusError, UnsupportedError } from "../errors.ts";

/** Pauses between attempts to connect again, in ms. */
const RECONNECTS: Backoff = { initial: 20, max: 250 };
/** Time between two pings of the server, in ms. */
const PING_MS = 5_000;
/** Number of pings without an answer after which the connection counts as lost. */
const PINGS_OUT = 2;
/** Longest wait for the last bytes when the connection is closed, in ms. */
const CLOSE_MS = 2_000;

/** What the runtime and the client library say when the option `tls` does not fit the server, or names a file that is missing. */
const TLS_FAILURE = /certificate|\btls\b|doesn't exist/i;
const TLS_HINT =
  "Check the option `tls` of `nats()`: `ca` or `caFile` has the authority that signed the server's certificate, " +
  "and `servers` a name that the certificate has.";
const CONNECT_HINT = "Check that the server runs and that `servers` names it, then connect again.";

/** The client library, which is loaded at the first use. */
export type Library = typeof import("@nats-io/transport-node");

const PACKAGE = "@nats-io/transport-node";

/** One connection with its users. */
export class NatsLink {
  readonly prefix: string;
  readonly #source: NatsConnection | NodeConnectionOptions;
  readonly #load: () => Promise<Library>;
  readonly #clock: Clock;
  readonly #watchers = new Set<(isConnected: boolean) => void>();
  #opening: Promise<NatsConnection> | null = null;
  #connection: NatsConnection | null = null;
  #users = 0;
  #isConnected = false;
  /** Number of attempts since the connection was lost. */
  #attempts = 0;

  /** `load` imports the client library: only `slotbus/nats` names it, so that a bundle without `nats()` does not need it. */
  constructor(
    source: NatsConnection | NodeConnectionOptions,
    prefix: string,
    load: () => Promise<Library>,
    clock: Clock = systemClock,
  ) {
    this.#source = source;
    this.#load = load;
    this.prefix = prefix;
    this.#clock = clock;
  }

  /** Whether the server can be reached: our own state, because the client library accepts messages all the time and keeps them. */
  get isConnected(): boolean {
    return this.#isConnected;
  }

  /** The connection while there are users. @throws `DISCONNECTED` while the server cannot be reached: nothing was sent. */
  get connection(): NatsConnection {
    if (this.#connection && this.#isConnected) return this.#connection;
    throw disconnected();
  }

  /** The server, for messages. */
  get server(): string {
    if (this.#connection) return this.#connection.getServer();
    const { servers = "127.0.0.1:4222" } = isConnection(this.#source) ? {} : this.#source;
    return String(servers);
  }

  /** Calls `changed` when the connection is lost or found, until the returned function is called. */
  watch(changed: (isConnected: boolean) => void): () => void {
    this.#watchers.add(changed);
    return () => this.#watchers.delete(changed);
  }

  /**
   * Adds a user, and connects for the first. Call {@link leave} once for each.
   *
   * @throws (rejects) {UnsupportedError} without the client library; `DISCONNECTED` if no server accepts the connection;
   * `PERMISSION_DENIED`.
   */
  async enter(): Promise<NatsConnection> {
    this.#users++;
    try {
      return await (this.#opening ??= this.#open());
    } catch (error) {
      this.#users--;
      this.#opening = null;
      throw error;
    }
  }

  /** Adds a user while there is another one, who entered. */
  hold(): void {
    this.#users++;
  }

  async #open(): Promise<NatsConnection> {
    const source = this.#source;
    const connection = isConnection(source) ? source : await this.#connect(source);
    if (connection.isClosed()) throw disconnected(new Error("the given connection is closed"));
    this.#connection = connection;
    this.#isConnected = true;
    void this.#follow(connection);
    return connection;
  }

  /** Loads the client library. @throws (rejects) {UnsupportedError} with the command that installs it */
  async library(): Promise<Library> {
    try {
      return await this.#load();
    } catch (cause) {
      throw new UnsupportedError(`slotbus/nats needs the package ${PACKAGE}, which cannot be loaded.`, {
        hint: `Run \`bun add ${PACKAGE}\` or \`npm install ${PACKAGE}\`.`,
        cause,
      });
    }
  }

  async #connect(given: NodeConnectionOptions): Promise<NatsConnection> {
    const { connect } = await this.library();
    const options: NodeConnectionOptions = {
      pingInterval: PING_MS,
      maxPingOut: PINGS_OUT,
      maxReconnectAttempts: -1,
      reconnectDelayHandler: () => backoff(this.#attempts, RECONNECTS, this.#clock.random),
      ...given,
    };
    try {
      return await connect(options);
    } catch (cause) {
      throw this.#refused(cause as Error);
    }
  }

  #refused(cause: Error): SlotbusError {
    if (/authorization|authentication|permission/i.test(`${cause.name} ${cause.message}`)) {
      const hint = "Check the user, token, credentials or NKey in the options of `nats()`.";
      const message = `The NATS server ${this.server} refused the connection: ${cause.message}.`;
      return new SlotbusError("PERMISSION_DENIED", message, { hint, cause });
    }
    return disconnected(cause, this.server, TLS_FAILURE.test(cause.message) ? TLS_HINT : CONNECT_HINT);
  }

  /** Follows the state of the connection until it is closed. */
  async #follow(connection: NatsConnection): Promise<void> {
    for await (const { type } of connection.status()) {
      if (this.#connection !== connection) return;
      if (type === "reconnecting") this.#attempts++;
      else if (type === "reconnect") this.#changed(true);
      else if (type === "disconnect" || type === "staleConnection" || type === "close") this.#changed(false);
    }
    if (this.#connection === connection) this.#changed(false);
  }

  #changed(isConnected: boolean): void {
    if (isConnected) this.#attempts = 0;
    if (this.#isConnected === isConnected) return;
    this.#isConnected = isConnected;
    for (const changed of this.#watchers) changed(isConnected);
  }

  /** Removes a user. The last one closes a connection that slotbus opened, after everything was sent. */
  async leave(): Promise<void> {
    if (--this.#users > 0) return;
    const connection = this.#connection;
    const wasConnected = this.#isConnected;
    this.#connection = this.#opening = null;
    this.#isConnected = false;
    if (!connection || isConnection(this.#source) || connection.isClosed()) return;
    if (wasConnected) {
      const sent = connection.flush().catch(() => {}); // it was lost meanwhile
      const { promise, resolve } = Promise.withResolvers<void>();
      const timer = this.#clock.after(CLOSE_MS, resolve);
      await Promise.race([sent, promise]);
      timer.close();
    }
    await connection.close();
  }
}

/** The server cannot be reached: nothing was sent. `server`: the one that was tried. */
export function disconnected(
  cause?: Error,
  server?: string,
  hint = "Check that the server runs and that `servers` names it. slotbus connects again by itself.",
): SlotbusError {
  const what = server ? `Cannot connect to the NATS server ${server}` : "The NATS server cannot be reached";
  return new SlotbusError("DISCONNECTED", `${what}${cause ? `: ${cause.message}` : ""}.`, { hint, cause });
}

/** Whether a value is a connection of the client library, and not options for one. */
export function isConnection(given: unknown): given is NatsConnection {
  const { publish, subscribe } = (given ?? {}) as Partial<NatsConnection>;
  return typeof publish === "function" && typeof subscribe === "function";
}

/** Whether a message says that nobody subscribes to the subject of a message that had this subject as its reply. */
export function isUnheard({ data, headers }: Msg): boolean {
  return data.length === 0 && headers?.code === 503;
}
