/** The second argument of a contract handler: the call, and the errors that it may throw. */

import type { HeaderList } from "../bus/headers.ts";
import type { WorkerRequest } from "../bus/request.ts";
import type { ContractError } from "../errors.ts";
import type { Given, Made, Schema } from "./schema.ts";

/** Declared errors: the schema (or `typed<T>()`) of their data by error code. */
export type ErrorShapes = Readonly<Record<string, Schema>>;

/** Functions that create the declared errors of a method: `throw ctx.errors.NOT_FOUND({ id })`. */
export type ErrorMakers<E extends ErrorShapes> = {
  readonly [K in keyof E & string]: (
    ...args: undefined extends Given<E[K]>
      ? [data?: Given<E[K]>, message?: string]
      : [data: Given<E[K]>, message?: string]
  ) => ContractError<K, Made<E[K]>>;
};

/** The call that a handler runs for. */
export class CallContext<E extends ErrorShapes = ErrorShapes> {
  /** Creates the declared errors: `throw ctx.errors.NOT_FOUND({ id })`. */
  readonly errors: ErrorMakers<E>;
  readonly #request: WorkerRequest;

  /** @internal */
  constructor(request: WorkerRequest, errors: ErrorMakers<E>) {
    this.#request = request;
    this.errors = errors;
  }

  /** Aborted when the caller times out or aborts, or when the connection to the client ends. */
  get signal(): AbortSignal {
    return this.#request.signal;
  }

  /** Time at which the call times out, as from `Date.now()`; `Infinity` without a timeout. */
  get deadline(): number {
    return this.#request.deadline;
  }

  /** Time until {@link deadline}, in ms; 0 when it has passed. */
  get timeLeft(): number {
    return Math.max(0, this.#request.timeLeft);
  }

  get requestId(): string {
    return this.#request.id;
  }

  get headers(): HeaderList {
    return this.#request.headers;
  }
}
