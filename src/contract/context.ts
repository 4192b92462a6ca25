/** What a handler of a contract gets besides its input: the call, and the errors that it may throw. */

import type { HeaderList } from "../bus/headers.ts";
import type { WorkerRequest } from "../bus/request.ts";
import type { ContractError } from "../errors.ts";
import type { Given, Made, Schema } from "./schema.ts";

/** Schemas (or `typed<T>()`) of the data of declared errors, by code. */
export type ErrorShapes = Readonly<Record<string, Schema>>;

/** Makes the declared errors of a method: `throw ctx.errors.NOT_FOUND({ id })`. */
export type ErrorMakers<E extends ErrorShapes> = {
  readonly [K in keyof E & string]: (
    ...args: undefined extends Given<E[K]>
      ? [data?: Given<E[K]>, message?: string]
      : [data: Given<E[K]>, message?: string]
  ) => ContractError<K, Made<E[K]>>;
};

/** What a handler knows of its call besides the input. */
export class CallContext<E extends ErrorShapes = ErrorShapes> {
  /** The declared errors, to be thrown. */
  readonly errors: ErrorMakers<E>;
  readonly #request: WorkerRequest;

  /** @internal */
  constructor(request: WorkerRequest, errors: ErrorMakers<E>) {
    this.#request = request;
    this.errors = errors;
  }

  /** Aborts when the caller gives up, by timeout or abort, and when the connection to the client ends. */
  get signal(): AbortSignal {
    return this.#request.signal;
  }

  /** When the caller gives up at the latest, as `Date.now()` counts; `Infinity` without a timeout. */
  get deadline(): number {
    return this.#request.deadline;
  }

  /** Ms until {@link deadline}; 0 when it is over. */
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
