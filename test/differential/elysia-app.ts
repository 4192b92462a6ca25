/** An Elysia application that uses Elysia's own features. */

import { Elysia, file, form, redirect, sse, t } from "elysia";

/** Returns a new app for each side, so that they share no state. `files` is a directory. */
export function elysiaApp(files: string) {
  return new Elysia()
    .onError(({ code, error, status }) => {
      if (code === "NOT_FOUND") return status(404, "nothing there");
      if (code === "VALIDATION") return status(422, { invalid: true });
      return status(500, `failed: ${error instanceof Error ? error.message : code}`);
    })
    .get("/", () => "root")
    .get("/url", ({ request, path }) => ({ url: request.url, host: request.headers.get("host"), path }))
    .get("/address", ({ server, request }) => ({ family: server?.requestIP(request)?.family }))
    .get("/text", "static text")
    .get("/number", () => 7)
    .get("/boolean", () => true)
    .get("/object", () => ({ a: [1, 2], b: null }))
    .get("/array", () => [1, 2])
    .get("/null", () => null)
    .get("/nothing", () => undefined)
    .get("/response", () => new Response("response", { headers: { "x-a": "b" } }))
    .get("/headers", ({ set }) => {
      set.headers["x-a"] = "b";
      set.status = 201;
      return "headers";
    })
    .get("/status/teapot", ({ status }) => status(418))
    .get("/status/text", ({ status }) => status(400, "no"))
    .get("/redirect", () => redirect("/text"))
    .get("/redirect/301", ({ redirect: to }) => to("https://else.test/", 301))
    .get("/throw", () => {
      throw new Error("thrown");
    })
    .get("/id/:id", ({ params }) => params, { params: t.Object({ id: t.Numeric() }) })
    .get("/query", ({ query }) => query, { query: t.Object({ n: t.Numeric(), text: t.Optional(t.String()) }) })
    .get("/wild/*", ({ params }) => params["*"])
    .get("/cookie", ({ cookie: { seen } }) => {
      const before = seen!.value;
      seen!.set({ value: "yes", httpOnly: true, path: "/" });
      return { before: before ?? null };
    })
    .get("/cookie/remove", ({ cookie: { seen } }) => {
      seen!.remove();
      return "removed";
    })
    .post("/json", ({ body }) => body, { body: t.Object({ name: t.String(), age: t.Number({ minimum: 0 }) }) })
    .post("/text", ({ body }) => `${typeof body} ${body}`, { parse: "text" })
    .post("/any", ({ body }) => ({ type: typeof body, body }))
    .post("/upload", async ({ body }) => ({ name: body.file.name, text: await body.file.text(), note: body.note }), {
      body: t.Object({ file: t.File(), note: t.String() }),
    })
    .put("/only-put", () => "put")
    .all("/all", ({ request }) => request.method)
    .head("/head", ({ set }) => {
      set.headers["x-head"] = "yes";
    })
    .get("/file", () => file(`${files}/digits.txt`))
    .get("/file/zip", () => file(`${files}/archive.zip`))
    .get("/file/bun", () => Bun.file(`${files}/digits.txt`))
    .get("/file/response", () => new Response(Bun.file(`${files}/paper.pdf`)))
    .get("/form", () => form({ a: "b", file: file(`${files}/data.json`) }))
    .get("/generator", function* () {
      yield "one";
      yield "two";
    })
    .get("/sse", async function* () {
      for (let i = 0; i < 3; i++) {
        yield sse({ event: "tick", data: { i } });
        await Bun.sleep(1);
      }
    })
    .guard({ headers: t.Object({ "x-key": t.String() }) }, (app) =>
      app.get("/guarded", ({ headers }) => headers["x-key"]),
    )
    .group("/group", (app) => app.get("/inner", () => "inner"));
}
