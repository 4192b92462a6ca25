/** Requests, responses and events are read in the same way: `text()`, `json()`, `bytes()`, and bodies in the reader's own memory. */

import { expect, test } from "bun:test";
import { type BusEvent, EventBus, type Frame, type Gap } from "../src/events/index.ts";
import {
  type BorrowedBody,
  type BorrowedResponse,
  type BusResponse,
  PayloadTooLargeError,
  type StreamedBody,
  type StreamedResponse,
  type WorkerRequest,
} from "../src/index.ts";
import { FleetSpace } from "./fleet-space.ts";
import type { HubRequest } from "../src/hub/index.ts";
import { Stage } from "./hub-stage.ts";
import { rejection, Workspace } from "./support.ts";

/** JSON: nothing, a body within a slot's warm part, a body of exactly that size, a body far above it. */
const TEXTS = ["", ...[7, 16_384, 300_000].map((bytes) => JSON.stringify("x".repeat(bytes - 2)))];

/** A source of these bytes, in pieces. */
async function* pieces(text: string): AsyncGenerator<string> {
  for (let at = 0; at < text.length; at += 9_000) yield text.slice(at, at + 9_000);
}

/** Fails unless each is a plain `Uint8Array` over the whole of its own buffer. */
function expectOwn(bodies: readonly Uint8Array[]): void {
  for (const body of bodies) {
    expect(Object.getPrototypeOf(body)).toBe(Uint8Array.prototype);
    expect([body.buffer.constructor, body.byteOffset, body.buffer.byteLength]).toEqual([ArrayBuffer, 0, body.length]);
  }
  expect(new Set(bodies.map((body) => body.buffer)).size).toBe(bodies.length);
}

/** Reads a body as text and then detaches its memory, as a transfer to a thread does. */
function take(body: Uint8Array): string {
  return Buffer.from((body.buffer as ArrayBuffer).transfer()).toString();
}

test("bodies of requests and responses of every size are in their own memory, whether they streamed or not", async () => {
  await using space = new Workspace();
  let bodies: Uint8Array[] = [];
  const { bus } = await space.pair(async (request) => {
    const whole = request.streams ? await request.incoming.bytes() : request.bytes();
    bodies.push(whole);
    const text = Buffer.from(whole).toString();
    return request.path === "/streams" ? pieces(text) : text;
  });
  for (const text of [...TEXTS, ...TEXTS]) {
    bodies = [];
    for (const path of ["/whole", "/streams"]) {
      for (const body of [text, pieces(text)]) {
        bodies.push((await bus.request({ path, body })).body);
        if (body === text) bodies.push((await bus.request({ path, body })).bytes());
        else bodies.push(await (await bus.stream({ path, body: pieces(text) })).bytes());
        using borrowed = await bus.borrow({ path, body: text });
        bodies.push(borrowed.bytes());
      }
    }
    expect(bodies.length).toBe(24);
    expectOwn(bodies);
    expect(bodies.map(take).every((taken) => taken === text)).toBe(true);
  }
});

test("bytes copied from a borrowed body stay after its end", async () => {
  await using space = new Workspace();
  const bodies: Uint8Array[] = [];
  const { bus } = await space.pair((request) => {
    using view = request.borrow();
    expect(view.text()).toBe(TEXTS[3]!);
    bodies.push(view.bytes(), view.bytes());
    return null;
  });
  await bus.request({ path: "/", body: TEXTS[3]! });
  expectOwn(bodies);
  expect(bodies.map(take)).toEqual([TEXTS[3]!, TEXTS[3]!]);
});

test("frames and events are in their own memory, and an event gives the bytes that its publisher wrote", async () => {
  await using space = new FleetSpace();
  const fleet = await space.join({ rings: { events: { frames: 4_096, frameBytes: 1_024 } } });
  const cursor = fleet.ring("events").cursor();
  for (const text of TEXTS) fleet.ring("events").publish(text);
  const frames = cursor.poll() as Frame[];
  expectOwn(frames.map((frame) => frame.body));
  expect(frames.map((frame) => [frame.text(), frame.bytes() === frame.body])).toEqual(
    TEXTS.map((text) => [text, true]),
  );
  expect(frames[1]!.json<string>()).toBe("xxxxx");
  frames.map((frame) => take(frame.body));

  const hex = {
    contentType: "text/hex",
    encode: (value: unknown) => Buffer.from(Buffer.from(String(value)).toString("hex")),
    decode: (bytes: Uint8Array): unknown => Buffer.from(Buffer.from(bytes).toString(), "hex").toString(),
  };
  await using bus = await EventBus.local();
  await using coded = await EventBus.local({ codec: hex });
  const values: [unknown, string][] = [
    [{ b: 1, a: ["ä€", 2] }, '{"b":1,"a":["ä€",2]}'],
    [undefined, ""],
    [new Uint8Array([104, 105]), "hi"],
    ["x".repeat(50_000), JSON.stringify("x".repeat(50_000))],
  ];
  const [plain, other] = [bus.subscribeAll(), coded.subscribeAll()];
  const odd = coded.subscribeAll({ codec: { ...hex, decode: () => "odd" } });
  for (const [value] of values) bus.publish("any", value);
  coded.publish("any", "hi");
  const events = plain.poll() as BusEvent[];
  expect(events.map((event) => event.text())).toEqual(values.map(([, text]) => text));
  expect(events[0]!.json()).toEqual(values[0]![0]);
  expectOwn(events.flatMap((event) => [event.body, event.bytes(), event.body]));
  for (const event of events) take(event.body);
  expect(events.map((event) => event.payload)).toEqual(values.map(([value]) => value));
  for (const item of [...other.poll(), ...odd.poll()]) expect((item as BusEvent).text()).toBe("6869");
  const { topic, payload, ...rest } = events[0]!;
  expect([topic, payload, "body" in rest, JSON.stringify(rest).includes("body")]).toEqual([
    "any",
    values[0]![0],
    false,
    false,
  ]);
});

test("a hub's handler reads its body the same way, whether it came whole or streamed, and as often as it wants", async () => {
  await using stage = await Stage.open();
  const bodies: Uint8Array[] = [];
  const worker = await stage.serve({
    "/": async (request) => {
      const streams = request.raw.streams;
      bodies.push(await request.bytes());
      const text = await request.text();
      expect(text === "" || (await request.json()) === JSON.parse(text)).toBe(true);
      return new Response(`${streams} ${text}`);
    },
  });
  try {
    for (const text of TEXTS) {
      const streamed = new ReadableStream({ start: (c) => (c.enqueue(Buffer.from(text)), c.close()) });
      for (const body of [text, streamed]) {
        const response = await stage.fetch("/", { method: "POST", body });
        expect(await response.text()).toBe(`${body !== text || text.length > 262_144} ${text}`);
      }
    }
  } finally {
    await worker.close();
  }
  expectOwn(bodies);
  expect(bodies.map(take)).toEqual(TEXTS.flatMap((text) => [text, text]));
});

test("a streamed body is whole each time it is read, even at the same time, and a limit applies each time", async () => {
  await using space = new Workspace();
  const { bus } = await space.pair(async ({ incoming }) => {
    const [bytes, text, value] = await Promise.all([incoming.bytes(), incoming.text(), incoming.json<string>()]);
    const error = await rejection<PayloadTooLargeError>(incoming.bytes(bytes.length - 1));
    expect(error).toBeInstanceOf(PayloadTooLargeError);
    expect([error.bytes, error.limit, error.mayHaveExecuted]).toEqual([bytes.length, bytes.length - 1, false]);
    expect([text, JSON.stringify(value)]).toEqual([Buffer.from(bytes).toString(), text]);
    return pieces(text);
  });
  for (const text of TEXTS.slice(1)) {
    for (const body of [text, pieces(text)]) {
      const response = await bus.stream({ path: "/", body });
      expect([await response.text(), await response.text(), await response.json()]).toEqual([
        text,
        text,
        JSON.parse(text),
      ]);
      expect(await rejection(response.bytes(3))).toBeInstanceOf(PayloadTooLargeError);
    }
    const cut = await bus.stream({ path: "/", body: text });
    const errors = [await rejection(cut.bytes(3)), await rejection(cut.text())];
    expect(errors[0]).toBeInstanceOf(PayloadTooLargeError);
    expect(errors[1]).toBe(errors[0]!); // never an empty text
  }
});

test("the error for a request whose body streams names the method that reads it", async () => {
  await using space = new Workspace();
  const { bus } = await space.pair(async (request) => {
    for (const read of [() => request.body, () => request.bytes(), () => request.text(), () => request.json()]) {
      expect(read).toThrow(/The body of request .* streams\..*request\.incoming/s);
    }
    return request.incoming.text();
  });
  expect((await bus.request({ path: "/", body: pieces("abc") })).text()).toBe("abc");
});

interface Topics {
  paid: { cents: number };
  sent: string;
}

/** Compiles, and does not run. */
export async function types(
  whole: WorkerRequest | BusResponse | BorrowedBody | BorrowedResponse | Frame | BusEvent,
  streamed: StreamedBody | StreamedResponse | HubRequest,
  request: WorkerRequest,
  item: BusEvent<Topics> | Gap,
): Promise<void> {
  whole.body satisfies Uint8Array;
  whole.bytes() satisfies Uint8Array;
  whole.text() satisfies string;
  whole.json<{ a: 1 }>() satisfies { a: 1 };
  streamed.bytes() satisfies Promise<Uint8Array>;
  streamed.bytes(10) satisfies Promise<Uint8Array>;
  streamed.text(10) satisfies Promise<string>;
  streamed.json<{ a: 1 }>(10) satisfies Promise<{ a: 1 }>;
  streamed.stream() satisfies ReadableStream<Uint8Array>;
  for await (const piece of streamed.chunks({ into: new Uint8Array(8) })) piece satisfies Uint8Array;
  request.incoming satisfies StreamedBody;
  request.streams satisfies boolean;
  if (item.topic === "paid") item.payload.cents satisfies number;
  else if (item.topic) item.payload satisfies string;
  if (item.topic) item.json<number>() satisfies number;
  const { topic, payload, ...rest } = item as BusEvent<Topics>;
  [topic, payload, rest.position] satisfies ["paid" | "sent", { cents: number } | string, number];
  // @ts-expect-error: a whole body is read at once
  void whole.text().then();
  // @ts-expect-error: a whole body has no limit
  whole.bytes(10);
  // @ts-expect-error: a body that may stream has no bytes yet
  void streamed.body;
  // @ts-expect-error: it is a promise
  streamed.text().length.toFixed();
  // @ts-expect-error: the pieces of a request are in its `incoming`
  request.chunks();
  // @ts-expect-error: no such option
  streamed.chunks({ onto: new Uint8Array(8) });
  // @ts-expect-error: a gap has no body
  void item.body;
  // @ts-expect-error: its parts are not to be changed
  whole.body = new Uint8Array(0);
}
