/** The control plane: what workers say to the hub, as JSON over HTTP on a socket that only our user can open. */

import { InvalidNameError, SlotbusError } from "../errors.ts";
import { Failure } from "./failure.ts";
import type { Registry, RouteRequest } from "./registry.ts";
import type { EventStreams } from "./sse.ts";

/** Largest body of a control request, in bytes. */
const LIMIT = 4 << 20;

/** Answers one control request. Never rejects. */
export async function control(request: Request, registry: Registry, streams: EventStreams): Promise<Response> {
  try {
    return await answer(request, registry, streams);
  } catch (error) {
    return asFailure(error).toResponse("control");
  }
}

async function answer(request: Request, registry: Registry, streams: EventStreams): Promise<Response> {
  const { pathname } = new URL(request.url);
  if (pathname === "/health") return Response.json(health(registry));
  const action = ACTIONS[pathname];
  if (!action) throw new Failure(404, "NO_ACTION", `there is no ${pathname} here.`);
  if (request.method !== "POST") throw new Failure(405, "METHOD", "an action is a POST.", { allow: "POST" });
  return Response.json(await action(await readJson(request), registry, streams));
}

type Json = Record<string, unknown>;
type Action = (body: Json, registry: Registry, streams: EventStreams) => unknown;

const ACTIONS: Readonly<Record<string, Action>> = {
  "/internal/register": async ({ name, routes, pid = null }, registry) => {
    const processId = pid === null ? null : integer("pid", pid);
    const { id, bus } = await registry.register(text("name", name), routes as RouteRequest[], processId);
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
  if (error instanceof InvalidNameError) return new Failure(400, "BAD_NAME", error.message);
  if (error instanceof SlotbusError) return new Failure(error.retryable ? 503 : 400, error.code, error.message);
  throw error;
}

async function readJson(request: Request): Promise<Json> {
  const bytes = await request.bytes();
  if (bytes.length > LIMIT) throw new Failure(413, "TOO_LARGE", `a control request has at most ${LIMIT} bytes.`);
  try {
    const value: unknown = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
    if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Json;
  } catch {}
  throw new Failure(400, "BAD_JSON", "the body is no JSON object.");
}

function text(name: string, value: unknown): string {
  if (typeof value === "string") return value;
  throw new Failure(400, "BAD_FIELD", `${name} is ${value === undefined ? "missing" : "no text"}.`);
}

function integer(name: string, value: unknown): number {
  if (Number.isSafeInteger(value) && (value as number) >= 0) return value as number;
  throw new Failure(400, "BAD_FIELD", `${name} is no whole number.`);
}

function texts(name: string, value: unknown): Record<string, string> {
  const isMap =
    typeof value === "object" && value !== null && Object.values(value).every((one) => typeof one === "string");
  if (isMap) return value as Record<string, string>;
  throw new Failure(400, "BAD_FIELD", `${name} is no object of texts.`);
}
