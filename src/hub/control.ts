/** The control plane: what workers say to the hub, as JSON over HTTP on a socket that only our user can open. */

import { chmodSync, rmSync } from "node:fs";
import { join } from "node:path";
import type { Server } from "bun";
import { isSameToken } from "../check.ts";
import { SlotbusError } from "../errors.ts";
import { Failure, tooLarge } from "./failure.ts";
import { CONTROL_LIMIT, controlSocketOf, type RouteRequest } from "./names.ts";
import type { ResolvedHubOptions } from "./options.ts";
import type { Registry } from "./registry.ts";
import type { EventStreams } from "./sse.ts";

/** Addresses and `localhost`: a name that somebody else resolves is none of them. */
const HOST = /^(?:localhost|\d+\.\d+\.\d+\.\d+|\[[0-9a-f:.]+\])$/;

/** The control socket of a hub and, when it was asked for, the same on a port. Open until {@link close}. */
export class ControlPlane {
  readonly #registry: Registry;
  readonly #streams: EventStreams;
  readonly #socket: string;
  readonly #servers: Server<unknown>[] = [];
  /** Where it listens beside the socket; `null`: nowhere. */
  readonly url: URL | null;

  /** @throws `RESOURCE` when the port cannot be had. */
  constructor(options: ResolvedHubOptions, registry: Registry, streams: EventStreams) {
    const { control, directory, name } = options;
    this.#registry = registry;
    this.#streams = streams;
    this.#socket = join(directory, controlSocketOf(name));
    this.removeSocket(); // of a hub that was killed: the name is ours
    this.#serve({ unix: this.#socket }, admit);
    chmodSync(this.#socket, 0o600);
    if (control === null) {
      this.url = null;
      return;
    }
    const { port, hostname, token } = control;
    try {
      this.url = this.#serve({ port, hostname }, (request, url) => admitTcp(request, url, token)).url;
    } catch (cause) {
      this.close();
      throw new SlotbusError(
        "RESOURCE",
        `Cannot listen on the control port ${hostname}:${port}; another process may use it.`,
        {
          cause,
        },
      );
    }
  }

  close(): void {
    for (const server of this.#servers) void server.stop(true);
    this.removeSocket();
  }

  /** For a process that exits without {@link close}. */
  removeSocket(): void {
    rmSync(this.#socket, { force: true });
  }

  #serve(where: { unix: string } | { port: number; hostname: string }, guard: Guard): Server<unknown> {
    const fetch = (request: Request): Promise<Response> => this.#answer(request, guard);
    const maxRequestBodySize = Number.MAX_SAFE_INTEGER; // Bun's own 413 has no body: readBody counts, and says what is wrong
    const server = Bun.serve({ ...where, maxRequestBodySize, fetch } as Bun.Serve.Options<undefined>);
    this.#servers.push(server as Server<unknown>);
    return server as Server<unknown>;
  }

  /** Never rejects. */
  async #answer(request: Request, guard: Guard): Promise<Response> {
    try {
      const url = URL.parse(request.url);
      if (!url) throw new Failure(400, "BAD_HOST", "the host header is not a valid host.");
      guard(request, url);
      return await this.#act(request, url.pathname);
    } catch (error) {
      return asFailure(error).toResponse("control");
    }
  }

  async #act(request: Request, path: string): Promise<Response> {
    if (path === "/health") {
      if (request.method === "GET") return Response.json(health(this.#registry));
      throw new Failure(405, "METHOD", "this is only read.", { allow: "GET" });
    }
    const action = Object.hasOwn(ACTIONS, path) ? ACTIONS[path] : undefined;
    if (!action) throw new Failure(404, "NO_ACTION", `there is no ${path.slice(0, 200)} here.`);
    if (request.method !== "POST") throw new Failure(405, "METHOD", "an action is a POST.", { allow: "POST" });
    return Response.json(await action(await readJson(request), this.#registry, this.#streams));
  }
}

// ---- who may ask ------------------------------------------------------------------------------------------------------

/** @throws {Failure} for whom it turns away. */
type Guard = (request: Request, url: URL) => void;

/** A web page is nobody's worker: browsers name the origin of what a page sends, and where it comes from. */
function admit({ headers }: Request): void {
  const site = headers.get("sec-fetch-site") ?? "none";
  if (headers.has("origin") || site !== "none") throw new Failure(403, "FROM_A_PAGE", "no page may ask here.");
}

/** A page can have its own name resolve to this machine; then that name is the host. */
function admitTcp(request: Request, url: URL, token: string): void {
  admit(request);
  if (!HOST.test(url.hostname)) throw new Failure(403, "BAD_HOST", "the host must be an address or localhost.");
  const given = /^bearer +(.+)$/i.exec(request.headers.get("authorization") ?? "")?.[1] ?? "";
  if (isSameToken(given, token)) return;
  throw new Failure(401, "NO_TOKEN", "this needs `authorization: Bearer <token>`.", { "www-authenticate": "Bearer" });
}

// ---- what they may ask for --------------------------------------------------------------------------------------------

type Json = Record<string, unknown>;
type Action = (body: Json, registry: Registry, streams: EventStreams) => unknown;

const ACTIONS: Readonly<Record<string, Action>> = {
  "/internal/register": async ({ name, routes, pid = null, again = false }, registry) => {
    const processId = pid === null ? null : integer("pid", pid);
    if (typeof again !== "boolean") throw new Failure(400, "BAD_FIELD", "again is not true or false.");
    const { id, bus } = await registry.register(text("name", name), routes as RouteRequest[], processId);
    if (again) registry.someReturned = true;
    return { worker_id: id, shm_name: bus };
  },
  "/internal/unregister": ({ worker_id }, registry) => {
    if (!registry.unregister(text("worker_id", worker_id))) throw new Failure(404, "NO_WORKER", "that worker is gone.");
    return {};
  },
  "/internal/emit": ({ source, event_type, data }, _registry, streams) => {
    return { delivered: streams.emit(text("source", source), text("event_type", event_type), text("data", data)) };
  },
  "/internal/sse-push": (body, _registry, streams) => {
    const { path, pattern, params, event_type, data } = body;
    const event = { type: text("event_type", event_type), data: text("data", data) };
    if (path !== undefined) return { delivered: streams.push(text("path", path), event) };
    return { delivered: streams.pushByPattern(text("pattern", pattern), texts("params", params ?? {}), event) };
  },
};

/** As the page and the SDK's watchdog read it. */
export function health(registry: Registry): object {
  const workers = registry.services.flatMap(({ name, bus, registrations }) =>
    registrations.map(({ id, routes, pid }) => ({
      name,
      worker_id: id,
      route_count: routes,
      transport: `shm:${bus.name}`,
      pid,
    })),
  );
  return { ok: true, workers };
}

function asFailure(error: unknown): Failure {
  if (error instanceof Failure) return error;
  if (error instanceof SlotbusError) return new Failure(error.retryable ? 503 : 400, error.code, error.message);
  return new Failure(500, "INTERNAL", "the hub failed.");
}

async function readJson(request: Request): Promise<Json> {
  const type = request.headers.get("content-type") ?? "";
  const named = JSON.stringify(type.slice(0, 80));
  if (!/^application\/json *(?:;|$)/i.test(type))
    throw new Failure(415, "NO_JSON", `the content-type is ${named}, not application/json.`);
  const bytes = await readBody(request);
  try {
    const value: unknown = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
    if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Json;
  } catch {}
  throw new Failure(400, "BAD_JSON", "the body is not a JSON object.");
}

/** Reads a body of at most {@link CONTROL_LIMIT} bytes, however large the body is. */
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
    throw error instanceof Failure ? error : new Failure(400, "BAD_BODY", "the body could not be read.");
  }
  return Buffer.concat(chunks, bytes);
}

function text(name: string, value: unknown): string {
  if (typeof value === "string") return value;
  throw new Failure(400, "BAD_FIELD", `${name} is ${value === undefined ? "missing" : "not text"}.`);
}

function integer(name: string, value: unknown): number {
  if (Number.isSafeInteger(value) && (value as number) >= 0) return value as number;
  throw new Failure(400, "BAD_FIELD", `${name} is not a whole number.`);
}

function texts(name: string, value: unknown): Record<string, string> {
  const isMap =
    typeof value === "object" && value !== null && Object.values(value).every((one) => typeof one === "string");
  if (isMap) return value as Record<string, string>;
  throw new Failure(400, "BAD_FIELD", `${name} is not an object of texts.`);
}
