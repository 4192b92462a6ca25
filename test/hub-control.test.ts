/** Who may call a hub's control plane, on its socket or on a port, and which registrations it accepts. */

import { afterAll, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { readdirSync, readFileSync, statSync } from "node:fs";
import { connect, type NetConnectOpts } from "node:net";
import { join } from "node:path";
import { HubError, InvalidConfigError } from "../src/errors.ts";
import { Hub, type HubOptions, type HubRoutes } from "../src/hub/index.ts";
import { Stage } from "./hub-stage.ts";
import { leaves } from "./leaks.ts";
import { rejection, Workspace } from "./support.ts";

const TOKEN = "a-token-of-24-characters";

let stage: Stage;
beforeAll(async () => {
  stage = await Stage.open({ control: { port: 0, token: TOKEN } });
});
afterAll(() => stage[Symbol.asyncDispose]());
beforeEach(() => leaves(/^armed timer/)); // the hub outlives each test, and its timers with it

const socketOf = (): string => join(stage.workspace.directory, "hub.control");

/** The bytes of the answer to these bytes. */
function ask(where: NetConnectOpts, bytes: string): Promise<string> {
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  let answer = "";
  const socket = connect(where, () => socket.write(bytes, "latin1"));
  socket.on("data", (data) => {
    answer += data.toString("latin1");
    const [head, body] = answer.split("\r\n\r\n");
    const bytes = Number(/content-length: (\d+)/i.exec(head!)?.[1] ?? 0);
    if (body !== undefined && body.length >= bytes) socket.destroy();
  });
  socket.on("close", () => resolve(answer));
  socket.on("error", reject);
  return promise;
}

const EMIT = JSON.stringify({ source: "s", event_type: "t", data: "" });
const JSON_TYPE = "Content-Type: application/json";
const BEARER = `Authorization: Bearer ${TOKEN}`;

interface Asked {
  method?: string;
  path?: string;
  host?: string;
  headers?: string[];
  body?: string;
}

const bytesOf = ({ method = "POST", path = "/internal/emit", host = "localhost", headers = [], body = EMIT }: Asked) =>
  `${[`${method} ${path} HTTP/1.1`, `Host: ${host}`, ...headers, `Content-Length: ${body.length}`].join("\r\n")}\r\n\r\n${body}`;

/** Status and code of an answer; expects that no page may read it. */
function outcome(answer: string): string {
  expect(answer.toLowerCase()).not.toContain("access-control-");
  return `${/^HTTP\/1\.1 (\d+)/.exec(answer)?.[1]} ${/"code":"(\w+)"/.exec(answer)?.[1] ?? ""}`.trim();
}

const bySocket = async (asked: Asked): Promise<string> => outcome(await ask({ path: socketOf() }, bytesOf(asked)));
const byPort = async (asked: Asked): Promise<string> =>
  outcome(await ask({ host: "127.0.0.1", port: Number(stage.hub.controlUrl!.port) }, bytesOf(asked)));

/** Headers that a browser always sends for a page. */
const OF_PAGES: [what: string, headers: string[]][] = [
  ["another origin", ["Origin: https://evil.example", JSON_TYPE, BEARER]],
  ["an origin that is withheld", ["Origin: null", "Content-Type: text/plain", BEARER]],
  ["this machine's own pages", ["Origin: http://localhost:3200", JSON_TYPE, BEARER]],
  ["an empty origin", ["Origin:", JSON_TYPE, BEARER]],
  ["cross-site", ["Sec-Fetch-Site: cross-site", JSON_TYPE, BEARER]],
  ["same-site", ["Sec-Fetch-Site: same-site", JSON_TYPE, BEARER]],
  ["same-origin", ["Sec-Fetch-Site: same-origin", JSON_TYPE, BEARER]],
];

describe("the socket", () => {
  test("answers every process that can open it, and only our user can", async () => {
    expect(statSync(socketOf()).mode & 0o777).toBe(0o600);
    expect(statSync(stage.workspace.directory).mode & 0o777).toBe(0o700);
    expect(await bySocket({ headers: [JSON_TYPE], host: "anything" })).toBe("200");
    expect(await bySocket({ headers: [`${JSON_TYPE}; charset=utf-8`] })).toBe("200");
    expect(await bySocket({ method: "GET", path: "/health", body: "" })).toBe("200");
  });

  test.each(OF_PAGES)("refuses %s", async (_what, headers) => {
    expect(await bySocket({ headers })).toBe("403 FROM_A_PAGE");
    expect(await bySocket({ method: "GET", path: "/health", headers, body: "" })).toBe("403 FROM_A_PAGE");
    expect(await bySocket({ method: "OPTIONS", headers, body: "" })).toBe("403 FROM_A_PAGE");
  });

  test.each([
    [{ headers: [] }, "415 NO_JSON"],
    [{ headers: ["Content-Type: text/plain"] }, "415 NO_JSON"],
    [{ headers: ["Content-Type: application/x-www-form-urlencoded"] }, "415 NO_JSON"],
    [{ headers: ["Content-Type: application/jsonp"] }, "415 NO_JSON"],
    [{ headers: [JSON_TYPE], body: "" }, "400 BAD_JSON"],
    [{ headers: [JSON_TYPE], body: "[]" }, "400 BAD_JSON"],
    [{ headers: [JSON_TYPE], body: "null" }, "400 BAD_JSON"],
    [{ headers: [JSON_TYPE], body: '{"source":"\xff"}' }, "400 BAD_JSON"],
    [{ headers: [JSON_TYPE], body: '{"__proto__":{"source":"s"}}' }, "400 BAD_FIELD"],
    [{ headers: [JSON_TYPE], path: "/internal/toString" }, "404 NO_ACTION"],
    [{ headers: [JSON_TYPE], path: "/constructor" }, "404 NO_ACTION"],
    [{ headers: [JSON_TYPE], path: "/internal/emit/" }, "404 NO_ACTION"],
    [{ method: "GET", body: "" }, "405 METHOD"],
    [{ method: "OPTIONS", body: "" }, "405 METHOD"],
    [{ method: "PUT", headers: [JSON_TYPE] }, "405 METHOD"],
    [{ method: "OPTIONS", path: "/health", body: "" }, "405 METHOD"],
    [{ headers: [JSON_TYPE], host: "" }, "400 BAD_HOST"],
    [{ headers: [JSON_TYPE], host: "a b" }, "400 BAD_HOST"],
  ])("answers %j with %s", async (asked, wanted) => {
    expect(await bySocket(asked)).toBe(wanted);
  });

  test("accepts 4 MiB of a request and no more, and the error gives the limit", async () => {
    const body = JSON.stringify({ source: "s", event_type: "t", data: "x".repeat((4 << 20) - 100) });
    expect(body.length).toBeLessThan(4 << 20);
    expect(await bySocket({ headers: [JSON_TYPE], body })).toBe("200");
    const declared = bytesOf({ headers: [JSON_TYPE], body: "" }).replace("Length: 0", `Length: ${(4 << 20) + 1}`);
    const answer = await ask({ path: socketOf() }, declared);
    expect(outcome(answer)).toBe("413 PAYLOAD_TOO_LARGE");
    expect(answer).toContain("The body is 4194305 bytes; the limit is 4194304 bytes.");
    const chunked = (bytes: number): string =>
      bytesOf({ headers: [JSON_TYPE], body: "" }).replace("Content-Length: 0", "Transfer-Encoding: chunked") +
      `${bytes.toString(16)}\r\n${body.padEnd(bytes)}\r\n0\r\n\r\n`;
    expect(outcome(await ask({ path: socketOf() }, chunked(4 << 20)))).toBe("200");
    expect(outcome(await ask({ path: socketOf() }, chunked((4 << 20) + 1)))).toBe("413 PAYLOAD_TOO_LARGE");
    expect(await bySocket({ headers: [JSON_TYPE] })).toBe("200");
  });

  test("an event above the limit is refused before it is sent, with its size and the limit", async () => {
    const emitter = stage.emitter();
    const data = "x".repeat(4 << 20);
    const sends = [
      () => emitter.emit("t", data),
      () => emitter.ssePush("/feed/1", "t", data),
      () => emitter.ssePushByPattern("/feed/:id", {}, "t", data),
    ];
    for (const send of sends) {
      const error = await rejection<HubError>(send());
      expect(error).toBeInstanceOf(HubError);
      expect([error.status, error.reason, error.retryable]).toEqual([413, "PAYLOAD_TOO_LARGE", false]);
      expect(error.message).toMatch(/^The event is 41943\d\d bytes as JSON; hub "hub" accepts at most 4194304\./);
    }
    expect(await emitter.emit("t", data.slice(100))).toBe(0);
  });

  test("a registration above the limit rejects `start`, with its size and the limit", async () => {
    const routes: Record<string, HubRoutes[string]> = {};
    for (let i = 0; i < 5_000; i++) routes[`/${"x".repeat(1_000)}/${i}`] = { GET: () => "" };
    const error = await rejection<HubError>(stage.serve(routes, { name: "big" }));
    expect(error).toBeInstanceOf(HubError);
    expect([error.status, error.reason]).toEqual([413, "PAYLOAD_TOO_LARGE"]);
    expect(error.message).toMatch(/^The registration is 5\d{6} bytes as JSON; hub "hub" accepts at most 4194304\./);
  });
});

describe("the port", () => {
  test("is on the loopback, and answers every client with the token", async () => {
    expect(stage.hub.controlUrl!.hostname).toBe("127.0.0.1");
    for (const host of ["localhost", "127.0.0.1", "127.0.0.1:80", "[::1]:3201", "10.1.2.3"])
      expect(await byPort({ host, headers: [JSON_TYPE, BEARER] })).toBe("200");
    expect(await byPort({ headers: [JSON_TYPE, `authorization: bearer  ${TOKEN}`] })).toBe("200");
    expect(await byPort({ method: "GET", path: "/health", headers: [BEARER], body: "" })).toBe("200");
  });

  test.each([
    [],
    ["Authorization: Bearer"],
    ["Authorization: Bearer wrong-token-wrong-token-wr"],
    [`Authorization: Bearer ${TOKEN}x`],
    [`Authorization: Bearer ${TOKEN.slice(0, -1)}`],
    [`Authorization: Basic ${TOKEN}`],
    [`Authorization: ${TOKEN}`],
    [`X-Authorization: Bearer ${TOKEN}`],
    [`Authorization: Bearer ${TOKEN}`, `Authorization: Bearer ${TOKEN}`],
  ])("asks for it: %j", async (...headers: string[]) => {
    expect(await byPort({ headers: [JSON_TYPE, ...headers] })).toBe("401 NO_TOKEN");
    expect(await byPort({ method: "GET", path: "/health", headers, body: "" })).toBe("401 NO_TOKEN");
    expect(await byPort({ path: `/internal/emit?token=${TOKEN}`, headers: [JSON_TYPE, ...headers] })).toBe(
      "401 NO_TOKEN",
    );
  });

  test.each(OF_PAGES)("refuses %s, with and without the token", async (_what, headers) => {
    expect(await byPort({ headers })).toBe("403 FROM_A_PAGE");
    expect(await byPort({ method: "OPTIONS", headers, body: "" })).toBe("403 FROM_A_PAGE");
  });

  test.each([
    "evil.example",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "localhost.",
    "127.0.0.1@evil.example",
    "",
    "a b",
  ])("refuses the host %j: somebody else says where that is", async (host) => {
    expect(["400 BAD_HOST", "403 BAD_HOST"]).toContain(await byPort({ host, headers: [JSON_TYPE, BEARER] }));
  });

  test("answers a preflight without any permission", async () => {
    const preflight = [
      "Access-Control-Request-Method: POST",
      "Access-Control-Request-Headers: authorization, content-type",
    ];
    expect(await byPort({ method: "OPTIONS", headers: ["Origin: https://evil.example", ...preflight], body: "" })).toBe(
      "403 FROM_A_PAGE",
    );
    expect(await byPort({ method: "OPTIONS", headers: [BEARER, ...preflight], body: "" })).toBe("405 METHOD");
  });

  test("does not serve the routes, and the routes' port does not serve the control plane", async () => {
    expect(await byPort({ method: "GET", path: "/events", headers: [BEARER], body: "" })).toBe("404 NO_ACTION");
    const asked = bytesOf({ path: "/internal/emit", headers: [JSON_TYPE, BEARER] });
    expect(outcome(await ask({ host: "127.0.0.1", port: Number(stage.hub.url!.port) }, asked))).toBe("404 NO_ROUTE");
  });

  test("is open only when configured, and closes with the hub", async () => {
    await using own = await Stage.open();
    expect(own.hub.controlUrl).toBeNull();
    await using other = await Stage.open({ control: { port: 0, token: TOKEN } });
    const url = other.hub.controlUrl!;
    await other.hub.close();
    expect(await rejection(fetch(new URL("/health", url)))).toBeInstanceOf(Error);
  });

  test("that is in use: start rejects with a typed error, and leaves nothing", async () => {
    await using workspace = new Workspace();
    const { directory } = workspace;
    const taken = Number(stage.hub.controlUrl!.port);
    for (const options of [{ port: 0, control: { port: taken, token: TOKEN } }, { port: taken }]) {
      const error = await rejection(Hub.start({ directory, ...options }));
      expect(error).toMatchObject({ code: "RESOURCE" });
      expect(error.message).toContain(`127.0.0.1:${taken}`);
      expect(readdirSync(directory)).toEqual([]);
    }
  });

  test.each([
    [{ control: { port: 0 } as never }, "control.token must be text of 16"],
    [{ control: { token: TOKEN } as never }, "control.port is undefined"],
    [{ control: { port: 70_000, token: TOKEN } }, "control.port is 70000"],
    [{ control: { port: 0, token: "short" } }, "control.token must be text of 16"],
    [{ control: { port: 0, token: "with a space and a line\n" } }, "control.token must be text of 16"],
    [{ control: { port: 0, token: TOKEN, hostname: "" } }, "control.hostname is"],
    [{ control: { port: 0, tokn: TOKEN } as never }, 'control has no option "tokn". Did you mean token?'],
    [{ controlPort: 0 } as never, 'a hub has no option "controlPort".'],
    [{ hostname: "a b" }, "hostname is"],
    [{ spin: -1 }, "spin is -1"],
  ] as [HubOptions, string][])("%j is refused", async (options, message) => {
    await using workspace = new Workspace();
    const error = await rejection(Hub.start({ directory: workspace.directory, ...options }));
    expect(error).toBeInstanceOf(InvalidConfigError);
    expect(error.message).toContain(message);
    if (options.control?.token) expect(error.message).not.toContain(options.control.token);
    expect(readdirSync(workspace.directory)).toEqual([]);
  });
});

describe("a registration", () => {
  const refusal = async (body: object): Promise<string> => {
    const { status, reason } = await rejection<HubError>(stage.client().call("/internal/register", body));
    return `${status} ${reason}`;
  };

  test.each(["../x", "..", ".", "", "*", "a/b", "a\\b", "a\0", "a\nb", "-a", " a", "ä", "%2e%2e"])(
    "under the name %j is refused, and leaves no file",
    async (name) => {
      const before = readdirSync(stage.workspace.directory).sort();
      expect(await refusal({ name, routes: [] })).toBe("400 INVALID_CONFIG");
      expect(readdirSync(stage.workspace.directory).sort()).toEqual(before);
    },
  );

  test.each([[null], [7], [{}], [["a"]], [true]])("under the name %j is refused", async (name) => {
    expect(await refusal({ name, routes: [] })).toBe("400 BAD_FIELD");
  });

  test.each([
    "",
    "a",
    "*",
    "../x",
    "/../x",
    "/a/../b",
    "/a/./b",
    "/a/%2e%2e/b",
    "/a/.%2E/b",
    "//",
    "//a",
    "/a//b",
    "/a/*/b",
    "/*/b",
    "/a/:",
    "/a/:x/:x",
    "/a/{x}/:x",
    "/a/{x",
    "/a/x}",
    "/a/:x-y",
    "/a b",
    "/a\nb",
    "/a\0",
    "/a?x",
    "/a#x",
    "/a%",
    "/a%2",
    "/a%zz",
    "/a\\b",
    "/internal/register",
    "/%69nternal/x",
    "/events",
    "/events/",
    "/health",
    "/%65vents",
    "/_slotbus/x",
    "/__ping__",
    "/__sse__/x",
  ])("of the route %j is refused", async (path) => {
    const before = readdirSync(stage.workspace.directory).sort();
    expect(await refusal({ name: "a", routes: [{ method: "GET", path }] })).toBe("400 BAD_ROUTE");
    expect(readdirSync(stage.workspace.directory).sort()).toEqual(before);
    const { workers } = await stage.client().call<{ workers: unknown[] }>("/health");
    expect(workers).toEqual([]);
  });

  test.each([["get"], ["BREW"], [""], ["GET\r\nX: y"], [null], [["GET"]]])(
    "with the method %j is refused",
    async (method) => {
      expect(await refusal({ name: "a", routes: [{ method, path: "/a" }] })).toBe("400 BAD_ROUTE");
    },
  );

  test("with a name or a pattern that is too long is refused", async () => {
    const name = "x".repeat(61); // with "hub." in front, 65
    expect(await refusal({ name, routes: [] })).toBe("400 INVALID_CONFIG");
    expect(await refusal({ name: name.repeat(2_000), routes: [] })).toBe("400 INVALID_CONFIG");
    const path = `/${"x".repeat(1_024)}`;
    expect(await refusal({ name: "a", routes: [{ method: "GET", path }] })).toBe("400 BAD_ROUTE");
  });

  test("with an invalid list of routes, or too many, is refused", async () => {
    for (const routes of [undefined, null, {}, "GET /a", 7])
      expect(await refusal({ name: "a", routes })).toBe("400 BAD_REGISTRATION");
    for (const route of [null, "GET /a", 7, []])
      expect(await refusal({ name: "a", routes: [route] })).toBe("400 BAD_ROUTE");
    const routes = Array.from({ length: 10_001 }, (_, i) => ({ method: "GET", path: `/a/${i}` }));
    expect(await refusal({ name: "a", routes })).toBe("400 BAD_REGISTRATION");
    expect(await refusal({ name: "a", routes: [], pid: -1 })).toBe("400 BAD_FIELD");
  });

  test("of all paths does not get the hub's own paths", async () => {
    await using own = await Stage.open();
    await own.worker("a", ["GET /*", "POST /*"]);
    const served = async (path: string, method = "GET") => {
      const response = await own.fetch(path, { method });
      return `${response.status} ${(await response.text()).includes('"name":"a"')}`;
    };
    expect(await served("/anything/else")).toBe("200 true");
    for (const path of ["/internal/register", "/internal", "/__ping__", "/__sse__"])
      expect([path, await served(path, "POST")]).toEqual([path, "404 false"]);
    expect((await own.fetch("/_slotbus/health")).headers.get("content-type")).toContain("json");
    expect(((await (await own.fetch("/health")).json()) as { ok: boolean }).ok).toBeTrue();
  });

  test("that fails does not change the previous registration", async () => {
    await using own = await Stage.open();
    await own.worker("a");
    const routes = [
      { method: "GET", path: "/a/users/:id" },
      { method: "GET", path: "/events" },
    ];
    await rejection(own.client().call("/internal/register", { name: "a", routes }));
    expect((await own.fetch("/a/users/1")).status).toBe(200);
    expect((await own.fetch("/a/files/x")).status).toBe(200);
  });

  test("of two workers at once with one name: both stay, and the routes are one worker's", async () => {
    await using own = await Stage.open();
    const register = (path: string) =>
      own.client().call<{ shm_name: string }>("/internal/register", { name: "a", routes: [{ method: "GET", path }] });
    const both = await Promise.all([register("/one"), register("/two")]);
    expect(both.map(({ shm_name }) => shm_name)).toEqual(["hub.a", "hub.a"]);
    const end = new AbortController();
    const asked = ["/one", "/two"].map((path) =>
      own.fetch(path, { signal: end.signal }).then(
        ({ status }) => status,
        () => 0,
      ),
    );
    await Promise.race(asked); // the other waits for its worker
    end.abort();
    const statuses = (await Promise.all(asked)).sort();
    expect(statuses).toEqual([0, 404]);
  });
});

test("docs/hub.md names the codes that the hub answers with, and no others", () => {
  const folder = join(import.meta.dir, "../src/hub");
  const sources = readdirSync(folder).filter((file) => file.endsWith(".ts"));
  const code = sources.map((file) => readFileSync(join(folder, file), "utf8")).join("");
  const used = new Set([...code.matchAll(/new Failure\(\s*(?:\d+|status),\s*"([A-Z_]+)"/g)].map(([, name]) => name!));
  expect(used.size).toBeGreaterThan(20);
  const docs = readFileSync(join(import.meta.dir, "../docs/hub.md"), "utf8");
  const named = new Set([...docs.matchAll(/`([A-Z][A-Z_]{5,})`/g)].map(([, name]) => name!));
  const ofErrors = ["EVICTED", "INVALID_CONFIG"]; // codes of a SlotbusError
  expect([...named].sort()).toEqual([...used, ...ofErrors].sort());
});

test("a hub that exits without close gives its control socket back while it has its name", async () => {
  await using space = new Workspace();
  const program = `
    import { existsSync } from "node:fs";
    import { Hub } from ${JSON.stringify(join(import.meta.dir, "../src/hub/index.ts"))};
    const directory = ${JSON.stringify(space.directory)};
    const look = () => console.log(["control", "lock"].filter((file) => existsSync(directory + "/hub." + file)).join());
    await Hub.start({ port: 0, directory });
    process.on("exit", look); // after the bus's exit listener
    look();
    process.exit();`;
  const child = Bun.spawn([process.execPath, "-e", program], { stdio: ["ignore", "pipe", "inherit"] });
  expect(await child.stdout.text()).toBe("control,lock\n\n");
});
