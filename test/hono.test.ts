/** A Hono application behind the bus: its streaming helpers work as behind a server. */

import { expect, test } from "bun:test";
import { Hono } from "hono";
import { stream, streamSSE, streamText } from "hono/streaming";
import { until, Workspace } from "./support.ts";

/** An application whose streams wait for `step` between writes; `aborted` lists the streams whose reader left. */
function application() {
  const aborted: string[] = [];
  let open = Promise.withResolvers<void>();
  const step = (): void => {
    open.resolve();
    open = Promise.withResolvers();
  };
  const app = new Hono();
  app.get("/bytes", (c) =>
    stream(c, async (out) => {
      out.onAbort(() => void aborted.push("bytes"));
      await out.write(Uint8Array.of(1, 2));
      await open.promise;
      await out.pipe(new Blob([Uint8Array.of(3, 4)]).stream());
    }),
  );
  app.get("/text", (c) =>
    streamText(c, async (out) => {
      await out.writeln("one");
      await open.promise;
      await out.write("two");
    }),
  );
  app.get("/events", (c) =>
    streamSSE(c, async (out) => {
      out.onAbort(() => void aborted.push("events"));
      for (let id = 0; !out.aborted; id++) {
        await out.writeSSE({ event: "tick", id: String(id), data: `tick ${id}` });
        await open.promise;
      }
    }),
  );
  app.post("/length", async (c) => c.json({ bytes: (await c.req.arrayBuffer()).byteLength }));
  return { app, aborted, step };
}

async function serve(space: Workspace) {
  const made = application();
  const bus = await space.bus();
  await space.worker().then((worker) => worker.serve(made.app));
  await bus.ready();
  return { bus, ...made };
}

test("stream and streamText: each write arrives before the next one is made", async () => {
  await using space = new Workspace();
  const { bus, step } = await serve(space);
  const bytes = (await bus.fetch("/bytes")).body!.getReader();
  expect([...(await bytes.read()).value!]).toEqual([1, 2]);
  step();
  expect([...(await bytes.read()).value!]).toEqual([3, 4]);
  expect((await bytes.read()).done).toBe(true);
  const response = await bus.fetch("/text");
  expect(response.headers.get("content-type")).toMatch(/^text\/plain/);
  const text = response.body!.getReader();
  expect(Buffer.from((await text.read()).value!).toString()).toBe("one\n");
  step();
  expect(Buffer.from((await text.read()).value!).toString()).toBe("two");
  expect((await text.read()).done).toBe(true);
});

test("streamSSE: events come as they are written, and a reader that leaves ends them", async () => {
  await using space = new Workspace();
  const { bus, step, aborted } = await serve(space);
  const response = await bus.fetch("/events");
  expect(response.headers.get("content-type")).toMatch(/^text\/event-stream/);
  const events = response.body!.getReader();
  for (let id = 0; id < 3; id++) {
    expect(Buffer.from((await events.read()).value!).toString()).toBe(`event: tick\ndata: tick ${id}\nid: ${id}\n\n`);
    step();
  }
  await events.cancel();
  step();
  await until(() => aborted.includes("events"), "the application notices");
  await until(() => bus.stats().inFlight === 0, "the slot is free");
});

test("a streamed request body reaches the application whole", async () => {
  await using space = new Workspace();
  const { bus } = await serve(space);
  async function* body() {
    for (let i = 0; i < 100; i++) yield new Uint8Array(10_000);
  }
  const response = await bus.fetch("/length", { method: "POST", body: body() as unknown as ReadableStream });
  expect(await response.json()).toEqual({ bytes: 1_000_000 });
});
