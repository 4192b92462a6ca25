/** One request, notification or message of the stdio bus, from the call until it settles. */

import type { CallOptions } from "./options.ts";
import type { RpcMessage } from "./rpc.ts";

/** Resolves a call. */
export type Resolve = (value: unknown) => void;
/** Rejects a call. */
export type Reject = (reason: unknown) => void;

const none: CallOptions = {};
const settledAlready = (): void => {};

/** The connection that sent a call. */
interface Carrier {
  /** The caller cancelled the call. */
  giveUp(call: Call, reason: unknown): void;
  /** The call timed out. */
  timedOut(): void;
}

/** The pool in which a call waits, or that sent it. */
interface Keeper {
  /** Cancels the call, which rejects with this error. */
  abandon(call: Call, error: unknown): void;
}

/** A request, notification or message that has not settled yet. */
export class Call {
  /** A `"request"` resolves to its result, a `"message"` to the whole response, a `"notification"` when it is written. */
  readonly kind: "request" | "notification" | "message";
  readonly method: string;
  readonly params: unknown;
  readonly message: RpcMessage | null;
  readonly options: CallOptions;
  readonly startedAt: number;
  /** When it times out, in ms of the bus's clock; `Infinity`: never. */
  readonly deadline: number;
  resolve: Resolve;
  reject: Reject;
  isSettled = false;
  #over: PromiseWithResolvers<void> | null = null;
  /** Whether it was already sent to a worker, which then ended. */
  wasRetried = false;
  /** Whether it was queued before: then the limit of the queue no longer applies to it. */
  hasWaited = false;
  sentAt = 0;
  connection: Carrier | null = null;
  pool: Keeper | null = null;
  id = 0;
  onAbort: (() => void) | null = null;
  /** Called once, when it settles. */
  onSettled: (() => void) | null = null;

  constructor(
    kind: Call["kind"],
    method: string,
    params: unknown,
    message: RpcMessage | null,
    options: CallOptions | undefined,
    startedAt: number,
    timeoutMs: number,
    resolve: Resolve,
    reject: Reject,
  ) {
    this.kind = kind;
    this.method = method;
    this.params = params;
    this.message = message;
    this.options = options ?? none;
    this.startedAt = startedAt;
    this.deadline = startedAt + timeoutMs;
    this.resolve = resolve;
    this.reject = reject;
  }

  /** Resolves when the call has settled. Created on first use, as few calls need it. */
  get over(): Promise<void> {
    this.#over ??= Promise.withResolvers<void>();
    if (this.isSettled) this.#over.resolve();
    return this.#over.promise;
  }

  /** Settles the call. Returns `false` if it had already settled. */
  settle(isError: boolean, value: unknown): boolean {
    if (this.isSettled) return false;
    this.isSettled = true;
    this.onSettled?.();
    this.#over?.resolve();
    if (this.onAbort) this.options.signal!.removeEventListener("abort", this.onAbort);
    if (isError) this.reject(value);
    else this.resolve(value);
    this.resolve = settledAlready;
    this.reject = settledAlready;
    return true;
  }
}
