/** CORS of the hub's own answers: headers as in the Fetch standard (3.2, "HTTP extensions"). */

import { describe, expect, test } from "bun:test";
import { InvalidConfigError } from "../src/errors.ts";
import { Hub, type HubOptions, type HubWorker, sse } from "../src/hub/index.ts";
import { Stage } from "./hub-stage.ts";
import { rejection } from "./support.ts";

const APP = "https://app.example";

/** Status and CORS headers of an answer, without its body. */
async function ask(stage: Stage, path: string, headers: Record<string, string>, method = "GET") {
  const controller = new AbortController();
  const response = await stage.fetch(path, { method, headers, signal: controller.signal });
  controller.abort();
  const of = (name: string): string | null => response.headers.get(`access-control-${name}`);
  return {
    status: response.status,
    origin: of("allow-origin"),
    credentials: of("allow-credentials"),
    vary: response.headers.get("vary"),
    exposed: of("expose-headers"),
    methods: of("allow-methods"),
    headers: of("allow-headers"),
    age: of("max-age"),
  };
}

/** A hub and a worker with routes of all kinds. */
class Site extends Stage {
  #worker!: HubWorker;

  static async of(cors: HubOptions["cors"], more: HubOptions = {}): Promise<Site> {
    const site = new Site();
    await site.start({ ...more, cors });
    site.#worker = await site.serve({
      "/feed/:room": sse({ connect: ({ params }) => params["room"] !== "closed" }),
      "/own": { GET: () => ({ json: {} }), OPTIONS: () => ({ status: 204, headers: [["x-own", "1"]] }) },
      "/apps/*": { fetch: () => new Response("app") },
      "/broken": () => {
        throw new Error("broken");
      },
    });
    site.#worker.on("handlerError", () => {});
    return site;
  }

  override async [Symbol.asyncDispose](): Promise<void> {
    await this.#worker.close({ timeout: 0 });
    await super[Symbol.asyncDispose]();
  }
}

const NONE = { origin: null, credentials: null, exposed: null, methods: null, headers: null, age: null };
const READ = { ...NONE, exposed: "retry-after, x-request-id" };
const preflight = (origin: string, headers?: string, method = "GET"): Record<string, string> => ({
  origin,
  "access-control-request-method": method,
  ...(headers === undefined ? {} : { "access-control-request-headers": headers }),
});

describe("cors of a hub", () => {
  test("is off by default", async () => {
    await using stage = await Site.of(undefined);
    for (const path of ["/events", "/feed/1", "/none"])
      expect(await ask(stage, path, { origin: APP })).toMatchObject({ ...NONE, vary: null });
    expect(await ask(stage, "/events", preflight(APP), "OPTIONS")).toMatchObject({ ...NONE, status: 405 });
  });

  test("by name: these origins, in exact spelling, and no cache gives one origin's answer to another", async () => {
    await using stage = await Site.of({ origins: [APP, "http://localhost:5173", "capacitor://localhost"] });
    for (const path of ["/events", "/feed/1"]) {
      for (const origin of [APP, "http://localhost:5173", "capacitor://localhost"])
        expect(await ask(stage, path, { origin })).toEqual({ ...READ, status: 200, vary: "origin", origin });
      for (const other of [
        `${APP}:443`,
        "https://APP.example",
        "https://xapp.example",
        "https://app.example.evil",
        "null",
        "",
      ])
        expect(await ask(stage, path, { origin: other })).toEqual({ ...NONE, status: 200, vary: "origin" });
      expect(await ask(stage, path, {})).toEqual({ ...NONE, status: 200, vary: "origin" });
    }
  });

  test("for all: a star, without Vary; never with credentials", async () => {
    await using stage = await Site.of({ origins: "*" });
    for (const headers of [{ origin: APP }, { origin: "null" }, {}] as Record<string, string>[])
      expect(await ask(stage, "/events", headers)).toEqual({ ...READ, status: 200, vary: null, origin: "*" });
  });

  test("with credentials it names the origin", async () => {
    await using stage = await Site.of({ origins: [APP], credentials: true });
    const allowed = { ...READ, origin: APP, credentials: "true", vary: "origin" };
    expect(await ask(stage, "/feed/1", { origin: APP, cookie: "a=1" })).toEqual({ ...allowed, status: 200 });
    expect(await ask(stage, "/feed/1", { origin: "https://evil.example" })).toMatchObject(NONE);
    const asked = await ask(stage, "/feed/1", preflight(APP, "authorization"), "OPTIONS");
    expect(asked).toMatchObject({ status: 204, origin: APP, credentials: "true", headers: "authorization" });
  });

  test("its errors are readable too: a page sees the status, not a network error", async () => {
    await using stage = await Site.of({ origins: [APP] }, { goneFor: 0 });
    const errors: [path: string, status: number, method?: string][] = [
      ["/feed/closed", 403],
      ["/feed", 404],
      ["/none", 404],
      ["/events", 405, "POST"],
      ["/feed/%FF", 400],
      ["/broken", 500],
    ];
    for (const [path, status, method] of errors)
      expect([path, await ask(stage, path, { origin: APP }, method)]).toEqual([
        path,
        { ...READ, status, vary: "origin", origin: APP },
      ]);
  });

  test("a route whose worker has gone is 503 with the headers", async () => {
    await using stage = await Stage.open({ cors: { origins: [APP] } });
    const worker = await stage.serve({ "/feed/:room": sse() });
    await worker.close();
    expect(await ask(stage, "/feed/1", { origin: APP })).toMatchObject({ status: 503, origin: APP });
    expect(await ask(stage, "/feed/1", { origin: APP, accept: "text/event-stream" })).toMatchObject({
      status: 200,
      origin: APP,
    });
  });

  test("a preflight for the hub's own pages is answered by the hub", async () => {
    await using stage = await Site.of({ origins: [APP], maxAge: 90_500 });
    const yes = { ...READ, status: 204, vary: "origin", origin: APP, methods: "GET", age: "90" };
    for (const path of ["/events", "/feed/1", "/none"]) {
      expect(await ask(stage, path, preflight(APP), "OPTIONS")).toEqual(yes);
      const headers = "authorization,last-event-id";
      expect(await ask(stage, path, preflight(APP, headers), "OPTIONS")).toEqual({ ...yes, headers });
      expect(await ask(stage, path, preflight("https://evil.example"), "OPTIONS")).toMatchObject({
        origin: null,
        vary: "origin",
      });
    }
    // Not a preflight: an ordinary OPTIONS request.
    expect((await ask(stage, "/feed/1", { origin: APP }, "OPTIONS")).status).toBe(405);
  });

  test("workers set the headers of their own answers and preflights; the hub's own pages have none for other sites", async () => {
    await using stage = await Site.of({ origins: "*" });
    for (const path of ["/own", "/apps/x"])
      expect(await ask(stage, path, { origin: APP })).toMatchObject({ ...NONE, status: 200 });
    expect(await ask(stage, "/own", preflight(APP), "OPTIONS")).toMatchObject({ ...NONE, status: 204 });
    expect(await ask(stage, "/apps/x", preflight(APP), "OPTIONS")).toMatchObject({ ...NONE, status: 200 });
    expect(await ask(stage, "/apps/x", preflight(APP, undefined, "DELETE"), "OPTIONS")).toMatchObject({
      ...NONE,
      status: 200,
    });
    for (const path of [
      "/_slotbus/health",
      "/_slotbus",
      "/_slotbus/none",
      "/health",
      "/internal/register",
      "/__sse__",
    ]) {
      expect([path, await ask(stage, path, { origin: APP })]).toMatchObject([path, NONE]);
      expect([path, await ask(stage, path, preflight(APP), "OPTIONS")]).toMatchObject([path, NONE]);
    }
  });

  test.each([
    [{ origins: "*", credentials: true }, 'cors.credentials is true; it must be false when origins is "*".'],
    [{}, "cors.origins is undefined; it must be a list of origins, or"],
    [{ origins: [] }, "cors.origins is"],
    [{ origins: APP }, "cors.origins is"],
    [{ origins: [`${APP}/`] }, "cors.origins[0] is"],
    [{ origins: [APP, "app.example"] }, "cors.origins[1] is"],
    [{ origins: ["https://app.example:443"] }, "cors.origins[0] is"],
    [{ origins: ["https://*.example"] }, "cors.origins[0] is"],
    [{ origins: ["https://App.example"] }, "cors.origins[0] is"],
    [{ origins: ["null"] }, "cors.origins[0] is"],
    [{ origins: ["*"] }, "cors.origins[0] is"],
    [{ origins: [7] }, "cors.origins[0] is"],
    [{ origin: [APP] }, 'no option "origin"'],
    [{ origins: [APP], maxAge: -1 }, "cors.maxAge is -1"],
  ])("%j is refused", async (cors, said) => {
    const error = await rejection(Hub.start({ port: false, cors: cors as NonNullable<HubOptions["cors"]> }));
    expect(error).toBeInstanceOf(InvalidConfigError);
    expect(error.message).toContain(said);
  });
});
