/** Requests that both sides get. */

export interface Asked {
  readonly method: string;
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
}

const ask = (method: string, path: string, headers: Record<string, string> = {}, body = ""): Asked => {
  const length = body === "" && (method === "GET" || method === "HEAD" || method === "OPTIONS");
  return {
    method,
    path,
    headers: length ? headers : { ...headers, "content-length": `${Buffer.byteLength(body)}` },
    body,
  };
};
const each = <T>(values: readonly T[], make: (value: T) => Asked | Asked[]): Asked[] => values.flatMap(make);

const GETS = [
  "/", "/url", "/url?a=1", "/headers", "/address", "/text", "/html", "/json", "/response-json", "/raw", "/raw-unicode", "/none",
  "/no-content", "/reset", "/not-modified", "/empty", "/binary", "/bytes", "/bytes-typed", "/blob", "/form", "/big", "/many",
  "/latin", "/hop", "/redirect", "/redirect/301", "/redirect/absolute", "/redirect/back", "/throw", "/exception", "/reject",
  "/cookies", "/cookies/set", "/stream/bytes", "/stream/text", "/stream/sse", "/stream/now", "/missing", "/params/a/1",
  "/params/a/b", "/wild/", "/wild/a/b", "/cors/text", "/cors-own/text", "/csrf/text", "/etag/text", "/etag-weak/text",
  "/etag/json", "/cache/text", "/basic/text", "/bearer/text", "/limit/text", "/zip/json", "/zip/stream", "/secure/json",
  "/pretty/json", "/pretty/json?pretty", "/id/json", "/timing/text", "/powered/json", "/trim/page", "/trim/page/",
  "/append/page", "/append/page/", "/echo",
]; // prettier-ignore
const FILES = [
  "plain", "empty", "zip", "pdf", "untyped", "space", "typed", "shown", "dated", "big", "201", "404", "own", "slice", "slice-end", "slice-begin",
  "slice-all", "slice-none", "slice-typed", "slice-headers", "part",
].map((name) => `/file/${name}`); // prettier-ignore
const STATIC = [
  "digits.txt",
  "index.html",
  "style.css",
  "code.js",
  "archive.zip",
  "sub/pic.svg",
  "plain",
  "a%20b.bin",
  "",
];
const RANGES = [
  "bytes=0-4", "bytes=5-", "bytes=-3", "bytes=-0", "bytes=-100", "bytes=0-100", "bytes=20-", "bytes=19-", "bytes=25-30",
  "bytes=25-5", "bytes=5-2", "bytes=0-1,3-4", "items=0-1", "bytes=", "bytes=-", "bytes=a-b", "bytes= 0 - 4", "Bytes=0-0",
  "bytes=0-99999999999999999999", "bytes=00-04", "bytes=+1-2",
]; // prettier-ignore
const ODD_PATHS = [
  "//", "//text", "/text/", "/TEXT", "/%74ext", "/te%20xt", "/a/../text", "/a/./text", "/./text", "/%2e%2e/text", "/wild/%2F",
  "/wild/a%20b", "/wild/é".replace("é", "%C3%A9"), "/wild/%F0%9F%98%80", "/wild/a+b", "/wild/a;b=c", "/wild/a,b", "/wild/@:!$&'()*",
  "/wild/[x]", "/wild/{x}", "/wild/a|b", "/wild/a%00b", "/wild/%", "/wild//x", "/wild/x//", "/text?", "/text?a#b", "/text;v=1",
  "/wild/%zz", "/params/a%2Fb/1", "/params/%20/12", `/wild/${"x".repeat(2_000)}`,
]; // prettier-ignore
const QUERIES = [
  "", "?", "?a=1", "?a=1&a=2", "?a", "?a=", "?=1", "?a=%20b+c", "?a=%C3%A9", "?a=%zz", "?a[]=1&a[]=2", "?a=1&&b=2", "?a=1;b=2",
  "?a=b=c", "?a?b", "?%61=1", "?a='\"", "?a=<>", "?a=/../", `?a=${"y".repeat(1_500)}`,
]; // prettier-ignore
const STATUSES = [200, 201, 202, 203, 400, 401, 402, 403, 404, 409, 410, 418, 422, 429, 500, 501, 503, 599];

const FORM = "application/x-www-form-urlencoded";
const MULTIPART = "multipart/form-data; boundary=B";
const parts = (...given: [head: string, text: string][]): string =>
  `${given.map(([head, text]) => `--B\r\nContent-Disposition: form-data; ${head}\r\n\r\n${text}\r\n`).join("")}--B--\r\n`;
const json = (value: unknown): [Record<string, string>, string] => [
  { "content-type": "application/json" },
  JSON.stringify(value),
];

export const honoRequests: readonly Asked[] = [
  ...each(GETS, (path) => [ask("GET", path), ask("HEAD", path)]),
  ...each(FILES, (path) => [ask("GET", path), ask("HEAD", path), ask("GET", path, { range: "bytes=1-2" })]),
  ...each(STATIC, (path) => [ask("GET", `/static/${path}`), ask("GET", `/static/${path}`, { range: "bytes=0-0" })]),
  ...each(RANGES, (range) => [ask("GET", "/file/plain", { range }), ask("GET", "/file/empty", { range })]),
  ask("HEAD", "/file/plain", { range: "bytes=1-2" }),
  ask("GET", "/file/typed", { range: "bytes=50-" }),
  ask("GET", "/file/plain", { range: "bytes=1-2", "if-range": '"x"' }),
  ask("GET", "/file/plain", { range: "bytes=1-2", "if-range": "Tue, 01 Jan 2030 00:00:00 GMT" }),
  ask("GET", "/file/typed", { range: "bytes=1-2", "if-range": '"a"' }),
  ask("GET", "/file/dated", { range: "bytes=1-2", "if-range": "Tue, 01 Jan 2030 00:00:00 GMT" }),
  ask("GET", "/file/dated", { range: "bytes=1-2", "if-range": "Tue, 01 Jan 2031 00:00:00 GMT" }),
  ask("GET", "/file/typed", { range: "bytes=1-2", "if-range": 'W/"a"' }),
  ask("GET", "/static/data.json", { range: "bytes=1-" }),
  ask("HEAD", "/static/data.json"),
  ask("GET", "/file/big", { range: "bytes=100-299999" }),
  ask("POST", "/file/plain", { range: "bytes=1-2" }),
  ask("GET", "/file/zip", { range: "bytes=1-" }),
  ask("GET", "/text", { range: "bytes=1-2" }),
  ask("GET", "/blob", { range: "bytes=1-2" }),
  ...each(ODD_PATHS, (path) => ask("GET", path)),
  ...each(QUERIES, (query) => ask("GET", `/query${query}`)),
  ...each(STATUSES, (status) => ask("GET", `/status/${status}`)),
  ...each(["/cors/text", "/cors-own/text"], (path) => [
    ask("GET", path, { origin: "https://a.test" }),
    ask("GET", path, { origin: "https://b.test" }),
    ask("POST", path, { origin: "https://a.test" }, "x"),
    ask("OPTIONS", path, { origin: "https://a.test", "access-control-request-method": "PUT" }),
    ask("OPTIONS", path, { origin: "https://b.test", "access-control-request-headers": "x-a, x-b" }),
    ask("OPTIONS", path),
  ]),
  ...each(["http://app.test", "https://app.test", "http://else.test", "null"], (origin) => [
    ask("POST", "/csrf/text", { origin, "content-type": FORM }, "a=1"),
    ask("POST", "/csrf/text", { origin, "content-type": "text/plain" }, "a"),
    ask("POST", "/csrf/text", { origin, "content-type": "application/json" }, "{}"),
  ]),
  ask("POST", "/csrf/text", { "content-type": FORM }, "a=1"),
  ask("POST", "/csrf/text", { "content-type": FORM, "sec-fetch-site": "same-origin" }, "a=1"),
  ...each(['"x"', "*", 'W/"x"', '"c9e4b3a4"'], (tag) => ask("GET", "/etag/text", { "if-none-match": tag })),
  ask("GET", "/etag/text", { "if-none-match": '"6b6d7c3ee8a3ec5b8f32ef5a6ab40a8d25ee4d22"' }),
  ask("GET", "/basic/text", { authorization: `Basic ${btoa("ada:secret")}` }),
  ask("GET", "/basic/text", { authorization: `Basic ${btoa("ada:wrong")}` }),
  ask("GET", "/bearer/text", { authorization: "Bearer token" }),
  ask("GET", "/bearer/text", { authorization: "Bearer wrong" }),
  ask("GET", "/bearer/text", { authorization: "Basic x" }),
  ...each(["12345", "1234567890", "12345678901"], (body) => ask("POST", "/limit/text", {}, body)),
  ...each(["gzip", "deflate", "br", "gzip, br;q=0.5", "identity", "*"], (encoding) => [
    ask("GET", "/zip/json", { "accept-encoding": encoding }),
    ask("GET", "/zip/stream", { "accept-encoding": encoding }),
  ]),
  ask("GET", "/id/json", { "x-request-id": "given" }),
  ...each(["PUT", "DELETE", "POST"], (method) =>
    ask("POST", "/override", { "content-type": FORM }, `_method=${method}&a=1`),
  ),
  ...each(["a=1", "a=1; b=2", "a=%C3%A9", "a", "=", 'a="quoted"', "a=1; a=2"], (cookie) =>
    ask("GET", "/cookies", { cookie }),
  ),
  ...each(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"], (method) =>
    ask(method, "/echo", {}, method === "HEAD" ? "" : "body"),
  ),
  ...each(["POST", "PUT", "DELETE", "OPTIONS", "PATCH"], (method) => ask(method, "/text")),
  ask("GET", "/headers", {
    "x-a": "1",
    accept: "text/html",
    "accept-language": "de",
    "user-agent": "test",
    referer: "http://x/",
  }),
  ask("GET", "/headers", { "x-empty": "", "x-spaces": "a  b", "x-comma": "a,b" }),
  ask("GET", "/url", { host: "other.test:8080" }),
  ask("GET", "/url", { host: "UPPER.test" }),
  ask("GET", "/url", { host: "[::1]:90" }),
  ask("GET", "/url", { "x-forwarded-proto": "https", "x-forwarded-host": "else.test" }),
  ask("POST", "/body/json", ...json({ a: [1, "é", null] })),
  ask("POST", "/body/json", { "content-type": "application/json" }, "{"),
  ask("POST", "/body/json", { "content-type": "application/json" }, ""),
  ask("POST", "/body/text", { "content-type": "text/plain" }, "é ☃"),
  ask("POST", "/body/text", {}, "t".repeat(300_000)),
  ask("POST", "/body/form", { "content-type": FORM }, "a=1&b=%C3%A9&a=2&c=x+y"),
  ask(
    "POST",
    "/body/form",
    { "content-type": MULTIPART },
    parts(['name="a"', "1"], ['name="f"; filename="f.txt"', "file"]),
  ),
  ask("POST", "/body/form", { "content-type": MULTIPART }, "--B\r\nbroken"),
  ask("POST", "/body/form", { "content-type": "multipart/form-data" }, "x"),
  ask("POST", "/body/length", { "content-type": "x/y" }, "x".repeat(1_000)),
  ask("POST", "/body/length", {}, "x".repeat(400_000)),
  ask("POST", "/body/ignored", {}, "x".repeat(400_000)),
  ask("POST", "/echo", { "content-type": "application/octet-stream" }, "é\r\n\0".repeat(100)),
];

const KEYS = [
  "/",
  "/url",
  "/address",
  "/text",
  "/number",
  "/boolean",
  "/object",
  "/array",
  "/null",
  "/nothing",
  "/response",
  "/headers",
];
const MORE = [
  "/status/teapot",
  "/status/text",
  "/redirect",
  "/redirect/301",
  "/throw",
  "/id/7",
  "/id/x",
  "/wild/a/b",
  "/cookie",
];
const REST = [
  "/cookie/remove",
  "/all",
  "/head",
  "/missing",
  "/generator",
  "/sse",
  "/group/inner",
  "/guarded",
  "/only-put",
];
const OF_FILES = ["/file", "/file/zip", "/file/bun", "/file/response"];

export const elysiaRequests: readonly Asked[] = [
  ...each([...KEYS, ...MORE, ...REST], (path) => [ask("GET", path), ask("HEAD", path)]),
  ...each(OF_FILES, (path) => [ask("GET", path), ask("HEAD", path), ask("GET", path, { range: "bytes=1-2" })]),
  ask("GET", "/form"),
  ...each(["?n=1", "?n=x", "", "?n=1&text=%C3%A9", "?n=1&n=2"], (query) => ask("GET", `/query${query}`)),
  ...each(["seen=before", "seen=%7B%22a%22%3A1%7D", "other=1"], (cookie) => ask("GET", "/cookie", { cookie })),
  ask("POST", "/json", ...json({ name: "Ada", age: 36 })),
  ask("POST", "/json", ...json({ name: "Ada", age: -1 })),
  ask("POST", "/json", ...json({ name: "Ada" })),
  ask("POST", "/json", { "content-type": "application/json" }, "{"),
  ask("POST", "/json", { "content-type": "text/plain" }, "text"),
  ask("POST", "/text", { "content-type": "text/plain" }, "é"),
  ask("POST", "/any", ...json([1, 2])),
  ask("POST", "/any", { "content-type": FORM }, "a=1&b=2"),
  ask("POST", "/any", { "content-type": MULTIPART }, parts(['name="a"', "1"])),
  ask("POST", "/any", {}, ""),
  ask(
    "POST",
    "/upload",
    { "content-type": MULTIPART },
    parts(['name="file"; filename="f.txt"', "x"], ['name="note"', "n"]),
  ),
  ask("POST", "/upload", { "content-type": MULTIPART }, parts(['name="note"', "n"])),
  ask("PUT", "/only-put", {}, "x"),
  ...each(["POST", "PUT", "PATCH", "DELETE", "OPTIONS"], (method) => ask(method, "/all", {}, "x")),
  ask("GET", "/guarded", { "x-key": "key" }),
  ask("OPTIONS", "/text"),
];
