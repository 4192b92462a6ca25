/** A Hono application that uses Hono's own middleware and helpers. */

import { Hono } from "hono";
import { basicAuth } from "hono/basic-auth";
import { bearerAuth } from "hono/bearer-auth";
import { bodyLimit } from "hono/body-limit";
import { getConnInfo, serveStatic } from "hono/bun";
import { cache } from "hono/cache";
import { compress } from "hono/compress";
import { deleteCookie, getCookie, setCookie, setSignedCookie } from "hono/cookie";
import { cors } from "hono/cors";
import { csrf } from "hono/csrf";
import { etag } from "hono/etag";
import { HTTPException } from "hono/http-exception";
import { methodOverride } from "hono/method-override";
import { poweredBy } from "hono/powered-by";
import { prettyJSON } from "hono/pretty-json";
import { requestId } from "hono/request-id";
import { secureHeaders } from "hono/secure-headers";
import { stream, streamSSE, streamText } from "hono/streaming";
import { timing, setMetric } from "hono/timing";
import { appendTrailingSlash, trimTrailingSlash } from "hono/trailing-slash";

/** Returns a new app for each side, so that they share no state. `files` is a directory, `big` a file of more than 256 KiB. */
export function honoApp(files: string, big: string): Hono {
  const app = new Hono();
  const at = (path: string) => Bun.file(`${files}/${path}`);
  app.onError((error, c) =>
    error instanceof HTTPException ? error.getResponse() : c.text(`failed: ${error.message}`, 500),
  );
  app.notFound((c) => c.json({ missing: c.req.path }, 404));

  app.use("/cors/*", cors());
  app.use("/cors-own/*", cors({ origin: ["https://a.test"], credentials: true, maxAge: 60, exposeHeaders: ["x-b"] }));
  app.use("/csrf/*", csrf());
  app.use("/etag/*", etag());
  app.use("/etag-weak/*", etag({ weak: true }));
  app.use("/cache/*", cache({ cacheName: "differential", cacheControl: "max-age=60", vary: "accept" }));
  app.use("/basic/*", basicAuth({ username: "ada", password: "secret" }));
  app.use("/bearer/*", bearerAuth({ token: "token" }));
  app.use("/limit/*", bodyLimit({ maxSize: 10 }));
  app.use("/zip/*", compress());
  app.use("/secure/*", secureHeaders());
  app.use("/pretty/*", prettyJSON());
  app.use("/id/*", requestId());
  app.use("/timing/*", timing({ total: false }));
  app.use("/powered/*", poweredBy());
  app.use("/override", methodOverride({ app }));

  const slashes = new Hono({ strict: true });
  slashes.use(trimTrailingSlash());
  slashes.get("/page", (c) => c.text("page"));
  app.route("/trim", slashes);
  const appended = new Hono({ strict: true });
  appended.use(appendTrailingSlash());
  appended.get("/page/", (c) => c.text("page/"));
  app.route("/append", appended);

  for (const under of ["cors", "cors-own", "csrf", "etag", "etag-weak", "cache", "basic", "bearer", "limit"]) {
    app.all(`/${under}/text`, async (c) => c.text(`${c.req.method} ${await c.req.text()}`));
  }
  for (const under of ["zip", "secure", "pretty", "id", "powered", "etag"]) {
    app.get(`/${under}/json`, (c) => c.json({ under, text: "x".repeat(2_000) }));
  }
  app.get("/zip/stream", (c) => streamText(c, async (out) => void (await out.write("z".repeat(3_000)))));
  app.get("/timing/text", (c) => {
    setMetric(c, "db", 12.5);
    return c.text("timed");
  });
  app.on(["PUT", "DELETE", "POST"], "/override", (c) => c.text(`overridden: ${c.req.method}`));

  app.get("/", (c) => c.text("root"));
  app.get("/url", (c) => c.json({ url: c.req.url, host: c.req.header("host"), path: c.req.path }));
  app.get("/address", (c) =>
    c.json({ family: getConnInfo(c).remote.addressType, here: !!getConnInfo(c).remote.address }),
  );
  app.get("/headers", (c) => {
    const ofTheWay = /^(connection|x-forwarded-.*|x-request-id)$/;
    return c.json(
      Object.fromEntries(
        Object.entries(c.req.header())
          .filter(([name]) => !ofTheWay.test(name))
          .toSorted(),
      ),
    );
  });
  app.get("/query", (c) =>
    c.json({ one: c.req.query("a") ?? null, all: c.req.queries(), raw: new URL(c.req.url).search }),
  );
  app.get("/params/:a/:b{[0-9]+}", (c) => c.json(c.req.param()));
  app.get("/wild/*", (c) => c.json({ path: c.req.path, url: c.req.url }));
  app.get("/text", (c) => c.text("text"));
  app.get("/html", (c) => c.html("<p>é</p>"));
  app.get("/json", (c) => c.json({ json: true }));
  app.get("/response-json", () => Response.json({ json: true }));
  app.get("/raw", () => new Response("raw"));
  app.get("/raw-unicode", () => new Response("é ☃ 😀"));
  app.get("/none", (c) => c.body(null));
  app.get("/no-content", (c) => c.body(null, 204));
  app.get("/reset", (c) => c.body(null, 205));
  app.get("/not-modified", (c) => c.body(null, 304, { etag: '"x"' }));
  app.get("/empty", () => new Response(""));
  app.get("/binary", () => new Response(Uint8Array.of(0, 255, 254, 1)));
  app.get("/bytes", () => new Response(new TextEncoder().encode("bytes")));
  app.get("/bytes-typed", (c) => c.body(new TextEncoder().encode("bytes"), 200, { "content-type": "x/y" }));
  app.get("/blob", () => new Response(new Blob(["blob"], { type: "a/b" })));
  app.get("/form", () => new Response(new URLSearchParams({ a: "1", b: "é" })));
  app.get("/big", (c) => c.text("big ".repeat(100_000)));
  app.get("/many", (c) => {
    for (let i = 0; i < 40; i++) c.header(`x-${i}`, String(i));
    c.header("x-two", "a");
    c.header("x-two", "b", { append: true });
    return c.text("many");
  });
  app.get("/latin", (c) => c.text("latin", 200, { "x-latin": "é" }));
  app.get("/hop", (c) => c.text("hop", 200, { "keep-alive": "timeout=1", "x-kept": "1" }));
  for (const status of [200, 201, 202, 203, 400, 401, 402, 403, 404, 409, 410, 418, 422, 429, 500, 501, 503, 599])
    app.get(`/status/${status}`, (c) => c.text(`status ${status}`, status as 200));

  app.get("/redirect", (c) => c.redirect("/text"));
  app.get("/redirect/301", (c) => c.redirect("https://else.test/é?q=1", 301));
  app.get("/redirect/absolute", (c) => c.redirect(new URL("/text", c.req.url).href, 307));
  app.get("/redirect/back", () => Response.redirect("http://x.test/", 303));
  app.get("/throw", () => {
    throw new Error("thrown");
  });
  app.get("/exception", () => {
    throw new HTTPException(403, { message: "forbidden" });
  });
  app.get("/reject", async () => Promise.reject(new Error("rejected")));

  app.get("/cookies", (c) => c.json(getCookie(c)));
  app.get("/cookies/set", async (c) => {
    setCookie(c, "a", "1", { httpOnly: true, path: "/" });
    setCookie(c, "b", "é;", { sameSite: "Lax", maxAge: 60 });
    await setSignedCookie(c, "c", "signed", "secret");
    deleteCookie(c, "d");
    return c.text("set");
  });

  app.get("/stream/bytes", (c) =>
    stream(c, async (out) => {
      await out.write(Uint8Array.of(1, 2));
      await out.sleep(2);
      await out.write(Uint8Array.of(3, 4));
    }),
  );
  app.get("/stream/text", (c) =>
    streamText(c, async (out) => {
      for (let i = 0; i < 3; i++) {
        await out.writeln(`line ${i}`);
        await out.sleep(2);
      }
    }),
  );
  app.get("/stream/sse", (c) =>
    streamSSE(c, async (out) => {
      for (let i = 0; i < 3; i++) {
        await out.writeSSE({ data: `event ${i}`, id: String(i), event: "tick" });
        await out.sleep(2);
      }
    }),
  );
  app.get("/stream/now", () => new Response(new Blob(["now"]).stream()));

  app.all("/echo", async (c) => {
    const { method } = c.req;
    const bytes = await c.req.arrayBuffer();
    return c.body(bytes, 200, { "x-method": method, "content-type": c.req.header("content-type") ?? "none/none" });
  });
  app.post("/body/json", async (c) => c.json({ got: await c.req.json() }));
  app.post("/body/text", async (c) => c.text(await c.req.text()));
  app.post("/body/form", async (c) => {
    const form = await c.req.parseBody({ all: true });
    const shown: Record<string, unknown> = {};
    for (const [name, value] of Object.entries(form))
      shown[name] = value instanceof File ? [value.name, value.type, value.size, await value.text()] : value;
    return c.json(shown);
  });
  app.post("/body/length", async (c) => c.json({ bytes: (await c.req.blob()).size, type: (await c.req.blob()).type }));
  app.post("/body/ignored", (c) => c.text("ignored"));

  app.get("/file/plain", () => new Response(at("digits.txt")));
  app.get("/file/empty", () => new Response(at("empty.txt")));
  app.get("/file/zip", () => new Response(at("archive.zip")));
  app.get("/file/pdf", () => new Response(at("paper.pdf")));
  app.get("/file/untyped", () => new Response(at("plain")));
  app.get("/file/space", () => new Response(at("a b.bin")));
  app.get("/file/typed", () => new Response(at("digits.txt"), { headers: { "content-type": "x/y", etag: '"a"' } }));
  app.get("/file/shown", () => new Response(at("archive.zip"), { headers: { "content-disposition": "inline" } }));
  const dated = { headers: { "last-modified": "Tue, 01 Jan 2030 00:00:00 GMT" } };
  app.get("/file/dated", () => new Response(at("digits.txt"), dated));
  app.get("/file/big", () => new Response(Bun.file(big)));
  app.get("/file/201", () => new Response(at("digits.txt"), { status: 201 }));
  app.get("/file/404", () => new Response(at("digits.txt"), { status: 404, headers: { "x-a": "b" } }));
  app.get("/file/own", () => new Response(at("digits.txt"), { headers: { "content-range": "bytes 1-2/9" } }));
  app.get("/file/slice", () => new Response(at("digits.txt").slice(5, 15)));
  app.get("/file/slice-end", () => new Response(at("digits.txt").slice(5)));
  app.get("/file/slice-begin", () => new Response(at("digits.txt").slice(0, 5)));
  app.get("/file/slice-all", () => new Response(at("digits.txt").slice(0, 20)));
  app.get("/file/slice-none", () => new Response(at("digits.txt").slice(5, 5)));
  app.get("/file/slice-typed", () => new Response(at("digits.txt").slice(2, 10, "x/z")));
  app.get("/file/slice-headers", () => new Response(at("digits.txt").slice(2, 10), { headers: { "x-a": "b" } }));
  app.get("/file/part", () => {
    const headers = { "content-range": "bytes 2-3/20" };
    return new Response(at("digits.txt").slice(2, 4), { status: 206, headers });
  });
  app.use("/static/*", serveStatic({ root: files, rewriteRequestPath: (path) => path.replace("/static", "") }));
  app.get("/static/*", (c) => c.text("no such file", 404));
  return app;
}
