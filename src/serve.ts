/** One worker for both kinds of host: the same handlers answer over standard input and output, and over a bus. */

import type { Asker, RequestOptions } from "./bus/call.ts";
import type { Answer } from "./bus/answer.ts";
import type { WorkerRequest } from "./bus/request.ts";
import { checkOptions, shown } from "./check.ts";
import { systemClock } from "./clock.ts";
import { SlotbusError, InvalidConfigError, RpcError } from "./errors.ts";
import { type CloseOptions, closeOptions, type DrainOptions, drainOptions } from "./closing.ts";
import { generation, kept } from "./hot.ts";
import { choice, type Given, Options, optional, text } from "./options.ts";
import { FRAMINGS, STDIO_VARIABLE } from "./stdio/framing.ts";
import { errorMember, readError, RPC, toJson } from "./stdio/rpc.ts";
import { answerOf, type ServeContext, type ServeHandler, type ServeHandlers, StdioWorker } from "./stdio/worker.ts";
import { sinkOf } from "./stdio/writer.ts";

export * from "./errors.ts";

export { RpcError, type ServeContext, type ServeHandler, type ServeHandlers };

/** @internal What {@link serve} answers on. */
export const serveOptions = new Options("serve", {
  /** Name of a bus to answer on. Without it: as the host says, else standard input and output. */
  name: optional(text(undefined, "a name", (name) => name !== "")),
  /** Runtime directory of that bus. */
  directory: optional(text(undefined, "a path", (path) => path !== "")),
  /** How messages are told apart. Without it: as the host says, else `"ndjson"`. */
  framing: optional(choice("ndjson", FRAMINGS)),
});

/** What {@link serve} answers on, in place of what its host says. */
export interface ServeWorkerOptions extends Given<(typeof serveOptions)["rows"]> {}

/** A worker that answers. */
export interface Served extends AsyncDisposable {
  /** What it answers on. */
  readonly over: "stdio" | "bus";
  /** Whether it takes nothing new for good. */
  readonly closed: boolean;
  /** Resolves when it has ended; then the process exits with code 0. */
  readonly done: Promise<void>;
  /** Takes nothing new; resolves when what runs is answered, or after `timeout` ms (default: none). */
  drain(options?: { timeout?: number | undefined }): Promise<void>;
  /** Drains for `timeout` ms (default 5000) and ends. Any number of times, at any time. */
  close(options?: { timeout?: number | undefined }): Promise<void>;
}

/** Environment variable that tells a worker of a bus its name. */
const BUS_VARIABLE = "SLOTBUS_NAME";
/** What this process serves over, and for which evaluation of its program, since {@link serve} was called. */
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
 * Answers calls until the host's end; resolves when it is reading standard input, or is attached to its bus. Over stdio the end of
 * input and SIGTERM let it finish what it has; then the process exits with code 0. Console output goes to standard error, as
 * standard output is for messages.
 *
 *     await serve({ add: ([a, b]: number[]) => a + b });
 *
 * @throws (rejects) {InvalidConfigError} for handlers that are not functions, unknown options and framings, and when this process
 * serves already: its first worker ends the process. What `SlotWorker.open` rejects with.
 */
export async function serve(handlers: ServeHandlers, options: ServeWorkerOptions = {}): Promise<Served> {
  const { name: given, directory, framing } = serveOptions.resolve(options);
  for (const [method, handler] of Object.entries(checkOptions("serve's handlers", handlers))) {
    if (typeof handler !== "function") {
      throw new InvalidConfigError(`the handler of ${shown(method)} is ${shown(handler)}; it must be a function.`);
    }
  }
  const asked = JSON.stringify([given, directory, framing]);
  if (state.served && (state.generation === generation || state.options !== asked)) {
    throw new InvalidConfigError(`serve() was already called in this process (over ${state.over}).`, {
      hint: "Give all handlers to one call of serve. After `bun --hot` reloaded the program, its options are the same.",
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

/** Serves {@link state}'s handlers, which a reload replaces: what carries the calls stays, with the calls on their way. */
async function begin(
  given: string | null,
  directory: string | null,
  framing: (typeof FRAMINGS)[number] | null,
): Promise<Served> {
  const { handlers } = state;
  const told = process.env[STDIO_VARIABLE];
  const name = given ?? (told === undefined ? process.env[BUS_VARIABLE] : undefined);
  // What this process starts in its turn is not a worker of the same host.
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

/** What a worker answers on. */
interface Host {
  /** Takes nothing new; resolves when what runs is answered, or after so many ms. */
  drain(timeout: number): Promise<void>;
  close(timeout: number): Promise<void>;
  /** Resolves when its host wants nothing more. */
  readonly ended: Promise<void>;
}

/** Limit of the drain in `close`, in ms. */
const CLOSE_MS = 5_000;

class ServedWorker implements Served {
  readonly over: Served["over"];
  readonly done: Promise<void>;
  closed = false;
  readonly #host: Host;
  readonly #ended = Promise.withResolvers<void>();
  #closing: Promise<void> | null = null;

  /** `patience`: how long it may finish what it has at SIGTERM and at the end of its host, in ms. */
  constructor(over: Served["over"], host: Host, patience: number) {
    this.over = over;
    this.#host = host;
    this.done = this.#ended.promise.then(() => process.exit(0));
    process.once("SIGTERM", () => void this.close({ timeout: patience }));
    void host.ended.then(async () => {
      if (over === "bus" || !this.closed) await this.close({ timeout: patience }); // over stdio a drain ends it too
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

/** Standard output is for messages; what is printed goes to standard error. */
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
  const { SlotWorker } = await import("./slotbus.ts");
  const worker = await SlotWorker.open({ name, ...(directory === null ? {} : { directory }) });
  worker.serve((request) => answer(handlers, request));
  const ended = new Promise<void>((resolve) => worker.once("disconnected", () => resolve()));
  return {
    drain: (limit) => worker.drain({ timeout: limit }),
    close: (limit) => worker.close({ timeout: limit }),
    ended,
  };
}

/** A handler's answer to a request of a bus: JSON; or lines of JSON, when it sent something before. */
function answer(handlers: ServeHandlers, request: WorkerRequest): Answer | Promise<Answer> {
  const method = decodeURIComponent(request.path.slice(1));
  const handler = Object.hasOwn(handlers, method) ? handlers[method]! : undefined;
  if (!handler) return failed(404, new RpcError(RPC.methodNotFound, `there is no method ${JSON.stringify(method)}`));
  let params: unknown;
  try {
    const body = request.peek();
    params = body.length === 0 ? undefined : JSON.parse(decoder.decode(body));
  } catch (error) {
    return failed(400, new RpcError(RPC.parseError, `the params are no JSON: ${(error as Error).message}`));
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

  /** Resolves to an answer of lines when the first of them is there. */
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

  /** One and the same for all who ask. */
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

  /** Nobody reads on: a handler that waits for its progress goes on. */
  readonly #leave = (): void => {
    this.#isFinished = true;
    this.#room?.resolve();
    this.#more?.();
  };
}

/** What a call through a bus takes. */
export interface BusCallOptions extends Pick<RequestOptions, "timeout" | "signal" | "idempotent"> {
  /** Seen by the handler as `ctx.key`; any worker may get it. */
  key?: string | undefined;
  /** Called with each piece the handler sends before its answer; a promise that it returns is awaited. */
  onProgress?: ((value: unknown) => unknown) | undefined;
  /** Called with what the handler tells by `ctx.notify`. */
  onNotify?: ((method: string, params: unknown) => unknown) | undefined;
}

/**
 * Calls a method of a worker that `serve`s on a bus.
 *
 *     await callBus<number>(bus, "add", [1, 2]);
 *
 * @throws (rejects) {RpcError}: the handler's own error; `PROTOCOL`: a worker that is no such one answered; what
 * `bus.request` rejects with.
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
  const worker = `worker pid ${response.workerPid}`;
  if (response.contentType === "application/json") return (await response.json()) as T;
  if (response.contentType === ERROR_TYPE) throw readError(await response.json(), method, worker);
  if (response.contentType !== LINES_TYPE) {
    const { status, contentType } = response;
    response.cancel();
    throw new SlotbusError("PROTOCOL", `${worker} answered ${status} ${contentType}, which is no answer of serve().`);
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
  throw new SlotbusError("PROTOCOL", `${worker} ended its answer without a result.`, { mayHaveExecuted: true });
}
