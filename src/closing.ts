/** Base class of objects that emit events, drain and close. */

import { EventEmitter } from "node:events";
import { type Given, Options, optional, timeout } from "./options.ts";

const drainRows = {
  /** Longest wait, in ms; 0 does not wait, `Infinity` waits without limit. */
  timeout: timeout(Infinity, 0),
};
const closeRows = {
  /** Time that running work has to finish, in ms; 0 ends it at once, `Infinity` waits without limit. */
  timeout: timeout(5_000, 0),
};

/** The options of `drain`. */
export const drainOptions = new Options("drain", drainRows);
/** The options of `close`. */
export const closeOptions = new Options("close", closeRows);

/** The options of `close` of a pool, where the default is the pool's `stop.drain`. */
export const poolCloseOptions = new Options("close", { timeout: optional(closeRows.timeout) });

/** Options of `drain`. */
export interface DrainOptions extends Given<typeof drainRows> {}
/** Options of `close`. */
export interface CloseOptions extends Given<typeof closeRows> {}

/** Emits events, drains and closes. `Report` is what `close` resolves to. */
export abstract class Closing<Events extends Record<keyof Events, unknown[]>, Report = void>
  extends EventEmitter<Events>
  implements AsyncDisposable
{
  #closing: Promise<Report> | null = null;

  /** Accepts no new work and waits for running work to finish, for at most `timeout` ms. */
  protected abstract finish(timeout: number): Promise<void>;
  /** Ends the remaining work, once, after {@link finish}. */
  protected abstract end(timeout: number): Promise<Report>;

  /** Whether it accepts no new work, because {@link close} was called or it ended by itself. */
  get closed(): boolean {
    return this.#closing !== null;
  }

  /** Accepts no new work; resolves when running work has finished, or after `timeout` ms. */
  async drain(options: DrainOptions = {}): Promise<void> {
    await this.finish(drainOptions.resolve(options).timeout);
  }

  /** Drains for at most `timeout` ms, then ends the remaining work. Can be called again; all calls share one result. */
  async close(options: CloseOptions = {}): Promise<Report> {
    const limit = closeOptions.resolve(options).timeout;
    return (this.#closing ??= this.#close(limit));
  }

  async #close(limit: number): Promise<Report> {
    await this.finish(limit);
    return this.end(limit);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}
