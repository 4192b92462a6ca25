/** The control plane: workers register and send events as JSON over HTTP, on a socket that only this user can open. */

import { chmodSync, rmSync } from "node:fs";
import { join } from "node:path";
import type { Server } from "bun";
import type { RemoteVia } from "../bus/via.ts";
import { isSameToken } from "../check.ts";
import { SlotbusError } from "../errors.ts";
import type { Actions } from "./direct.ts";
import { Failure, tooLarge } from "./failure.ts";
import { CONTROL_LIMIT, controlSocketOf, REGISTER_PATH, type RouteRequest } from "./names.ts";
import type { ResolvedHubOptions } from "./options.ts";
import type { Registry } from "./registry.ts";
import { RemoteControl } from "./remote.ts";
import { COMMANDS_PATH, readCommands, textOf } from "./socket-commands.ts";

/** IP addresses and `localhost`: hosts that no DNS server can point here. */
const HOST = /^(?:localhost|\d+\.\d+\.\d+\.\d+|\[[0-9a-f:.]+\])$/;

/**
 * Time in which programs that have connected must have sent their requests, in ms. A socket that closes before resets them, and
 * then they do not know whether their events were sent.
 */
const GRACE_MS = 200;

/** Functions that return what is shown, by path. */
type Shown = Readonly<Record<string, () => object>>;

/**
 * The control socket of a hub, its control port if the option `control` is set, and with {@link reach} its workers on other machines.
 * Open until {@link close}.
 */
export class ControlPlane {
  readonly #registry: Registry;
  readonly #actions: Actions;
  readonly #shown: Shown;
  readonly #socket: string;
  readonly #servers: Server<unknown>[] = [];
  #remote: RemoteControl | null = null;
  /** URL of the control port; `null` without one. */
  readonly url: URL | null;

  /**
   * `socket`: path of the control socket. `shown`: what the other processes of a shared hub may read, by path.
   *
   * @throws `RESOURCE` when it cannot listen on the port.
   */
  constructor(
    options: ResolvedHubOptions,
    registry: Registry,
    actions: Actions,
    socket = join(options.directory, controlSocketOf(options.name)),
    shown: Shown = {},
  ) {
    const { control } = options;
    this.#registry = registry;
    this.#actions = actions;
    this.#shown = shown;
    this.#socket = socket;
    this.removeSocket(); // left by a killed hub: this hub now owns the name
    const here = (guard: Guard): Guard => (options.via ? andNoWorkers(guard) : guard);
    this.#serve({ unix: this.#socket }, here(admit));
    chmodSync(this.#socket, 0o600);
    if (control === null) {
      this.url = null;
      return;
    }
    const { port, hostname, token } = control;
    try {
      const guard = here((request, url) => admitTcp(request, url, token));
      this.url = this.#serve({ port, hostname, reusePort: options.shared }, guard).url;
    } catch (cause) {
      this.close();
      throw new SlotbusError(
        "RESOURCE",
        `Cannot listen on the control port ${hostname}:${port}: another process may use it.`,
        {
          cause,
        },
      );
    }
  }

  /** Also answers workers on other machines. @throws (rejects) {BusExistsError}; `DISCONNECTED`; `PERMISSION_DENIED` */
  async reach(options: ResolvedHubOptions, via: RemoteVia): Promise<void> {
    this.#remote = await RemoteControl.open(options, via, (request) => this.#answer(request, admit));
  }

  /** Lets no more programs connect, and answers those that have connected. */
  async finish(): Promise<void> {
    this.removeSocket();
    await Promise.all([Bun.sleep(GRACE_MS), this.#remote?.close()]);
  }

  async close(): Promise<void> {
    for (const server of this.#servers) void server.stop(true);
    this.removeSocket();
    await this.#remote?.close();
  }

  /** Removes the socket file. Also called when the process exits without {@link close}. */
  removeSocket(): void {
    rmSync(this.#socket, { force: true });
  }

  #serve(
    where: { unix: string } | { port: number; hostname: string; reusePort: boolean },
    guard: Guard,
  ): Server<unknown> {
    const fetch = (request: Request): Promise<Response> => this.#answer(request, guard);
    const maxRequestBodySize = Number.MAX_SAFE_INTEGER; // readBody enforces the limit: Bun's own 413 has no body
    const server = Bun.serve({ ...where, maxRequestBodySize, fetch } as Bun.Serve.Options<undefined>);
    this.#servers.push(server as Server<unknown>);
    return server as Server<unknown>;
  }

  /** Never rejects. */
  async #answer(request: Request, guard: Guard): Promise<Response> {
    try {
      const url = URL.parse(request.url);
      if (!url) throw new Failure(400, "BAD_HOST", "The host header is not a valid host.");
      guard(request, url);
      return await this.#act(request, url.pathname);
    } catch (error) {
      return asFailure(error).toResponse("control");
    }
  }

  async #act(request: Request, path: string): Promise<Response> {
    if (path === "/health") {
      if (request.method === "GET") return Response.json(health(this.#registry));
      throw new Failure(405, "METHOD", "This path is read-only; use GET.", { allow: "GET" });
    }
    if (request.method === "GET" && Object.hasOwn(this.#shown, path)) return Response.json(this.#shown[path]!());
    const action = Object.hasOwn(ACTIONS, path) ? ACTIONS[path] : undefined;
    if (path === COMMANDS_PATH && request.method === "POST") return this.#command(await readBody(request));
    if (!action) throw new Failure(404, "NO_ACTION", `There is no action ${path.slice(0, 200)}.`);
    if (request.method !== "POST") throw new Failure(405, "METHOD", "This action needs POST.", { allow: "POST" });
    return Response.json(await action(await readJson(request), this.#actions));
  }

  /** The body is the length of a worker name, the name, and commands for its WebSockets. */
  async #command(body: Uint8Array): Promise<Response> {
    const end = 1 + (body[0] ?? 0);
    const commands = body.subarray(end);
    try {
      for (const _command of readCommands(commands)); // all of them can be read
    } catch {
      throw new Failure(400, "BAD_COMMANDS", "The body has commands for WebSockets that cannot be read.");
    }
    await this.#actions.command(textOf(body, 1, end), commands);
    return Response.json({});
  }
}

// ---- access -----------------------------------------------------------------------------------------------------------

/** @throws {Failure} for a request that is not allowed. */
type Guard = (request: Request, url: URL) => void;

/** Rejects requests of web pages: a browser sends `origin` or `sec-fetch-site` with them. */
function admit({ headers }: Request): void {
  const site = headers.get("sec-fetch-site") ?? "none";
  if (headers.has("origin") || site !== "none")
    throw new Failure(403, "FROM_A_PAGE", "Web pages may not use the control plane.");
}

/** Also rejects workers: the hub has none on this socket. */
function andNoWorkers(guard: Guard): Guard {
  return (request, url) => {
    guard(request, url);
    if (url.pathname !== REGISTER_PATH) return;
    throw new Failure(400, "OTHER_WIRE", "This hub has its workers over NATS: pass `via` to HubWorker.start too.");
  };
}

/** Also rejects host names: a web page can make its own name resolve to this machine (DNS rebinding). */
function admitTcp(request: Request, url: URL, token: string): void {
  admit(request);
  if (!HOST.test(url.hostname))
    throw new Failure(403, "BAD_HOST", "The host header must be an IP address or localhost.");
  const given = /^bearer +(.+)$/i.exec(request.headers.get("authorization") ?? "")?.[1] ?? "";
  if (isSameToken(given, token)) return;
  throw new Failure(401, "NO_TOKEN", "The control port needs the header `authorization: Bearer <token>`.", {
    "www-authenticate": "Bearer",
  });
}

// ---- actions ----------------------------------------------------------------------------------------------------------

type Json = Record<string, unknown>;
type Action = (body: Json, to: Actions) => Promise<unknown>;

const ACTIONS: Readonly<Record<string, Action>> = {
  [REGISTER_PATH]: async ({ name, routes, pid = null, instance = null, again = false }, to) => {
    const process = {
      pid: pid === null ? null : integer("pid", pid),
      instance: instance === null ? null : text("instance", instance),
    };
    if (typeof again !== "boolean") throw new Failure(400, "BAD_FIELD", "again must be true or false.");
    const { id, bus } = await to.register(text("name", name), routes as RouteRequest[], process, again);
    return { worker_id: id, shm_name: bus };
  },
  "/internal/unregister": async ({ worker_id }, to) => {
    if (!(await to.unregister(text("worker_id", worker_id))))
      throw new Failure(404, "NO_WORKER", "There is no registration with this worker_id.");
    return {};
  },
  "/internal/emit": async ({ source, event_type, data }, to) => {
    return { delivered: await to.emit(text("source", source), text("event_type", event_type), text("data", data)) };
  },
  "/internal/sse-push": async (body, to) => {
    const { path, pattern, params, event_type, data } = body;
    const event = { type: text("event_type", event_type), data: text("data", data) };
    if (path !== undefined) return { delivered: await to.push(text("path", path), event) };
    return { delivered: await to.pushByPattern(text("pattern", pattern), texts("params", params ?? {}), event) };
  },
};

/** As the page and the SDK's watchdog read it. */
export function health(registry: Registry): object {
  const workers = registry.services.flatMap(({ name, bus, registrations }) =>
    registrations.map(({ id, routes, pid }) => ({
      name,
      worker_id: id,
      route_count: routes,
      transport: `${bus.options.via ? "nats" : "shm"}:${bus.name}`,
      pid,
    })),
  );
  return { ok: true, workers };
}

function asFailure(error: unknown): Failure {
  if (error instanceof Failure) return error;
  if (error instanceof SlotbusError) return new Failure(error.retryable ? 503 : 400, error.code, error.message);
  return new Failure(500, "INTERNAL", "The hub failed to handle the request.");
}

async function readJson(request: Request): Promise<Json> {
  const type = request.headers.get("content-type") ?? "";
  const named = JSON.stringify(type.slice(0, 80));
  if (!/^application\/json *(?:;|$)/i.test(type))
    throw new Failure(415, "NO_JSON", `The content-type is ${named}; it must be application/json.`);
  const bytes = await readBody(request);
  try {
    const value: unknown = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
    if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Json;
  } catch {}
  throw new Failure(400, "BAD_JSON", "The body is not a JSON object.");
}

/** Reads at most {@link CONTROL_LIMIT} bytes of a body. @throws {Failure} 413 if the body is larger. */
async function readBody(request: Request): Promise<Uint8Array> {
  const declared = Number(request.headers.get("content-length") ?? 0);
  if (declared > CONTROL_LIMIT) throw tooLarge(CONTROL_LIMIT, declared);
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  try {
    for await (const chunk of request.body ?? []) {
      bytes += chunk.length;
      if (bytes > CONTROL_LIMIT) throw tooLarge(CONTROL_LIMIT);
      chunks.push(chunk);
    }
  } catch (error) {
    throw error instanceof Failure ? error : new Failure(400, "BAD_BODY", "Cannot read the request body.");
  }
  return Buffer.concat(chunks, bytes);
}

function text(name: string, value: unknown): string {
  if (typeof value === "string") return value;
  throw new Failure(400, "BAD_FIELD", `${name} is ${value === undefined ? "missing" : "not text"}.`);
}

function integer(name: string, value: unknown): number {
  if (Number.isSafeInteger(value) && (value as number) >= 0) return value as number;
  throw new Failure(400, "BAD_FIELD", `${name} must be a whole number of 0 or more.`);
}

function texts(name: string, value: unknown): Record<string, string> {
  const isMap =
    typeof value === "object" && value !== null && Object.values(value).every((one) => typeof one === "string");
  if (isMap) return value as Record<string, string>;
  throw new Failure(400, "BAD_FIELD", `${name} must be an object whose values are text.`);
}
