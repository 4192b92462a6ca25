/** How the parts end: a base class for whatever emits events, drains and closes. */

import { EventEmitter } from "node:events";
import { type Given, Options, optional, timeout } from "./options.ts";

const drainRows = {
  /** Longest wait in ms; 0 does not wait, `Infinity` waits without a limit. */
  timeout: timeout(Infinity, 0),
};
const closeRows = {
  /** How long what runs has to finish, in ms; 0 ends it at once, `Infinity` is no limit. */
  timeout: timeout(5_000, 0),
};

/** The options of `drain`. */
export const drainOptions = new Options("drain", drainRows);
/** The options of `close`. */
export const closeOptions = new Options("close", closeRows);

/** The options of `close` where the default is an option of the pool: `stop.drain`. */
export const poolCloseOptions = new Options("close", { timeout: optional(closeRows.timeout) });

/** For how long `drain` waits. */
export interface DrainOptions extends Given<typeof drainRows> {}
/** For how long `close` drains. */
export interface CloseOptions extends Given<typeof closeRows> {}

/** Emits events, drains and closes. `Report` is what `close` resolves to. */
export abstract class Closing<Events extends Record<keyof Events, unknown[]>, Report = void>
  extends EventEmitter<Events>
  implements AsyncDisposable
{
  #closing: Promise<Report> | null = null;

  /** Takes nothing new, and waits until what runs has finished, for `timeout` ms at most. */
  protected abstract finish(timeout: number): Promise<void>;
  /** Ends what is left, once, after {@link finish}. */
  protected abstract end(timeout: number): Promise<Report>;

  /** Whether nothing new is taken for good: from the call of {@link close}, or from an end of its own. */
  get closed(): boolean {
    return this.#closing !== null;
  }

  /** Takes nothing new; resolves when what runs has finished, or after `timeout` ms. */
  async drain(options: DrainOptions = {}): Promise<void> {
    await this.finish(drainOptions.resolve(options).timeout);
  }

  /** Drains for `timeout` ms, then ends what is left. Any number of times, at any time. */
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
