import { describe, expect, test } from "bun:test";
import { InvalidConfigError } from "../src/errors.ts";
import { Failure } from "../src/hub/failure.ts";
import { parsePattern } from "../src/hub/pattern.ts";
import { RouteTable } from "../src/hub/routes.ts";
import { hubOptions } from "../src/hub/options.ts";
import { routeLimits } from "../src/hub/proxy.ts";
import type { Method } from "../src/bus/codec.ts";

const rest = { limits: routeLimits(hubOptions.resolve({}), {}), counts: { requests: 0, errors: 0, ms: 0 } };

function table(...routes: string[]): RouteTable<string> {
  return new RouteTable(
    routes.map((text) => {
      const [method, path] = text.split(" ");
      return { method: method as Method, pattern: parsePattern(path), sse: false, ws: false, ...rest, owner: text };
    }),
  );
}

const found = (routes: RouteTable<string>, method: string, path: string): unknown => {
  const match = routes.find(method, path);
  return match && { ...match.params, "": match.route.owner };
};

describe("patterns", () => {
  test.each([
    ["/", "/"],
    ["/users/:id", "/users/:"],
    ["/users/{id}", "/users/:"],
    ["/users/{other}/", "/users/:"],
    ["/files/*", "/files/**"],
    ["/files/*path", "/files/*"],
    ["/caf%C3%A9", "/caf%C3%A9"],
    ["/café", "/caf%C3%A9"],
    ["/a:b(c)", "/a%3Ab(c)"],
  ])("%s is known by %s, however its parameters are called", (text, key) => {
    expect(parsePattern(text).key).toBe(key);
  });

  test.each([
    ["users"],
    [""],
    [7],
    ["/a//b"],
    ["/a/../b"],
    ["/a/%2e%2E/b"],
    ["/a/./b"],
    ["/a b"],
    ["/a?b=1"],
    ["/a#b"],
    ["/a\\b"],
    ["/a\nb"],
    ["/%zz"],
    ["/:"],
    ["/{}"],
    ["/:1"],
    ["/:a-b"],
    ["/:id/{id}"],
    ["/*/b"],
    ["/**"],
    ["/:id(.*)"],
    ["/{id:\\d+}"],
    [`/${"x".repeat(1_100)}`],
    ["/internal/register"],
    ["/events"],
    ["/health"],
    ["/_slotbus/x"],
    ["/__ping__"],
    ["/__sse__"],
  ])("%p is refused, with the reason", (text) => {
    expect(() => parsePattern(text)).toThrow(InvalidConfigError);
    expect(() => parsePattern(text)).toThrow(/^Invalid route pattern [^]+: [^]+\. Write/);
  });
});

describe("routing", () => {
  test("text wins over a parameter, a parameter over *, in any order of registration", () => {
    const routes = ["GET /u/*rest", "GET /u/:id", "GET /u/me", "GET /u/:id/x", "GET /:a/me"];
    for (const order of [routes, routes.toReversed()]) {
      const all = table(...order);
      expect(found(all, "GET", "/u/me")).toEqual({ "": "GET /u/me" });
      expect(found(all, "GET", "/u/7")).toEqual({ id: "7", "": "GET /u/:id" });
      expect(found(all, "GET", "/u/7/x")).toEqual({ id: "7", "": "GET /u/:id/x" });
      expect(found(all, "GET", "/u/7/y")).toEqual({ rest: "7/y", "": "GET /u/*rest" });
      expect(found(all, "GET", "/w/me")).toEqual({ a: "w", "": "GET /:a/me" });
    }
  });

  test("when text leads to no route, the parameter is tried", () => {
    expect(found(table("GET /a/b/c", "GET /:x/b/d"), "GET", "/a/b/d")).toEqual({ x: "a", "": "GET /:x/b/d" });
  });

  test("a parameter is never empty, and one trailing slash is ignored", () => {
    const all = table("GET /u/:id", "GET /f/*path", "GET /g/*");
    expect(found(all, "GET", "/u/")).toBeNull();
    expect(found(all, "GET", "/u//")).toBeNull();
    expect(found(all, "GET", "/u/7/")).toEqual({ id: "7", "": "GET /u/:id" });
    expect(found(all, "GET", "/f/")).toBeNull();
    expect(found(all, "GET", "/g")).toEqual({ "": "GET /g/*" });
  });

  test("parameters are decoded, with an encoded slash too; text is compared after decoding", () => {
    const all = table("GET /u/:id", "GET /café/:x", "GET /f/*path");
    expect(found(all, "GET", "/u/a%2Fb%20c%C3%A9")).toEqual({ id: "a/b cé", "": "GET /u/:id" });
    expect(found(all, "GET", "/caf%C3%A9/1")).toEqual({ x: "1", "": "GET /café/:x" });
    expect(found(all, "GET", "/f/a%20b/c")).toEqual({ path: "a b/c", "": "GET /f/*path" });
  });

  test("a parameter that is not UTF-8 is 400", () => {
    const all = table("GET /u/:id");
    expect(() => all.find("GET", "/u/%ff")).toThrow(Failure);
    expect(() => all.find("GET", "/u/%")).toThrow("not percent-encoded UTF-8");
  });

  test("HEAD goes to GET's route, or to its own route of the same owner; a wrong method gives the allowed ones", () => {
    const all = table("GET /a", "POST /a", "GET /b", "HEAD /b", "HEAD /c");
    expect(found(all, "HEAD", "/a")).toEqual({ "": "GET /a" });
    expect(found(all, "HEAD", "/b")).toEqual({ "": "GET /b" }); // the HEAD route has another owner
    expect(found(all, "HEAD", "/c")).toEqual({ "": "HEAD /c" });
    const both = (["GET", "HEAD"] as const).map((method) => {
      return { method, pattern: parsePattern("/x"), sse: false, ws: false, ...rest, owner: "one" };
    });
    expect(new RouteTable(both).find("HEAD", "/x")!.route.method).toBe("HEAD");
    expect(found(all, "PUT", "/a")).toBeNull();
    expect(all.allowed("/a")).toEqual(["GET", "POST", "HEAD"]);
    expect(all.allowed("/none")).toEqual([]);
  });

  test("special characters of the router are ordinary text", () => {
    const all = table("GET /a+b", "GET /x(y)", "GET /p*q", "GET /k:v");
    for (const path of ["/a+b", "/x(y)", "/p*q", "/k:v"])
      expect(found(all, "GET", path)).toEqual({ "": `GET ${path}` });
    expect(found(all, "GET", "/aab")).toBeNull();
    expect(found(all, "GET", "/pzq")).toBeNull();
  });
});
