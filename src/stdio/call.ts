/** One request, notification or message of the stdio bus, from the call to its settlement. */

import { checkSignal, shown } from "../check.ts";
import { InvalidConfigError } from "../errors.ts";
import type { RpcMessage } from "./rpc.ts";

/** What a call is asked with. */
export interface CallOptions {
  /** Goes to the worker that has this key, as long as it lives; SDK workers see it as `ctx.key`. */
  key?: string | undefined;
  /** In ms, from the call to the answer; `Infinity` for none. Default: `limits.timeout`. */
  timeout?: number | undefined;
  /** Rejects with `signal.reason`; the worker is sent `$/cancelRequest`. */
  signal?: AbortSignal | undefined;
  /** May run twice: if its worker ends it is sent to another one, once, within the same timeout. */
  idempotent?: boolean | undefined;
  /**
   * Called with each piece the worker sends before its answer, in order. While a promise that it returns is pending, nothing
   * more is read from that worker.
   */
  onProgress?: ((value: unknown) => unknown) | undefined;
}

/** Settles a call. */
export type Resolve = (value: unknown) => void;
/** As {@link Resolve}. */
export type Reject = (reason: unknown) => void;

const none: CallOptions = {};
const settledAlready = (): void => {};

/** Throws {@link InvalidConfigError}. */
export function checkCallOptions({ key, signal, onProgress }: CallOptions): void {
  if (key !== undefined && typeof key !== "string") {
    throw new InvalidConfigError(`key is ${shown(key)}; it must be text.`);
  }
  if (onProgress !== undefined && typeof onProgress !== "function") {
    throw new InvalidConfigError(`onProgress is ${shown(onProgress)}; it must be a function.`);
  }
  if (signal !== undefined) checkSignal(signal);
}

/** Returns a timeout in ms, `Infinity` for none. Throws {@link InvalidConfigError}. */
export function checkTimeoutMs(timeout: unknown): number {
  if (timeout === Infinity) return Infinity;
  if (typeof timeout === "number" && timeout > 0 && timeout <= 0xffff_ffff) return timeout;
  throw new InvalidConfigError(`timeout is ${shown(timeout)}; it must be above 0 and at most 4294967295 ms.`);
}

/** The connection that a call was sent by. */
interface Carrier {
  /** Its caller gave up. */
  giveUp(call: Call): void;
  /** Its answer did not come in time. */
  timedOut(): void;
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
  /** It was sent before, to a worker that has ended. */
  wasRetried = false;
  sentAt = 0;
  connection: Carrier | null = null;
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

  /** Settles it, the first time. Returns whether it was. */
  settle(isError: boolean, value: unknown): boolean {
    if (this.isSettled) return false;
    this.isSettled = true;
    this.onSettled?.();
    if (this.onAbort) this.options.signal!.removeEventListener("abort", this.onAbort);
    if (isError) this.reject(value);
    else this.resolve(value);
    this.resolve = settledAlready;
    this.reject = settledAlready;
    return true;
  }
}
