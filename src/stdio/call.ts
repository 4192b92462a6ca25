/** One request, notification or message of the stdio bus, from the call to its settlement. */

import type { CallOptions } from "./options.ts";
import type { RpcMessage } from "./rpc.ts";

/** Settles a call. */
export type Resolve = (value: unknown) => void;
/** As {@link Resolve}. */
export type Reject = (reason: unknown) => void;

const none: CallOptions = {};
const settledAlready = (): void => {};

/** The connection that a call was sent by. */
interface Carrier {
  /** Its caller gave up. */
  giveUp(call: Call, reason: unknown): void;
  /** Its answer did not come in time. */
  timedOut(): void;
}

/** The pool that a call waits in or was sent by. */
interface Keeper {
  /** Its caller gives up, with that error. */
  abandon(call: Call, error: unknown): void;
}

/** What somebody waits for. */
export class Call {
  /** A request answers with its result, a message with its whole response, a notification when it was written. */
  readonly kind: "request" | "notification" | "message";
  readonly method: string;
  readonly params: unknown;
  readonly message: RpcMessage | null;
  readonly options: CallOptions;
  readonly startedAt: number;
  /** When it times out, as the clock of the bus counts; `Infinity`: never. */
  readonly deadline: number;
  resolve: Resolve;
  reject: Reject;
  isSettled = false;
  #over: PromiseWithResolvers<void> | null = null;
  /** It was sent before, to a worker that has ended. */
  wasRetried = false;
  /** It had a place in a queue, and keeps one. */
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

  /** Resolves when it has settled. Made when it is first read: most calls have no progress that must be waited for. */
  get over(): Promise<void> {
    this.#over ??= Promise.withResolvers<void>();
    if (this.isSettled) this.#over.resolve();
    return this.#over.promise;
  }

  /** Settles it, the first time. Returns whether it was. */
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
