/** slotbus/serve: the same handlers serve calls over standard input and output, and over a bus. */

import type { Asker, RequestOptions } from "./bus/call.ts";
import type { Answer } from "./bus/answer.ts";
import type { WorkerRequest } from "./bus/request.ts";
import { checkOptions, shown } from "./check.ts";
import { systemClock } from "./clock.ts";
import { SlotbusError, InvalidConfigError, RpcError, UnsupportedError } from "./errors.ts";
import { type CloseOptions, closeOptions, type DrainOptions, drainOptions } from "./closing.ts";
import { generation, kept } from "./hot.ts";
import { choice, type Given, Options, optional, text } from "./options.ts";
import { isBun } from "./runtime.ts";
import { FRAMINGS, STDIO_VARIABLE } from "./stdio/framing.ts";
import { errorMember, readError, RPC, toJson } from "./stdio/rpc.ts";
import { answerOf, type ServeContext, type ServeHandler, type ServeHandlers, StdioWorker } from "./stdio/worker.ts";
import { sinkOf } from "./stdio/writer.ts";

export * from "./errors.ts";

export { RpcError, type ServeContext, type ServeHandler, type ServeHandlers };

/** @internal Options of {@link serve}. */
export const serveOptions = new Options("serve", {
  /** Name of a bus to serve. Default: set by the host, else standard input and output. */
  name: optional(text(undefined, "a name", (name) => name !== "")),
  /** Runtime directory of the bus. */
  directory: optional(text(undefined, "a path", (path) => path !== "")),
  /** How messages are separated on standard input and output. Default: set by the host, else `"ndjson"`. */
  framing: optional(choice("ndjson", FRAMINGS)),
});

/** Options of {@link serve}; they override what the host sets. */
export interface ServeWorkerOptions extends Given<(typeof serveOptions)["rows"]> {}

/** A worker that serves calls. */
export interface Served extends AsyncDisposable {
  /** Where it serves calls. */
  readonly over: "stdio" | "bus";
  /** Whether it takes no new calls: `drain` or `close` was called. */
  readonly closed: boolean;
  /** Resolves when the worker has ended; the process then exits with code 0. */
  readonly done: Promise<void>;
  /** Takes no new calls; resolves when running calls are answered, or after `timeout` ms (default: no limit). */
  drain(options?: { timeout?: number | undefined }): Promise<void>;
  /** Drains for up to `timeout` ms (default 5000) and ends the worker. May be called repeatedly. */
  close(options?: { timeout?: number | undefined }): Promise<void>;
}

/** Environment variable that tells a worker the name of its bus. */
const BUS_VARIABLE = "SLOTBUS_NAME";
/** State of {@link serve}, kept across reloads by `bun --hot`. `generation`: the evaluation that called `serve` last. */
const state = kept("serve", () => ({
  over: null as Served["over"] | null,
  options: "",
  served: null as Promise<Served> | null,
  handlers: {} as Record<string, ServeHandler>,
  generation: 0,
}));
const KEY_HEADER = "x-slotbus-key";
const LINES_TYPE = "application/x-ndjson";
const ERROR_TYPE = "application/x-slotbus-error+json";
const decoder = new TextDecoder();

/**
 * Serves calls until the host ends. Resolves when it reads standard input, or is attached to its bus. At SIGTERM, or at the end
 * of input over stdio, it finishes its calls; then the process exits with code 0. Over stdio, console output goes to standard
 * error, as standard output is for messages.
 *
 *     await serve({ add: ([a, b]: number[]) => a + b });
 *
 * @throws (rejects) {InvalidConfigError} for handlers that are not functions, for invalid options, and if this process has
 * already called `serve`; as `SlotWorker.open`.
 */
export async function serve(handlers: ServeHandlers, options: ServeWorkerOptions = {}): Promise<Served> {
  const { name: given, directory, framing } = serveOptions.resolve(options);
  for (const [method, handler] of Object.entries(checkOptions("serve's handlers", handlers))) {
    if (typeof handler !== "function") {
      throw new InvalidConfigError(`The handler of ${shown(method)} is ${shown(handler)}; it must be a function.`);
    }
  }
  const asked = JSON.stringify([given, directory, framing]);
  if (state.served && (state.generation === generation || state.options !== asked)) {
    throw new InvalidConfigError(`serve() was already called in this process (over ${state.over}).`, {
      hint: "Pass all handlers to one call of `serve`. After a reload by `bun --hot`, pass the same options again.",
    });
  }
  for (const method of Object.keys(state.handlers)) delete state.handlers[method];
  Object.assign(state.handlers, handlers);
  state.generation = generation;
  state.options = asked;
  try {
    return await (state.served ??= begin(given, directory, framing));
  } catch (error) {
    state.served = null;
    throw error;
  }
}

/**
 * Starts to serve the handlers in {@link state}. A reload replaces the handlers, but keeps the connection and its open calls.
 */
async function begin(
  given: string | null,
  directory: string | null,
  framing: (typeof FRAMINGS)[number] | null,
): Promise<Served> {
  const { handlers } = state;
  const told = process.env[STDIO_VARIABLE];
  const name = given ?? (told === undefined ? process.env[BUS_VARIABLE] : undefined);
  // Child processes of this worker are not workers of the same host.
  delete process.env[STDIO_VARIABLE];
  delete process.env[BUS_VARIABLE];
  if (name === undefined) {
    const checked = serveOptions.rows.framing.resolve(framing ?? told, "framing") ?? "ndjson";
    state.over = "stdio";
    return new ServedWorker("stdio", overStdio(handlers, checked, told !== undefined), Infinity);
  }
  state.over = "bus";
  return new ServedWorker("bus", await overBus(handlers, name, directory), CLOSE_MS);
}

/** The connection that a worker serves. */
interface Host {
  /** Takes no new calls; resolves when running calls are answered, or after `timeout` ms. */
  drain(timeout: number): Promise<void>;
  close(timeout: number): Promise<void>;
  /** Resolves when the host has ended the connection. */
  readonly ended: Promise<void>;
}

/** Default time limit of `close`, in ms. */
const CLOSE_MS = 5_000;

class ServedWorker implements Served {
  readonly over: Served["over"];
  readonly done: Promise<void>;
  closed = false;
  readonly #host: Host;
  readonly #ended = Promise.withResolvers<void>();
  #closing: Promise<void> | null = null;

  /** `patience`: time to finish calls at SIGTERM and at the end of the host, in ms. */
  constructor(over: Served["over"], host: Host, patience: number) {
    this.over = over;
    this.#host = host;
    this.done = this.#ended.promise.then(() => process.exit(0));
    process.once("SIGTERM", () => void this.close({ timeout: patience }));
    void host.ended.then(async () => {
      if (over === "bus" || !this.closed) await this.close({ timeout: patience }); // over stdio `drain` also leads here
    });
  }

  async drain(options: DrainOptions = {}): Promise<void> {
    const limit = drainOptions.resolve(options).timeout;
    this.closed = true;
    await this.#host.drain(limit);
  }

  async close(options: CloseOptions = {}): Promise<void> {
    const limit = closeOptions.resolve(options).timeout;
    this.closed = true;
    await (this.#closing ??= this.#host.close(limit).finally(this.#ended.resolve));
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

// ---- stdio ------------------------------------------------------------------------------------------------------------

function overStdio(handlers: ServeHandlers, framing: (typeof FRAMINGS)[number], announces: boolean): Host {
  if (!isBun) {
    throw new UnsupportedError("serve() reads standard input only in Bun, and this is Node.", {
      hint: "Pass the name of a bus, or run the worker with `bun`.",
    });
  }
  keepOutputClean();
  const pair = { sink: sinkOf(Bun.stdout.writer()), source: Bun.stdin.stream() };
  const worker = new StdioWorker(handlers, pair, framing, announces);
  const drain = async (limit: number): Promise<void> => {
    worker.stop();
    const late = Promise.withResolvers<void>();
    const timer = limit === Infinity ? null : systemClock.after(limit, late.resolve);
    await Promise.race([worker.done, late.promise]);
    timer?.close();
  };
  return { drain, close: drain, ended: worker.done };
}

/** Redirects console output to standard error, as standard output is for messages. */
function keepOutputClean(): void {
  const { stdout, stderr } = process;
  stdout.write = stderr.write.bind(stderr);
  const print = (...values: unknown[]): void => {
    stderr.write(`${values.map((value) => (typeof value === "string" ? value : Bun.inspect(value))).join(" ")}\n`);
  };
  const table = (rows: object): void => print(Bun.inspect.table(rows));
  Object.assign(console, { log: print, info: print, debug: print, dir: print, table });
}

// ---- bus --------------------------------------------------------------------------------------------------------------

async function overBus(handlers: ServeHandlers, name: string, directory: string | null): Promise<Host> {
  const { SlotWorker } = await import("./slot-worker.ts");
  const worker = await SlotWorker.open({ name, ...(directory === null ? {} : { directory }) });
  worker.serve((request) => answer(handlers, request));
  const ended = new Promise<void>((resolve) => worker.once("disconnected", () => resolve()));
  return {
    drain: (limit) => worker.drain({ timeout: limit }),
    close: (limit) => worker.close({ timeout: limit }),
    ended,
  };
}

/** Returns the response to a request of a bus: JSON; or lines of JSON, if the handler sent progress or notifications. */
function answer(handlers: ServeHandlers, request: WorkerRequest): Answer | Promise<Answer> {
  const method = decodeURIComponent(request.path.slice(1));
  const handler = Object.hasOwn(handlers, method) ? handlers[method]! : undefined;
  if (!handler) return failed(404, new RpcError(RPC.methodNotFound, `there is no method ${JSON.stringify(method)}`));
  let params: unknown;
  try {
    const body = request.peek();
    params = body.length === 0 ? undefined : JSON.parse(decoder.decode(body));
  } catch (error) {
    return failed(400, new RpcError(RPC.parseError, `the params are not valid JSON: ${(error as Error).message}`));
  }
  const context = new BusContext(method, request);
  try {
    const result = answerOf(handler(params, context), context);
    if (!(result instanceof Promise)) return context.finish(result);
    return Promise.race([
      context.streams,
      result.then(
        (value) => context.finish(value),
        (error) => context.fail(error),
      ),
    ]);
  } catch (error) {
    return context.fail(error);
  }
}

function failed(status: number, error: unknown): Answer {
  return { status, contentType: ERROR_TYPE, body: JSON.stringify(errorMember(error)) };
}

class BusContext implements ServeContext {
  readonly method: string;
  readonly key: string | undefined;
  readonly #request: WorkerRequest;
  readonly #streams = Promise.withResolvers<Answer>();
  #lines: string[] | null = null;
  #more: (() => void) | null = null;
  #room: PromiseWithResolvers<void> | null = null;
  #isFinished = false;

  constructor(method: string, request: WorkerRequest) {
    this.method = method;
    this.#request = request;
    this.key = request.headers.get(KEY_HEADER) ?? undefined;
  }

  /** Resolves to a response of lines when the first line is there. */
  get streams(): Promise<Answer> {
    return this.#streams.promise;
  }

  get signal(): AbortSignal {
    return this.#request.signal;
  }

  get progress(): ServeContext["progress"] {
    return (value) => this.#push(`{"progress":${toJson(value, "progress")}}\n`);
  }

  get notify(): ServeContext["notify"] {
    return (method, params = null) =>
      this.#push(`{"notify":${JSON.stringify(method)},"params":${toJson(params, "params")}}\n`);
  }

  finish(result: unknown): Answer {
    const json = toJson(result, "the result");
    if (!this.#lines) return { contentType: "application/json", body: json };
    void this.#push(`{"result":${json}}\n`);
    return this.#end();
  }

  fail(error: unknown): Answer {
    if (!this.#lines) return failed(error instanceof RpcError ? 422 : 500, error);
    void this.#push(`{"error":${JSON.stringify(errorMember(error))}}\n`);
    return this.#end();
  }

  #end(): Answer {
    this.#isFinished = true;
    this.#more?.();
    return this.#answer();
  }

  #push(line: string): Promise<void> {
    if (this.#isFinished) return Promise.resolve();
    if (!this.#lines) {
      this.#lines = [];
      this.#request.signal.addEventListener("abort", this.#leave);
      this.#streams.resolve(this.#answer());
    }
    this.#lines.push(line);
    this.#more?.();
    return (this.#room ??= Promise.withResolvers<void>()).promise;
  }

  #made: Answer | null = null;

  #answer(): Answer {
    return (this.#made ??= { contentType: LINES_TYPE, body: this.#read() });
  }

  async *#read(): AsyncGenerator<string> {
    try {
      for (;;) {
        const lines = this.#lines!.splice(0);
        this.#room?.resolve();
        this.#room = null;
        if (lines.length > 0) yield lines.join("");
        else if (this.#isFinished) return;
        else await new Promise<void>((more) => (this.#more = more));
      }
    } finally {
      this.#leave();
    }
  }

  /** The caller no longer reads: a handler that waits for its progress continues. */
  readonly #leave = (): void => {
    this.#isFinished = true;
    this.#room?.resolve();
    this.#more?.();
  };
}

/** Options of {@link callBus}. */
export interface BusCallOptions extends Pick<RequestOptions, "timeout" | "signal" | "idempotent"> {
  /** Key that the handler sees as `ctx.key`. It does not choose a worker. */
  key?: string | undefined;
  /** Called with each piece of progress. A returned promise is awaited before the next one. */
  onProgress?: ((value: unknown) => unknown) | undefined;
  /** Called with each notification of the handler (`ctx.notify`). */
  onNotify?: ((method: string, params: unknown) => unknown) | undefined;
}

/**
 * Calls a method of a worker that uses {@link serve} on a bus.
 *
 *     await callBus<number>(bus, "add", [1, 2]);
 *
 * @throws (rejects) {RpcError}: the handler's own error; `PROTOCOL`: the worker does not use `serve`; as `bus.request`.
 */
export async function callBus<T = unknown>(
  bus: Asker,
  method: string,
  params?: unknown,
  { key, onProgress, onNotify, ...options }: BusCallOptions = {},
): Promise<T> {
  const response = await bus.stream(
    {
      method: "POST",
      path: `/${encodeURIComponent(method)}`,
      ...(key === undefined ? {} : { headers: { [KEY_HEADER]: key } }),
      ...(params === undefined ? {} : { body: toJson(params, "params") }),
    },
    options,
  );
  const worker = `Worker pid ${response.workerPid}`;
  if (response.contentType === "application/json") return (await response.json()) as T;
  if (response.contentType === ERROR_TYPE) throw readError(await response.json(), method, worker);
  if (response.contentType !== LINES_TYPE) {
    const { status, contentType } = response;
    response.cancel();
    throw new SlotbusError(
      "PROTOCOL",
      `${worker} responded with ${status} ${contentType}, which is not a response of serve().`,
    );
  }
  const decoder = new TextDecoder();
  let rest = "";
  for await (const chunk of response.chunks()) {
    const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n");
    rest = lines.pop()!;
    for (const line of lines) {
      const item = JSON.parse(line) as Record<string, unknown>;
      if ("progress" in item) await onProgress?.(item["progress"]);
      else if ("notify" in item) await onNotify?.(item["notify"] as string, item["params"]);
      else if ("error" in item) throw readError(item["error"], method, worker);
      else return item["result"] as T;
    }
  }
  throw new SlotbusError("PROTOCOL", `${worker} ended its response without a result.`, { mayHaveExecuted: true });
}
