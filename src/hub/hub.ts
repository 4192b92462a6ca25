/** One HTTP server in front of many worker processes: a request comes by HTTP, goes to a worker over its bus, and back. */

import { chmodSync, rmSync } from "node:fs";
import { join } from "node:path";
import type { Server } from "bun";
import { SlotBus } from "../bus/bus.ts";
import { SlotbusError } from "../errors.ts";
import { control, health } from "./control.ts";
import { Failure, failureOf } from "./failure.ts";
import { controlSocketOf } from "./names.ts";
import { type HubOptions, type ResolvedHubOptions, resolveHubOptions } from "./options.ts";
import { Pinger } from "./pinger.ts";
import { forward, type Incoming } from "./proxy.ts";
import { Registry } from "./registry.ts";
import { Meter } from "./meter.ts";
import { EventStreams } from "./sse.ts";
import { Status } from "./status.ts";

type AnyServer = Server<unknown>;

/** A request on its way through the hub. */
interface Asked {
  readonly request: Request;
  readonly id: string;
  readonly server: AnyServer | undefined;
  /** Name of the worker that has it; `""` while that is the hub. */
  worker: string;
}

const REQUEST_ID = /^[\w.:-]{1,128}$/;
/** Paths that only the control socket answers. */
const INTERNAL = /^\/(?:internal|__ping__|__sse__)(?:\/|$)/;

/**
 * A hub. Workers find it by name; clients by HTTP.
 *
 *     await using hub = await createHub({ port: 3200 });
 */
export class Hub implements AsyncDisposable {
  readonly options: ResolvedHubOptions;
  readonly #name: SlotBus;
  readonly #registry: Registry;
  readonly #streams: EventStreams;
  readonly #meter = new Meter();
  readonly #status: Status;
  readonly #pinger: Pinger | null;
  readonly #control: AnyServer;
  readonly #socket: string;
  readonly #server: AnyServer | null;
  #closing: Promise<void> | null = null;

  /** @internal Use {@link createHub}. */
  static async create(options: HubOptions = {}): Promise<Hub> {
    const resolved = resolveHubOptions(options);
    const { name, directory } = resolved;
    const owner = await SlotBus.create({ name, directory, slots: 1 }); // it has no workers: it holds the name
    try {
      return new Hub(resolved, owner);
    } catch (error) {
      await owner.close();
      throw error;
    }
  }

  private constructor(options: ResolvedHubOptions, name: SlotBus) {
    this.options = options;
    this.#name = name;
    this.#registry = new Registry(options, () => this.#streams.servicesChanged());
    this.#streams = new EventStreams(this.#registry, options);
    this.#status = new Status(this.#registry, this.#meter, options, () => this.#streams.clients);
    this.#pinger = options.ping ? new Pinger(options.ping, () => this.#registry.services) : null;
    this.#socket = join(options.directory, controlSocketOf(options.name));
    rmSync(this.#socket, { force: true }); // of a hub that was killed: the name is ours
    this.#control = Bun.serve({
      unix: this.#socket,
      fetch: (request) => control(request, this.#registry, this.#streams),
    }) as AnyServer;
    try {
      chmodSync(this.#socket, 0o600);
      this.#server = options.port === null ? null : this.#listen(options.port);
    } catch (error) {
      void this.#control.stop(true);
      throw error;
    }
    process.on("exit", this.#onExit);
  }

  get name(): string {
    return this.options.name;
  }

  /** Where it listens; `null` when it does not. */
  get url(): URL | null {
    return this.#server?.url ?? null;
  }

  /** Answers a request as the hub's own server does, for a `Bun.serve` of one's own. Never rejects. */
  readonly fetch = (request: Request, server?: AnyServer): Response | Promise<Response> => {
    const began = performance.now();
    const given = request.headers.get("x-request-id");
    const id = given !== null && REQUEST_ID.test(given) ? given : crypto.randomUUID();
    const asked: Asked = { request, id, server, worker: "" };
    const record = (response: Response): Response => {
      this.#meter.record(asked.worker, response.status, performance.now() - began);
      return response;
    };
    try {
      const answer = this.#answer(asked);
      if (!(answer instanceof Promise)) return record(answer);
      return answer.then(record, (error) => record(this.#fail(error, id)));
    } catch (error) {
      return record(this.#fail(error, id));
    }
  };

  /** Takes nothing new, answers what runs (for at most `timeout` ms, default 5000), ends event streams, leaves. */
  close({ timeout = 5_000 }: { timeout?: number } = {}): Promise<void> {
    this.#closing ??= this.#close(timeout);
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #listen(port: number): AnyServer {
    return Bun.serve({
      port,
      hostname: this.options.hostname,
      maxRequestBodySize: Number.MAX_SAFE_INTEGER, // the hub counts, and says what is wrong
      fetch: this.fetch,
    }) as AnyServer;
  }

  #answer(asked: Asked): Response | Promise<Response> {
    const { request, id, server } = asked;
    const { path, query } = split(request.url);
    if (request.headers.get("upgrade")?.toLowerCase() === "websocket")
      throw new Failure(501, "NO_WEBSOCKET", "the hub carries no WebSockets.");
    const match = this.#registry.find(request.method, path);
    if (!match) return this.#answerSelf(asked, path);
    const { params, route } = match;
    const { pattern, owner, sse } = route;
    asked.worker = owner.name;
    if (!owner.isThere) throw new Failure(503, "NO_WORKER", "no worker serves this route now.", { "retry-after": "1" });
    const address = server?.requestIP(request)?.address ?? null;
    const incoming: Incoming = { request, id, path, query, pattern: pattern.text, params, address };
    if (!sse) return forward(owner.bus, incoming, this.options);
    server?.timeout(request, 0);
    return this.#streams.open(route, incoming);
  }

  #answerSelf({ request, id, server }: Asked, path: string): Response {
    if (INTERNAL.test(path)) throw notFound(request.method, path);
    if (path === "/health" && request.method === "GET") return Response.json(health(this.#registry));
    if (path === "/events" && request.method === "GET") {
      server?.timeout(request, 0);
      return this.#streams.openAll(request, id);
    }
    if (Status.isAsked(path)) {
      server?.timeout(request, 0);
      return this.#status.answer(request, path, server?.requestIP(request)?.address ?? null, id);
    }
    const allowed = this.#registry.allowed(path);
    if (allowed.length === 0) throw notFound(request.method, path);
    const allow = allowed.join(", ");
    throw new Failure(405, "METHOD", `${request.method} is not allowed here; ${allow} is.`, { allow });
  }

  #fail(error: unknown, id: string): Response {
    if (error instanceof Failure || error instanceof SlotbusError) return failureOf(error).toResponse(id);
    // The client has gone: nobody reads this.
    if (error instanceof DOMException && error.name === "AbortError") return new Response(null, { status: 499 });
    return new Failure(500, "INTERNAL", "the hub failed.").toResponse(id);
  }

  async #close(timeout: number): Promise<void> {
    process.off("exit", this.#onExit);
    this.#pinger?.stop();
    this.#streams.close();
    this.#status.close();
    void this.#control.stop(true);
    rmSync(this.#socket, { force: true });
    const stopped = this.#server?.stop() ?? Promise.resolve();
    await Promise.race([stopped, Bun.sleep(timeout)]);
    await this.#registry.close();
    await this.#server?.stop(true);
    await this.#name.close();
  }

  readonly #onExit = (): void => rmSync(this.#socket, { force: true });
}

/** Makes a hub, which has its name until it is closed; rejects with `BusExistsError` when a live one has it. */
export function createHub(options?: HubOptions): Promise<Hub> {
  return Hub.create(options);
}

/** Path and query as they stand in an absolute URL that was normalised. */
function split(url: string): { path: string; query: string } {
  const start = url.indexOf("/", url.indexOf("//") + 2);
  const hash = url.indexOf("#", start);
  const end = hash < 0 ? url.length : hash;
  const mark = url.indexOf("?", start);
  if (mark < 0 || mark > end) return { path: url.slice(start, end), query: "" };
  return { path: url.slice(start, mark), query: url.slice(mark + 1, end) };
}

function notFound(method: string, path: string): Failure {
  return new Failure(404, "NO_ROUTE", `nothing answers ${method} ${path.slice(0, 200)}.`);
}
