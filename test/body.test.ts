/** Request bodies of every size in a handler: kept as long as it wants, or borrowed by an explicit call. */

import { describe, expect, test } from "bun:test";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import {
  type BorrowedBody,
  type Codec,
  contract,
  InvalidConfigError,
  items,
  type RemoteError,
  rpc,
  type SlotBus,
  typed,
  type WorkerRequest,
} from "../src/index.ts";
import { callBus } from "../src/serve.ts";
import { Stage } from "./hub-stage.ts";
import { Child, pattern, rejection, same, until, Workspace } from "./support.ts";

/** Around the inline size of 16 KiB, and far above it. */
const SIZES = [1_000, 16_384, 16_385, 300_000];
const REQUESTS = 12;

/** JSON of that many bytes, different for each number. */
function letter(number: number, bytes: number): string {
  const text = `${number} `.repeat(Math.ceil(bytes / `${number} `.length));
  return JSON.stringify(text.slice(0, bytes - 2));
}

const decoder = new TextDecoder();

/** Every way to read a whole body, as its text. */
const ways: Record<string, (request: WorkerRequest) => Promise<string>> = {
  body: async (request) => decoder.decode(await request.bytes()),
  "bytes()": async (request) => decoder.decode(request.bytes()),
  "text()": async (request) => request.text(),
  "json()": async (request) => JSON.stringify(request.json()),
  "incoming.bytes()": async (request) => decoder.decode(await request.incoming.bytes()),
  "incoming.chunks()": async (request) => {
    let text = "";
    for await (const chunk of request.incoming.chunks()) text += decoder.decode(chunk);
    return text;
  },
  "incoming.stream()": async (request) => new Response(request.incoming.stream()).text(),
};

/** Sends letters of each size, some at a time, then others into the same slots. */
async function sendLetters(bus: SlotBus, path = "/"): Promise<string[]> {
  const letters = SIZES.flatMap((bytes, size) =>
    Array.from({ length: REQUESTS }, (_, i) => letter(100 * size + i, bytes)),
  );
  await Promise.all(letters.map((body) => bus.request({ method: "POST", path, body })));
  const others = Array.from({ length: 4 * REQUESTS }, () => "#".repeat(300_000));
  await Promise.all(others.map((body) => bus.request({ method: "POST", path: "/other", body })));
  return letters;
}

/** Handlers answer before they read their body. They read it when this opens. */
class Readers {
  readonly #gate = Promise.withResolvers<void>();
  readonly #read: Promise<string>[] = [];

  add(read: () => Promise<string>): void {
    this.#read.push(this.#gate.promise.then(read));
  }

  /** What they read, sorted. */
  async open(): Promise<string[]> {
    this.#gate.resolve();
    return (await Promise.all(this.#read)).sort();
  }
}

describe("a bus's handler", () => {
  for (const [way, read] of Object.entries(ways)) {
    test(`that has answered reads its own body by ${way}, of every size, though others have its slot`, async () => {
      await using space = new Workspace();
      const readers = new Readers();
      const { bus } = await space.pair(
        (request) => {
          if (request.path === "/") readers.add(() => read(request));
          return "accepted";
        },
        { slots: 4 },
      );
      const letters = await sendLetters(bus);
      expect((await readers.open()).every((text, i) => text === letters.toSorted()[i])).toBe(true);
    });
  }

  test("keeps what it read before it answered: plain bytes, each in its own memory", async () => {
    await using space = new Workspace();
    const kept: Uint8Array[] = [];
    const { bus } = await space.pair(
      async (request) => {
        if (request.path !== "/") return null;
        kept.push(request.body);
        expect(request.body).toBe(kept.at(-1)!);
        await Bun.sleep(1);
        request.respond("accepted");
        expect(request.bytes()).toBe(request.body);
        expect(await request.incoming.bytes()).toBe(request.body);
      },
      { slots: 4 },
    );
    const letters = await sendLetters(bus);
    expect(kept.map((body) => decoder.decode(body)).sort()).toEqual(letters.toSorted());
    for (const body of kept) {
      expect([body.constructor, body.buffer.byteLength]).toEqual([Uint8Array, body.length]);
      body.slice().fill(0);
      expect(body.includes(32)).toBe(true); // slice copies
    }
  });

  test("that does not await a write of its body still writes that body, even much later", async () => {
    await using space = new Workspace();
    space.leftovers = ["0", "1"];
    const pipes = space.leftovers.map((file) => join(space.directory, file));
    Bun.spawnSync(["mkfifo", ...pipes]); // no handler reads them yet, so no write ends
    const written: Promise<void>[] = [];
    const { bus } = await space.pair(
      (request) => {
        if (request.path === "/write") written.push(writeFile(pipes[Number(request.query)]!, request.body));
        return "accepted";
      },
      { slots: 2 },
    );
    const body = (i: number): Uint8Array => new Uint8Array(2 ** 20).fill(i + 1);
    await Promise.all(pipes.map((_, i) => bus.request({ path: "/write", query: `${i}`, body: body(i) })));
    for (let i = 10; i < 20; i++) await bus.request({ path: "/other", body: body(i) });
    const read = await Promise.all(pipes.map((pipe) => Bun.spawn(["cat", pipe]).stdout.bytes()));
    await Promise.all(written);
    expect(read.map((bytes, i) => same(bytes, body(i)))).toEqual([true, true]);
  });

  test("reads a large body that it first asks for while its answer streams", async () => {
    await using space = new Workspace();
    const { bus } = await space.pair(async function* (request) {
      yield "read: ";
      await Bun.sleep(1);
      yield request.text();
    });
    for (const bytes of SIZES) {
      const sent = letter(7, bytes);
      expect((await bus.request({ path: "/", body: sent })).text()).toBe(`read: ${sent}`);
    }
  });

  test("still has its body after the connection has ended, and its signal aborts at that end", async () => {
    await using space = new Workspace();
    const requests: WorkerRequest[] = [];
    const aborted: number[] = [];
    const { bus, worker } = await space.pair((request) => {
      requests.push(request);
      request.signal.addEventListener("abort", () => aborted.push(request.body.length));
      request.defer();
    });
    const lost = SIZES.map((bytes) => rejection(bus.request({ path: "/", body: letter(1, bytes) })));
    await until(() => requests.length === SIZES.length, "all run");
    await worker.close({ timeout: 0 });
    await Promise.all(lost);
    expect(requests.map((request) => request.text())).toEqual(SIZES.map((bytes) => letter(1, bytes)));
    expect(aborted).toEqual(SIZES);
  });

  test("keeps the bytes of a body that streamed", async () => {
    await using space = new Workspace();
    const kept: Uint8Array[] = [];
    const { bus } = await space.pair(
      async (request) => {
        if (request.path === "/") kept.push(await request.incoming.bytes());
        return "accepted";
      },
      { slots: 2 },
    );
    async function* source(number: number): AsyncGenerator<Uint8Array> {
      for (let i = 0; i < 40; i++) yield new Uint8Array(9_999).fill(number);
    }
    await Promise.all(
      Array.from({ length: 8 }, (_, i) => bus.request({ method: "POST", path: "/", body: source(i + 1) })),
    );
    for (let i = 0; i < 8; i++) await bus.request({ path: "/other", body: new Uint8Array(300_000) });
    expect(kept.map((body) => body[0]!).sort()).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
    for (const body of kept) expect([body.length, body.every((byte) => byte === body[0])]).toEqual([399_960, true]);
  });
});

describe("other surfaces", () => {
  test("a blocking worker's handler keeps its bodies, asked for before the answer or after it", async () => {
    await using space = new Workspace();
    const { bus } = await space.remote("sync-worker.ts", { slots: 4 });
    for (const path of ["/keep", "/keep-request"]) {
      const letters = await sendLetters(bus, path);
      const kept = (await bus.request({ path: "/kept" })).json<string[]>();
      expect(kept.sort()).toEqual(letters.toSorted());
    }
  });

  const texts = contract("texts", {
    bytes: rpc<Uint8Array, void>(),
    json: rpc<string, string>(),
    other: rpc<Uint8Array, void>(),
  });

  test("a typed method with bytes as input keeps them; one with JSON gets its value", async () => {
    await using space = new Workspace();
    const kept: Uint8Array[] = [];
    const bus = await space.bus({ slots: 4 });
    (await space.worker()).implement(texts, {
      bytes: (input) => void kept.push(input),
      json: async (input) => (await Bun.sleep(1), input),
      other: () => {},
    });
    await bus.ready();
    const client = bus.client(texts);
    const letters = SIZES.flatMap((bytes, size) => Array.from({ length: 8 }, (_, i) => letter(10 * size + i, bytes)));
    const answers = await Promise.all(letters.map((text) => client.json(text)));
    expect(answers).toEqual(letters);
    await Promise.all(letters.map((text) => client.bytes(new TextEncoder().encode(text))));
    await Promise.all(letters.map(() => client.other(new Uint8Array(300_000))));
    expect(kept.map((input) => decoder.decode(input)).sort()).toEqual(letters.toSorted());
    for (const input of kept) expect(input.constructor).toBe(Uint8Array);
  });

  test("a codec that decodes to views gives each handler its own memory", async () => {
    await using space = new Workspace();
    const views: Codec = {
      contentType: "application/x-views",
      encode: ({ part }: { part: Uint8Array }) => part,
      decode: (bytes) => ({ part: bytes.subarray(1) }),
    };
    const parts = contract(
      "parts",
      { put: rpc({ input: typed<{ part: Uint8Array }, { part: Uint8Array }>() }) },
      { codec: views },
    );
    const kept: Uint8Array[] = [];
    const bus = await space.bus({ slots: 2 });
    (await space.worker()).implement(parts, { put: ({ part }) => void kept.push(part) });
    await bus.ready();
    const client = bus.client(parts);
    for (let i = 0; i < 3 * SIZES.length; i++) await client.put({ part: new Uint8Array(SIZES[i % 4]!).fill(i) });
    expect(kept.map((part) => [part.length, part[0], part.at(-1)])).toEqual(
      Array.from({ length: 3 * SIZES.length }, (_, i) => [SIZES[i % 4]! - 1, i, i]),
    );
  });

  test("items of bytes that came in several pieces are plain bytes in their own memory", async () => {
    await using space = new Workspace();
    const files = contract("files", { put: rpc({ input: items(typed<Uint8Array>()), output: typed<number>() }) });
    const kept: Uint8Array[] = [];
    const bus = await space.bus();
    (await space.worker()).implement(files, {
      async put(input) {
        for await (const item of input) kept.push(item);
        return kept.length;
      },
    });
    await bus.ready();
    async function* source(): AsyncGenerator<Uint8Array> {
      for (let i = 0; i < 20; i++) yield new Uint8Array(70_001).fill(i);
    }
    expect(await bus.client(files).put(source())).toBe(20);
    for (const [i, item] of kept.entries()) {
      expect([item.constructor, item.buffer.byteLength]).toEqual([Uint8Array, 70_001]);
      expect(item.every((byte) => byte === i)).toBe(true);
    }
  });

  test("an app behind `serve` reads its Request after it has answered", async () => {
    await using space = new Workspace();
    const readers = new Readers();
    const bus = await space.bus({ slots: 4 });
    const worker = await space.worker();
    worker.serve({
      fetch(request) {
        if (new URL(request.url).pathname === "/") readers.add(() => request.text());
        return new Response("accepted", { status: 202 });
      },
    });
    await bus.ready();
    const letters = await sendLetters(bus);
    expect((await readers.open()).every((text, i) => text === letters.toSorted()[i])).toBe(true);
  });

  test("a route of a hub's worker, and an app mounted there, read their bodies after they have answered", async () => {
    await using stage = await Stage.open();
    const readers = new Readers();
    const worker = await stage.serve({
      "/body": (request) => {
        readers.add(async () => decoder.decode(await request.bytes()));
        return { status: 202 };
      },
      "/text": (request) => {
        readers.add(() => request.text());
        return { status: 202 };
      },
      "/app/*": {
        fetch(request) {
          readers.add(() => request.text());
          return new Response("accepted", { status: 202 });
        },
      },
      "/other": () => ({ json: {} }),
    });
    try {
      const paths = ["/body", "/text", "/app/x"];
      const letters = paths.flatMap((_, at) => [1_000, 20_000, 200_000].map((bytes) => letter(at, bytes)));
      const statuses = await Promise.all(
        letters.map(async (body, i) => (await stage.fetch(paths[Math.floor(i / 3)]!, { method: "POST", body })).status),
      );
      expect(statuses).toEqual(letters.map(() => 202));
      const other = { method: "POST", body: new Uint8Array(200_000) };
      for (let i = 0; i < 12; i++) expect((await stage.fetch("/other", other)).status).toBe(200);
      expect(await readers.open()).toEqual(letters.toSorted());
    } finally {
      await worker.close();
    }
  });

  test("params of `serve` on a bus are whole, of every size", async () => {
    await using space = new Workspace();
    const bus = await space.bus();
    const env = { SLOTBUS_DIR: space.directory, SLOTBUS_NAME: space.name };
    await using worker = new Child("stdio-worker.ts", [], env);
    await bus.ready();
    const letters = SIZES.map((bytes) => letter(3, bytes));
    expect(await Promise.all(letters.map((text) => callBus(bus, "echo", { text })))).toEqual(
      letters.map((text) => ({ text })),
    );
    expect(worker.pid).toBe(bus.workers[0]!.pid);
  });
});

describe("a borrowed body", () => {
  const KEPT = [0, 1_000, 40_000];

  for (const bytes of KEPT) {
    test(`of ${bytes} bytes can be read until its release; then it throws, and views taken from it are empty`, async () => {
      await using space = new Workspace();
      const { bus } = await space.pair((request) => {
        const view = request.borrow();
        const taken = view.body;
        expect([same(taken, pattern(bytes)), taken.constructor]).toEqual([true, Uint8Array]);
        view.release();
        view.release();
        expect(taken.length).toBe(0);
        for (const use of [() => view.body, () => view.text(), () => view.json()]) {
          expect(use).toThrow(expect.objectContaining({ code: "BODY_RELEASED" }));
        }
        using again = request.borrow(); // each borrow is separate
        return String(again.body.length);
      });
      expect((await bus.request({ path: "/", body: pattern(bytes) })).text()).toBe(String(bytes));
    });

    test(`of ${bytes} bytes ends with the answer, and then \`body\` throws, unless it was read before`, async () => {
      await using space = new Workspace();
      const kept: { view: BorrowedBody; request: WorkerRequest; own: Uint8Array | null }[] = [];
      const { bus } = await space.pair((request) => {
        const own = request.path === "/asked" ? request.body : null;
        kept.push({ view: request.borrow(), request, own });
        return "x";
      });
      for (const path of ["/", "/asked"]) await bus.request({ path, body: pattern(bytes) });
      const [borrowed, asked] = kept;
      expect(() => borrowed!.view.body).toThrow(expect.objectContaining({ code: "BODY_RELEASED" }));
      expect(() => borrowed!.request.body).toThrow(expect.objectContaining({ code: "BODY_RELEASED" }));
      expect(() => borrowed!.request.borrow()).toThrow(expect.objectContaining({ code: "BODY_RELEASED" }));
      expect(() => borrowed!.request.bytes()).toThrow(expect.objectContaining({ code: "BODY_RELEASED" }));
      expect(() => borrowed!.request.incoming).toThrow(expect.objectContaining({ code: "BODY_RELEASED" }));
      expect(() => asked!.view.body).toThrow(expect.objectContaining({ code: "BODY_RELEASED" }));
      expect([same(asked!.own!, pattern(bytes)), asked!.request.body === asked!.own]).toEqual([true, true]);
    });

    test(`of ${bytes} bytes ends with the connection; \`body\` of a request that was not borrowed stays`, async () => {
      await using space = new Workspace();
      const views: BorrowedBody[] = [];
      const requests: WorkerRequest[] = [];
      const { bus, worker } = await space.pair((request) => {
        if (request.path === "/borrow") views.push(request.borrow());
        requests.push(request);
        request.defer();
      });
      const lost = ["/borrow", "/"].map((path) => rejection(bus.request({ path, body: pattern(bytes) })));
      await until(() => requests.length === 2, "both run");
      await worker.close({ timeout: 0 });
      await Promise.all(lost);
      expect(() => views[0]!.body).toThrow(expect.objectContaining({ code: "BODY_RELEASED" }));
      const other = requests.find(({ path }) => path === "/")!;
      expect(same(other.body, pattern(bytes))).toBe(true);
      expect(() => other.borrow()).toThrow(expect.objectContaining({ code: "BODY_RELEASED" }));
    });
  }

  test("may be the answer; a released one is an error with that reason, not an empty answer", async () => {
    await using space = new Workspace();
    const { bus } = await space.pair((request) => {
      if (request.path === "/held") return request.borrow().body;
      using view = request.borrow();
      return view.body;
    });
    for (const bytes of KEPT) {
      const body = pattern(bytes);
      expect(same((await bus.request({ path: "/held", body })).body, body)).toBe(true);
      const error = await rejection<RemoteError>(bus.request({ path: "/released", body }));
      expect(error.remoteCode).toBe("BODY_RELEASED");
      expect(error.message).toContain("The response body was released");
    }
  });

  test("that was released before it is sent is an error that says so to the caller", async () => {
    await using space = new Workspace();
    const { bus } = await space.pair((request) => request.borrow().body);
    for (const bytes of KEPT) {
      const frame = await bus.borrow({ path: "/", body: pattern(bytes) });
      const { body } = frame;
      frame.release();
      const error = await rejection(bus.request({ path: "/", body }));
      expect(error).toMatchObject({ code: "BODY_RELEASED" });
      expect(error.message).toBe(
        "The request body is a borrowed view that was already released. " +
          "Send it before you release it, or send a copy (`view.bytes()`).",
      );
    }
  });

  test("lasts as long as a streamed answer, and no longer", async () => {
    await using space = new Workspace();
    let view: BorrowedBody | null = null;
    const { bus } = await space.pair(async function* (request) {
      view = request.borrow();
      for (let i = 0; i < 5; i++) {
        await Bun.sleep(1);
        yield view.body.subarray(i * 8_000, (i + 1) * 8_000);
      }
    });
    const response = await bus.request({ path: "/", body: pattern(40_000) });
    expect(same(response.body, pattern(40_000))).toBe(true);
    expect(() => view!.body).toThrow(expect.objectContaining({ code: "BODY_RELEASED" }));
  });

  test("cannot be taken of a streamed body", async () => {
    await using space = new Workspace();
    const { bus } = await space.pair(async (request) => {
      expect(() => request.borrow()).toThrow(InvalidConfigError);
      return String((await request.incoming.bytes()).length);
    });
    async function* source(): AsyncGenerator<Uint8Array> {
      yield new Uint8Array(10);
    }
    expect((await bus.request({ method: "POST", path: "/", body: source() })).text()).toBe("10");
  });
});
