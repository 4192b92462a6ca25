/** What clients and workers may do to a hub, byte by byte: no crash, no smuggling, no delay for other clients. */

import { afterAll, beforeAll, beforeEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { Arena, bodyOffset, encodeHead } from "../src/bus/codec.ts";
import type { HubError } from "../src/errors.ts";
import { get, post, Wire, Wires } from "./hub-wire.ts";
import { C } from "../src/native/library.ts";
import { RawWorker } from "./raw-worker.ts";
import { leaves } from "./leaks.ts";
import { type Child, rejection, until } from "./support.ts";

setDefaultTimeout(30_000); // longer than any `until`

const LIMIT = 300_000;
const SMUGGLED = get("/t/smuggled");
const CHUNKED = "Transfer-Encoding: chunked";
const length = (bytes: number | string): string => `Content-Length: ${bytes}`;

let wires: Wires;
let worker: Child;

/**
 * Requests that reached the worker whole since the last call. Sends one more request first, and waits until it arrives. A handler
 * whose body broke off has no request; it says so at any later time.
 */
async function seen(): Promise<string[]> {
  const mark = `/t/mark-${crypto.randomUUID()}`;
  expect(await wires.status(get(mark))).toBe(200);
  await until(() => worker.lines.includes(`saw GET ${mark}`), "the worker sees the mark");
  const lines = worker.lines.filter((line) => /^saw [A-Z]+ /.test(line) && !line.endsWith(mark));
  worker.lines.length = 0;
  return lines;
}

beforeAll(async () => {
  wires = await Wires.open({ payloadBytes: LIMIT, bodyTimeout: 300, timeout: 20_000 });
  worker = await wires.worker();
});
afterAll(() => wires[Symbol.asyncDispose]());
beforeEach(() => leaves(/^armed timer/)); // the hub outlives each test, and its timers with it

describe("a request that two servers would parse differently", () => {
  const refused: [what: string, bytes: string, status: number][] = [
    ["content-length, then chunked", post("/t/a", [length(5), CHUNKED], `0\r\n\r\n${SMUGGLED}`), 400],
    ["chunked, then content-length", post("/t/a", [CHUNKED, length(4)], `0\r\n\r\n${SMUGGLED}`), 400],
    ["two lengths, the first 0", post("/t/a", [length(0), length(SMUGGLED.length)], SMUGGLED), 400],
    ["two lengths, the last 0", post("/t/a", [length(SMUGGLED.length), length(0)], SMUGGLED), 400],
    ["one length twice", post("/t/a", [length(3), length(3)], "abc"), 400],
    ["a list of lengths", post("/t/a", [length("3, 3")], "abc"), 400],
    ["a length with a sign", post("/t/a", [length("+3")], "abc"), 400],
    ["a negative length", post("/t/a", [length("-3")], "abc"), 400],
    ["a length in hexadecimal", post("/t/a", [length("0x3")], "abc"), 400],
    ["a length with letters", post("/t/a", [length("3a")], "abc"), 400],
    ["an empty length", post("/t/a", [length("")], "abc"), 400],
    ["a length beyond 64 bits", post("/t/a", [length("99999999999999999999")], "abc"), 400],
    ["a length in a folded line", post("/t/a", ["X: y", ` ${length(SMUGGLED.length)}`], SMUGGLED), 400],
    ["chunked in a folded line", post("/t/a", ["Transfer-Encoding:", " chunked"], `0\r\n\r\n${SMUGGLED}`), 400],
    ["a space before the colon of a length", post("/t/a", [`Content-Length : ${SMUGGLED.length}`], SMUGGLED), 400],
    ["a space before the colon of chunked", post("/t/a", ["Transfer-Encoding : chunked"], `0\r\n\r\n${SMUGGLED}`), 400],
    ["a tab before the colon", post("/t/a", ["Transfer-Encoding\t: chunked", length(0)], `0\r\n\r\n${SMUGGLED}`), 400],
    ["chunked in two headers", post("/t/a", [CHUNKED, CHUNKED], `0\r\n\r\n${SMUGGLED}`), 400],
    ["chunked, chunked", post("/t/a", [`${CHUNKED}, chunked`], `0\r\n\r\n${SMUGGLED}`), 400],
    ["chunked, identity", post("/t/a", [`${CHUNKED}, identity`], `0\r\n\r\n${SMUGGLED}`), 400],
    ["identity", post("/t/a", ["Transfer-Encoding: identity"], SMUGGLED), 400],
    ["xchunked", post("/t/a", ["Transfer-Encoding: xchunked"], `0\r\n\r\n${SMUGGLED}`), 400],
    ["chunked behind a vertical tab", post("/t/a", ["Transfer-Encoding: \x0bchunked"], `0\r\n\r\n${SMUGGLED}`), 400],
    ["chunked of HTTP/1.0", post("/t/a", [CHUNKED], `0\r\n\r\n${SMUGGLED}`).replace("1.1", "1.0"), 400],
    ["lines that end in LF alone", `POST /t/a HTTP/1.1\nHost: h\n${length(0)}\n\n${SMUGGLED}`, 505],
    ["one line that ends in LF alone", post("/t/a", [`X: y\n${CHUNKED}`], `0\r\n\r\n${SMUGGLED}`), 400],
    ["a CR alone", post("/t/a", [`X: y\r${CHUNKED}`], `0\r\n\r\n${SMUGGLED}`), 400],
    ["a NUL in a header", post("/t/a", ["X: a\0b", length(0)], SMUGGLED), 400],
    ["no host", `GET /t/a HTTP/1.1\r\n\r\n${SMUGGLED}`, 400],
    ["HTTP/1.2", get("/t/a").replace("1.1", "1.2"), 505],
    ["HTTP/0.9", "GET /t/a\r\n\r\n", 505],
  ];

  test.each(refused)("by %s, is refused, and does not reach the worker", async (_what, bytes, status) => {
    const wire = wires.send(bytes);
    expect(await wire.answered()).toBe(status);
    if (!bytes.includes(`${length(3)}\r\n${length(3)}`)) await until(() => wire.ended, "the connection is closed");
    expect(wire.statuses).toEqual([status]);
    expect(await seen()).toEqual([]);
  });

  // Bun's server has begun to answer when it reads these: the request fails for its worker too, or has no body.
  const broken: [what: string, rest: string][] = [
    ["a size that is not a number", `zz\r\nabc\r\n0\r\n\r\n${SMUGGLED}`],
    ["a negative size", `-3\r\nabc\r\n0\r\n\r\n${SMUGGLED}`],
    ["a size with 0x", `0x3\r\nabc\r\n0\r\n\r\n${SMUGGLED}`],
    ["no size", `\r\nabc\r\n0\r\n\r\n${SMUGGLED}`],
    ["a size beyond 64 bits", `10000000000000003\r\nabc\r\n0\r\n\r\n${SMUGGLED}`],
    ["lines that end in LF alone", `3\nabc\n0\n\n${SMUGGLED}`],
    ["an extension with LF", `3;a\nxx\r\nabc\r\n0\r\n\r\n${SMUGGLED}`],
    ["more bytes than its size says", `3\r\nabcdef\r\n0\r\n\r\n${SMUGGLED}`],
    ["something else than CRLF behind it", `3\r\nabcXX0\r\n\r\n${SMUGGLED}`],
  ];

  test.each(broken)("by a chunk with %s, is refused, and nothing after it is served", async (_what, rest) => {
    const wire = wires.send(post("/t/a", [CHUNKED], rest));
    await until(() => wire.ended, "the connection is closed");
    expect(wire.statuses).toEqual([400]);
    expect(await seen()).toEqual([]);
  });

  test.each([
    ["fields", "X-T: 1\r\n\r\n"],
    ["a request", SMUGGLED],
  ])(
    "by a trailer of %s: the request is answered, the trailer is not served, the connection ends",
    async (_, trailer) => {
      const wire = wires.send(post("/t/a", [CHUNKED], `3\r\nabc\r\n0\r\n${trailer}`));
      await until(() => wire.ended, "the connection is closed");
      expect(wire.statuses.at(-1)).toBe(400);
      expect((await seen()).filter((line) => line !== "saw POST /t/a")).toEqual([]);
    },
  );

  test("headers named like members of an object are ordinary headers", async () => {
    const names = ["__proto__", "constructor", "toString", "hasOwnProperty", "1"];
    const wire = wires.send(
      get("/headers").replace("Host", `${names.map((name) => `${name}: v-${name}\r\n`).join("")}Host`),
    );
    await until(() => wire.text.includes("v-hasOwnProperty"), "the answer");
    for (const name of names) expect(wire.text).toContain(JSON.stringify([name.toLowerCase(), `v-${name}`]));
  });

  test("a body of a GET is not read as a second request", async () => {
    const wire = wires.send(`GET /t/a HTTP/1.1\r\nHost: h\r\n${length(SMUGGLED.length)}\r\n\r\n${SMUGGLED}`);
    await wire.answered();
    wire.send(get("/t/b"));
    await until(() => wire.statuses.length === 2, "the second answer");
    expect(await seen()).toEqual(["saw GET /t/a", "saw GET /t/b"]);
  });

  test("a body that is refused unread is not read as a second request", async () => {
    const wire = wires.send(post("/t/a", [length(LIMIT + 1)], SMUGGLED.repeat(LIMIT / SMUGGLED.length + 2)));
    expect(await wire.answered()).toBe(413);
    expect((await seen()).filter((line) => line !== "saw GET /t/smuggled")).toEqual([]);
    expect(wire.statuses.filter((status) => status === 200)).toEqual([]);
  });

  test("a request sent before the last answer: the connection ends, and the request is not served", async () => {
    const wire = wires.send(get("/t/1") + get("/t/2"));
    await until(() => wire.ended, "the connection is closed");
    expect(wire.text).not.toContain("/t/2");
    expect(await seen()).not.toContain("saw GET /t/2");
  });
});

describe("a host", () => {
  const to = (host: string, path = "/t/a"): string => `GET ${path} HTTP/1.1\r\nHost: ${host}\r\n\r\n`;

  test.each(["", "h/internal/register?", "h?x", "h#x", "a@b", "h x", "a\r\nHost: b", "h,i"])(
    "%j is 400, and no other path is served for it",
    async (host) => {
      expect(await wires.status(to(host, "/x/t/a"))).toBe(host.includes(",") || host.includes("\r") ? 404 : 400);
      expect(await wires.status(to(host))).toBe(400);
      expect(await seen()).toEqual([]);
    },
  );

  test("of any name is accepted", async () => {
    for (const host of ["h", "h:80", "[::1]:80", "EXAMPLE.org"]) expect(await wires.status(to(host))).toBe(200);
    await seen();
  });
});

describe("paths of the control plane are 404 on the public port", () => {
  test.each([
    "/internal",
    "/internal/",
    "/internal/register",
    "/%69nternal/register",
    "/internal%2fregister",
    "/internal%2Fregister",
    "//internal/register",
    "/./internal/register",
    "/x/../internal/register",
    "/x/%2e%2e/internal/register",
    "/.%2e/internal/register",
    "/\\internal\\register",
    "/internal;x/register",
    "/internal/register/",
    "/internal/register?x",
    "/INTERNAL/register",
    "/internal/register%00",
    "http://evil/internal/register",
    "https://evil:99/internal/emit",
    "/__ping__",
    "/%5F_ping__",
    "/__sse__",
    "/_%5fsse__",
  ])("POST %s", async (path) => {
    const body = JSON.stringify({ name: "evil", routes: [], source: "s", event_type: "t", data: "" });
    const wire = wires.send(post(path, ["Content-Type: application/json", length(body.length)], body));
    expect(await wire.answered()).toBe(404);
    expect(wire.text).toContain("NO_ROUTE");
    const { workers } = await wires.client().call<{ workers: { name: string }[] }>("/health");
    expect(workers.map(({ name }) => name)).not.toContain("evil");
  });

  test.each([
    ["OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", 400],
    ["CONNECT h:80 HTTP/1.1\r\nHost: h\r\n\r\n", 400],
    ["CONNECT h:80/t/a HTTP/1.1\r\nHost: h\r\n\r\n", 400],
    ["TRACE /t/a HTTP/1.1\r\nHost: h\r\n\r\n", 405],
    ["GET t/a HTTP/1.1\r\nHost: h\r\n\r\n", 400],
    ["BREW /t/a HTTP/1.1\r\nHost: h\r\n\r\n", 0],
    ["\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400],
  ])("%j is %d, and reaches no worker", async (bytes, status) => {
    expect(await wires.status(bytes)).toBe(status);
    expect(await seen()).toEqual([]);
  });

  test("an unusual spelling of a worker's path is that path or 404, never another path", async () => {
    for (const path of ["//t/a", "/t//a/", "/T/a", "/t%2fa", "/%74/a"]) {
      const wire = wires.send(get(path));
      const status = await wire.answered();
      if (status === 200) expect(wire.text).toContain(JSON.stringify(path));
      else expect(status).toBe(404);
    }
    await seen();
  });
});

describe("too much", () => {
  test.each([
    ["a header of 20 KB", get("/t/a").replace("Host", `X: ${"a".repeat(20_000)}\r\nHost`), 431],
    ["a path of 20 KB", get(`/t/${"a".repeat(20_000)}`), 431],
    ["1000 headers", get("/t/a").replace("Host", `${"X: 1\r\n".repeat(1_000)}Host`), 431],
  ])("of head: %s is 431", async (_what, bytes, status) => {
    expect(await wires.status(bytes)).toBe(status);
    expect(await seen()).toEqual([]);
  });

  test("a header of 12 KB and 120 headers are not too much", async () => {
    expect(await wires.status(get("/t/a").replace("Host", `X: ${"a".repeat(12_000)}\r\nHost`))).toBe(200);
    const many = Array.from({ length: 120 }, (_, i) => `X-${i}: ${i}\r\n`).join("");
    expect(await wires.status(get("/t/a").replace("Host", `${many}Host`))).toBe(200);
    await seen();
  });

  test("a body one byte above the limit is 413, declared or in chunks; a body of the limit is accepted", async () => {
    const body = "a".repeat(LIMIT);
    const chunks = (bytes: number): string => `${bytes.toString(16)}\r\n${"a".repeat(bytes)}\r\n0\r\n\r\n`;
    expect(await wires.status(post("/t/a", [length(LIMIT)], body))).toBe(200);
    expect(await wires.status(post("/t/a", [CHUNKED], chunks(LIMIT)))).toBe(200);
    await seen();
    expect(await wires.status(post("/t/a", [length(LIMIT + 1)], ""))).toBe(413); // none of it was read
    expect(await wires.status(post("/t/a", [length(LIMIT + 1)], `${body}a`))).toBe(413);
    expect(await seen()).toEqual([]);
    expect(await wires.status(post("/t/a", [CHUNKED], chunks(LIMIT + 1)))).toBe(413);
    expect(await seen()).toEqual([]);
  });

  test("an endless body in chunks is 413 above the limit, and takes no more memory than that", async () => {
    await seen();
    const before = wires.memory;
    const wire = wires.send(post("/t/a", [CHUNKED], ""));
    const chunk = `${(65_536).toString(16)}\r\n${"a".repeat(65_536)}\r\n`;
    const write = (): void => {
      while (!wire.ended && wire.status === 0 && wire.socket.write(chunk));
    };
    wire.socket.on("drain", write);
    write();
    expect(await wire.answered()).toBe(413);
    wire.close();
    expect(await seen()).toEqual([]);
    expect(wires.memory - before).toBeLessThan(64);
  });
});

describe("a slow client", () => {
  let late: Wire;
  beforeAll(() => {
    late = wires.send(get("/late?ms=13000"));
  });

  test("with its head delays no other request, and times out", async () => {
    const slow = Array.from({ length: 200 }, () => wires.send("GET /t/slow-"));
    for (let i = 0; i < 10; i++) expect(await wires.status(get(`/t/${i}`), 2_000)).toBe(200);
    // A byte now and then does not help: the whole head has one timeout.
    const drip = setInterval(() => slow.slice(0, 20).forEach((wire) => wire.send("x")), 500);
    await until(() => slow.every((wire) => wire.ended), "all slow heads are given up", 30_000);
    clearInterval(drip);
    for (const wire of slow) expect(wire.status).toBe(0);
    for (const line of await seen()) expect(line).not.toContain("slow");
  }, 40_000);

  test.each([
    ["declared", post("/t/a", [length(100)], "some")],
    ["of more than is read whole", post("/t/a", [length(LIMIT)], "some")],
    ["in chunks", post("/t/a", [CHUNKED], "4\r\nsome\r\n")],
  ])("bodies, %s, are 408 and hold no slot", async (_what, bytes) => {
    const slow = Array.from({ length: 40 }, () => wires.send(bytes)); // more than there are slots
    for (const wire of slow) expect(await wire.answered()).toBe(408);
    await seen();
    expect(await wires.status(get("/t/a"), 2_000)).toBe(200);
    expect(await seen()).toEqual(["saw GET /t/a"]);
  });

  test("may wait for a worker for the hub's timeout, not only for a connection's idle time", async () => {
    expect(await late.answered(18_000)).toBe(200);
  });
});

describe("a worker", () => {
  test.each(["line-feed", "carriage-return", "nul", "name-with-colon", "name-with-space", "no-name"])(
    "that answers with a header of %s: 500, and no header is injected",
    async (what) => {
      const wire = wires.send(get(`/evil/${what}`));
      expect(await wire.answered()).toBe(500);
      await seen();
      expect(wire.text.toLowerCase()).not.toContain("injected");
      expect(wire.statuses).toEqual([500]);
    },
  );

  test("that answers with a line break in its content type: 500", async () => {
    const wire = wires.send(get("/evil-type"));
    expect(await wire.answered()).toBe(500);
    expect(wire.text).not.toContain("injected");
  });

  test.each(["length", "lengths", "chunked"])("that says a %s of its own: the hub says the true one", async (what) => {
    const wire = wires.send(get(`/evil/${what}`));
    expect(await wire.answered()).toBe(200);
    await until(() => wire.text.endsWith("\r\n\r\nbody"), "the body");
    expect(wire.text.match(/content-length: \d+/gi)).toEqual(["Content-Length: 4"]);
    expect(wire.text).not.toMatch(/transfer-encoding/i);
    wire.send(get("/t/next")); // both sides agree where the answer ended
    await until(() => wire.statuses.length === 2, "the next answer");
    await seen();
  });

  test("that declares a length for a streamed body: the hub frames the body", async () => {
    const wire = wires.send(get("/evil-stream"));
    await until(() => wire.text.endsWith("\r\n0\r\n\r\n"), "the end");
    expect(wire.text).toMatch(/transfer-encoding: chunked/i);
    expect(wire.text).not.toMatch(/content-length/i);
    wire.send(get("/t/next"));
    await until(() => wire.statuses.length === 2, "the next answer");
    await seen();
  });

  test("that sets cookies: each is its own header, in order", async () => {
    const wire = wires.send(get("/evil/cookies"));
    await wire.answered();
    const cookies = [...wire.text.matchAll(/^set-cookie: (.*)\r$/gim)].map(([, value]) => value);
    expect(cookies).toEqual(["a=1; Path=/", "b=2", "a=1; Path=/"]);
  });

  test.each([100, 101, 199, 99, 0, 600, 1_000])("that answers with status %d: 500", async (code) => {
    expect(await wires.status(get(`/status/${code}`))).toBe(500);
  });

  const routes = [{ method: "GET", path: "/raw" }];

  /** A raw worker that has claimed a request, and wrote this head for its answer, with `body` after it. */
  async function claimed(strings: readonly string[], body = "") {
    await wires.client().call("/internal/register", { name: "raw", routes });
    const raw = await RawWorker.open(wires.workspace.directory, "hub.raw");
    const wire = wires.send(get("/raw"));
    await raw.take();
    const scratch = new Arena(new ArrayBuffer(4_096));
    const head = encodeHead(scratch, strings, 0, strings.length, 4_096, "response", true);
    scratch.write(body, bodyOffset(head));
    raw.arena.set(scratch.bytes);
    return { raw, wire, head, complete: () => raw.complete(head, bodyOffset(head), body.length, 200) };
  }

  test.each([
    ["value", ["text/plain", "x-a", "1\r\nx-injected: 1\r\n\r\nHTTP/1.1 200 OK"]],
    ["name", ["text/plain", "x-a: 1\r\nx-injected", "1"]],
    ["NUL", ["text/plain", "x-a", "1\0x-injected"]],
    ["content type", ["text/plain\r\nx-injected: 1"]],
    ["header without a name", ["text/plain", "", "x-injected"]],
  ])("that writes an evil %s past the SDK: 502, and no header is injected", async (_what, strings) => {
    const { raw, wire, complete } = await claimed(strings);
    complete();
    expect(await wire.answered()).toBe(502);
    expect(wire.text).not.toContain("injected");
    expect(wire.statuses).toEqual([502]);
    raw.close();
  });

  test("that starts a stream with such a head: 502, and the stream is cancelled", async () => {
    const { raw, wire, head } = await claimed(["text/plain", "x-a: 1\r\nx-injected", "1"]);
    raw.begin(head);
    expect(await wire.answered()).toBe(502);
    expect(wire.text).not.toContain("injected");
    await until(() => (raw.word & 15n) === BigInt(C.SB_ABANDONED), "the slot is given up");
    raw.close();
  });

  test("that writes wrong lengths past the SDK: the hub sends the true length", async () => {
    const framing = ["Content-Length", "99", "Transfer-Encoding", "chunked", "Connection", "x-b", "x-b", "1"];
    const { raw, wire, complete } = await claimed(["text/plain", ...framing], "four");
    complete();
    expect(await wire.answered()).toBe(200);
    await until(() => wire.text.endsWith("\r\n\r\nfour"), "the body");
    expect(wire.text).toMatch(/\r\nContent-Length: 4\r\n/i);
    expect(wire.text).not.toMatch(/: 99|chunked|x-b/i);
    raw.close();
  });

  test("that dies with a request gives 502; after its body began, the body breaks off", async () => {
    await using own = await Wires.open();
    await own.worker();
    expect(await own.status(get("/die"))).toBe(502);
    const second = await own.worker();
    const wire = own.send(get("/die-later"));
    await until(() => wire.text.includes("begun"), "the first piece");
    expect(wire.text).toMatch(/transfer-encoding: chunked/i);
    await second.kill();
    await until(() => wire.ended, "the connection is closed");
    expect(wire.status).toBe(200);
    expect(wire.text).not.toMatch(/\r\n0\r\n/); // what a client would take for the end
    expect(await own.status(get("/t/a"))).toBe(503);
  });
});

describe("an event", () => {
  test.each(["a\nb", "a\rb", "a\0b", "\n", "", "a\r\ndata: forged"])(
    "of type %j is refused, emitted or pushed",
    async (type) => {
      const client = wires.client();
      const emitted = await rejection<HubError>(
        client.call("/internal/emit", { source: "s", event_type: type, data: "" }),
      );
      expect([emitted.status, emitted.reason]).toEqual([400, "INVALID_CONFIG"]);
      for (const to of [{ path: "/feed/1" }, { pattern: "/feed/:room", params: {} }]) {
        const pushed = await rejection<HubError>(
          client.call("/internal/sse-push", { ...to, event_type: type, data: "" }),
        );
        expect([pushed.status, pushed.reason]).toEqual([400, "INVALID_CONFIG"]);
      }
    },
  );

  test("with a type of 256 characters is accepted, of 257 refused", async () => {
    const emit = (length: number): Promise<object> =>
      wires.client().call("/internal/emit", { source: "s", event_type: "x".repeat(length), data: "" });
    expect(await emit(256)).toEqual({ delivered: 0 });
    expect((await rejection<HubError>(emit(257))).status).toBe(400);
  });

  test("cannot forge a field by its data or its source", async () => {
    const streams = [wires.send(get("/events")), wires.send(get("/feed/1"))];
    for (const stream of streams) await until(() => stream.text.includes(":\n\n"), "the stream begins");
    const client = wires.client();
    for (const data of ["a\nevent: forged", "a\r\rid: forged", "a\rdata:forged", "a\r\n\r\nretry: 1"]) {
      await client.call("/internal/emit", { source: "s\nevent: forged", event_type: "t", data });
      await client.call("/internal/sse-push", { path: "/feed/1", event_type: "t", data });
    }
    for (const stream of streams) {
      await until(() => stream.text.includes("retry"), "the last event");
      const body = stream.text.split("\r\n\r\n").slice(1).join("\r\n\r\n");
      for (const line of body.split(/[\r\n]+/))
        expect(line).toMatch(/^(?::?|[0-9a-f]+|id: [\w.]+-\d+|event: t|data: .*)$/);
      stream.close();
    }
  });

  test("for an invalid path is refused, not an error of the hub", async () => {
    for (const path of ["//", "//[", "", "/feed", "/../feed/1/2", "http://x/"]) {
      const error = await rejection<HubError>(
        wires.client().call("/internal/sse-push", { path, event_type: "t", data: "" }),
      );
      expect([path, error.status, error.reason]).toEqual([path, 404, "NO_STREAM"]);
    }
  });

  test("stream accepts an id of any kind", async () => {
    for (const id of ["", "x", "-1", "-", "\xff", "a-99999999999999999999", "e-1\tx"]) {
      const wire = wires.send(get("/events").replace("Host", `Last-Event-ID: ${id}\r\nHost`));
      expect(await wire.answered()).toBe(200);
      wire.close();
    }
  });
});

describe("descriptors", () => {
  test("that idle connections use up: connected clients are answered, and every client after the idle ones left", async () => {
    await using own = await Wires.open({}, "ulimit -n 256");
    await own.worker();
    const kept = own.send(get("/t/first"));
    expect(await kept.answered()).toBe(200);
    const before = own.memory;
    const idle: Wire[] = [];
    for (let i = 0; i < 400; i++) idle.push(new Wire(own.port));
    const full = (): boolean =>
      Bun.spawnSync(["ls", `/proc/${own.hub.pid}/fd`])
        .stdout.toString()
        .split("\n").length > 250;
    await until(full, "the hub has no descriptor left");
    kept.send(get("/t/second"));
    await until(() => kept.statuses.length === 2, "the one that was connected is answered");
    expect(own.memory - before).toBeLessThan(64);
    for (const wire of idle) wire.close();
    expect(await own.status(get("/t/after"))).toBe(200);
    expect(own.hub.process.exitCode).toBeNull();
    await own.worker(); // its control socket accepts connections too
  }, 30_000);
});

describe("a hub", () => {
  test("that is killed and started again under load: each request gets its own answer or an error", async () => {
    await using own = await Wires.open();
    await own.worker();
    const { port } = own;
    const counts = { right: 0, refused: 0, broken: 0 };
    let since = 0;
    let done = false;
    let serial = 0;
    const ask = async (): Promise<void> => {
      while (!done) {
        const path = `/t/${++serial}`;
        const wire = new Wire(port).send(post(path, [length(path.length), "Connection: close"], path));
        await until(() => wire.ended, "an end", 20_000);
        if (wire.status === 0) counts.broken++;
        else if (wire.status === 200) {
          expect(wire.statuses).toEqual([200]);
          expect(wire.text).toEndWith(JSON.stringify({ path, bytes: path.length, start: path }));
          counts.right++;
          since++;
        } else {
          expect([502, 503]).toContain(wire.status);
          counts.refused++;
        }
        wire.close();
        await Bun.sleep(1);
      }
    };
    const load = Array.from({ length: 8 }, ask);
    for (let round = 0; round < 3; round++) {
      since = 0;
      await until(() => since > 20, "right answers", 20_000);
      await own.hub.kill();
      await own.start({ port });
    }
    since = 0;
    await until(() => since > 20, "right answers again", 20_000);
    done = true;
    await Promise.all(load);
    expect(counts.right).toBeGreaterThan(80);
    expect(counts.refused + counts.broken).toBeGreaterThan(0);
  }, 60_000);

  test("that closes ends its event streams, and waits for hung requests only for its timeout", async () => {
    await using own = await Wires.open();
    const worker = await own.worker();
    const streams = [own.send(get("/events")), own.send(get("/feed/1"))];
    for (const stream of streams) await until(() => stream.text.includes(":\n\n"), "the stream begins");
    const hung = own.send(get("/wait"));
    await worker.line("waits");
    own.hub.process.kill("SIGTERM");
    for (const stream of streams)
      await until(() => stream.ended && stream.text.includes("\r\n0\r\n\r\n"), "a true end");
    const ms = Number((await own.hub.line("closed", 12_000)).split(" ")[1]);
    expect(ms).toBeLessThan(7_000); // its limit is 5 s
    expect(hung.status).not.toBe(200);
    expect(await own.hub.process.exited).toBe(0);
  }, 20_000);

  test("has no client, no slot and little more memory when all clients have gone", async () => {
    await seen();
    const before = wires.memory;
    for (let round = 0; round < 5; round++) {
      const all = Array.from({ length: 100 }, (_, i) =>
        wires.send(i % 2 ? get("/events") : i % 4 ? get("/feed/1") : get("/wait")),
      );
      await until(() => all.filter((wire) => wire.status === 200).length >= 75, "streams");
      for (const wire of all) wire.close();
    }
    await until(() => worker.lines.filter((line) => line === "disconnect 1").length === 125, "disconnects");
    const event = { source: "s", event_type: "t", data: "" };
    expect(await wires.client().call<object>("/internal/emit", event)).toEqual({ delivered: 0 });
    const metrics = async (): Promise<string> => {
      const wire = wires.send(get("/_slotbus/metrics").replace("Host: h", "Host: localhost"));
      await until(() => wire.text.includes("\nprocess_cpu_seconds_total "), "the metrics");
      wire.close();
      return wire.text;
    };
    await until(async () => (await metrics()).includes('\nslotbus_hub_in_flight{worker="w"} 0\n'), "no slot in use");
    expect(await metrics()).toContain("\nslotbus_hub_event_clients 0\n");
    expect(wires.memory - before).toBeLessThan(64);
  });
});
