/** The socket wire: what bus.test.ts and others do not show, because they run on each wire (conformance.test.ts). */

import { expect, test } from "bun:test";
import { rmSync } from "node:fs";
import { join } from "node:path";
import { type Duplex, sockets } from "../src/wires/socket/duplex.ts";
import {
  FLAG,
  FRAME,
  FRAME_BYTES,
  FrameReader,
  HEADER_BYTES,
  putHeader,
  putU32,
  u32,
} from "../src/wires/socket/frames.ts";
import {
  decodeWelcome,
  encodeAttached,
  encodeJoin,
  encodeWelcome,
  HandshakeReader,
  type Welcome,
} from "../src/wires/socket/handshake.ts";
import { Rest } from "../src/wires/socket/rest.ts";
import { FrameWriter } from "../src/wires/socket/writer.ts";
import { Collector } from "../src/wires/socket/collector.ts";
import { memory, socket, SlotBus, SlotWorker, UnsupportedError, type SlotbusError } from "../src/index.ts";
import { Child, pattern, rejection, same, stop, until, Workspace } from "./support.ts";

const via = socket();

/** Needs shared memory, or reads /proc. */
const onLinux = test.skipIf(process.platform !== "linux");

/** A frame as bytes. */
function frame(
  type: number,
  flags: number,
  id: number,
  body: Uint8Array = new Uint8Array(0),
  length = body.length,
): Uint8Array {
  const bytes = new Uint8Array(HEADER_BYTES + body.length);
  putHeader(bytes, 0, type, flags, length, id);
  bytes.set(body, HEADER_BYTES);
  return bytes;
}

/** The start of a response: what its first frame claims, and the bytes that follow. */
function response(id: number, status: number, head: number, body: number, bytes: Uint8Array, flags = 0): Uint8Array {
  const whole = new Uint8Array(12 + bytes.length);
  putU32(whole, 0, status);
  putU32(whole, 4, head);
  putU32(whole, 8, body);
  whole.set(bytes, 12);
  return frame(FRAME.response, flags, id, whole);
}

/** The head of a response without a content type and headers. */
const HEAD = Uint8Array.from([1, 0, 0, 0, 0]);

/** A worker in another process, on the socket wire. */
function remote(space: Workspace): Child {
  return new Child("worker.ts", [space.name], { SLOTBUS_DIR: space.directory, SLOTBUS_WIRE: "socket" });
}

/** A worker that can break the protocol: it sends the bytes of a test. */
class RawWorker {
  readonly ids: number[] = [];
  readonly #duplex: Duplex;
  readonly #unsent: Uint8Array[] = [];
  isClosed = false;

  static async attach(space: Workspace, onRequest: (worker: RawWorker, id: number) => void): Promise<RawWorker> {
    const { promise, resolve } = Promise.withResolvers<RawWorker>();
    await sockets.connect(join(space.directory, `${space.name}.sock`), (duplex) => {
      const worker = new RawWorker(duplex);
      const handshake = new HandshakeReader();
      const sink = {
        isOpen: true,
        frame: (type: number, _: number, id: number): void => {
          if (type !== FRAME.request) return;
          worker.ids.push(id);
          onRequest(worker, id);
        },
        piece: () => {},
        malformed: () => {},
      };
      const reader = new FrameReader(sink, new FrameWriter(duplex));
      let welcome: Welcome | null = null;
      duplex.onClose = () => void (worker.isClosed = true);
      duplex.onData = (bytes) => {
        if (welcome) return reader.push(bytes);
        handshake.read(bytes, (_, body) => {
          welcome = decodeWelcome(body);
          return false;
        });
        duplex.write(encodeAttached());
        resolve(worker);
      };
      duplex.write(encodeJoin(8));
    });
    return promise;
  }

  private constructor(duplex: Duplex) {
    this.#duplex = duplex;
  }

  send(...frames: Uint8Array[]): void {
    this.#unsent.push(...frames);
    this.#flush();
  }

  #flush(): void {
    for (let one = this.#unsent[0]; one; one = this.#unsent[0]) {
      const accepted = this.#duplex.write(one);
      if (accepted < one.length) {
        this.#unsent[0] = one.subarray(accepted);
        this.#duplex.onDrain = () => this.#flush();
        return;
      }
      this.#unsent.shift();
    }
  }
}

test("the option via chooses the wire, and bus.workers and the events say which one it is", async () => {
  await using space = new Workspace();
  const bus = await space.bus({ via });
  const joined: string[] = [];
  bus.on("joined", ({ wire }) => joined.push(wire));
  await space.worker((request) => ({ headers: request.headers, body: request.body }), { via });
  await bus.ready();
  expect(bus.workers.map(({ wire, pid }) => [wire, pid])).toEqual([["socket", process.pid]]);
  await until(() => joined.length > 0, "the event joined");
  expect(joined).toEqual(["socket"]);
  const answer = await bus.request({ path: "/", headers: { a: "é" }, body: "x" });
  expect([answer.headers.get("a"), answer.text()]).toEqual(["é", "x"]);
  expect(await rejection<SlotbusError>(SlotBus.create({ name: "x", via: "socket" as never }))).toMatchObject({
    code: "INVALID_CONFIG",
  });
});

test("what needs shared memory is refused with an error that names the wire and what to call instead", async () => {
  await using space = new Workspace();
  const bus = await space.bus({ via });
  const worker = await space.worker(undefined, { via });
  await bus.ready();
  const borrowed = await rejection(bus.borrow({ path: "/" }));
  const blocked = await rejection((async () => bus.requestSync({ path: "/" }))());
  const served = await rejection((async () => worker.serveSync(() => "x"))());
  for (const error of [borrowed, blocked, served]) expect(error).toBeInstanceOf(UnsupportedError);
  expect(borrowed.message).toStartWith('borrow needs the wire "memory", and this is the wire "socket".');
  expect(blocked.message).toStartWith("requestSync needs");
  expect(served.message).toContain("Call `serve`");
});

onLinux("a worker that needs shared memory is refused by a client that has none", async () => {
  await using space = new Workspace();
  await space.bus({ via });
  const error = await rejection<SlotbusError>(
    SlotWorker.open({ name: space.name, directory: space.directory, via: memory(), timeout: 0 }),
  );
  expect(error.code).toBe("RESOURCE");
});

onLinux(
  "one bus has workers by memory and by socket at once, and each kind serves it when the other has gone",
  async () => {
    await using space = new Workspace();
    const bus = await space.bus({ via: memory() });
    const handler = (name: string) => (request: { body: Uint8Array }) => ({ headers: { name }, body: request.body });
    const byMemory = await space.worker(handler("memory"), { via: memory() });
    const bySocket = await space.worker(handler("socket"), { via });
    await bus.ready({ workers: 2 });
    expect(bus.workers.map(({ wire }) => wire).sort()).toEqual(["memory", "socket"]);
    for (const { id, wire } of bus.workers) {
      const answer = await bus.request({ path: "/", body: pattern(300_000) }, { worker: id });
      expect([answer.headers.get("name"), same(answer.body, pattern(300_000))]).toEqual([wire, true]);
    }
    await byMemory.close();
    await until(() => bus.workers.length === 1, "one worker to leave");
    expect((await bus.request({ path: "/" })).headers.get("name")).toBe("socket");
    using copy = await bus.borrow({ path: "/", body: "lent" });
    expect(copy.text()).toBe("lent");
    const error = await rejection((async () => bus.requestSync({ path: "/" }))());
    expect(error).toBeInstanceOf(UnsupportedError);
    await space.worker(handler("memory"), { via: memory() });
    await bus.ready({ workers: 2 });
    await bySocket.close();
    await until(() => bus.workers.length === 1, "the other worker to leave");
    expect((await bus.request({ path: "/" })).headers.get("name")).toBe("memory");
  },
);

test("bodies of all sizes around the limits of frames come back unchanged, in requests and in responses", async () => {
  await using space = new Workspace();
  const bus = await space.bus({ via });
  await space.worker((request) => ({ headers: { size: `${request.body.length}` }, body: request.body }), { via });
  await bus.ready();
  const around = [0, 1, 32_768, FRAME_BYTES, 2 * FRAME_BYTES, 4 * FRAME_BYTES, 1_048_576].flatMap((n) => [
    n,
    n + 1,
    n + 13,
  ]);
  const answers = await Promise.all(around.map((bytes) => bus.request({ path: "/", body: pattern(bytes) })));
  for (const [n, bytes] of around.entries()) {
    expect(answers[n]!.headers.get("size")).toBe(`${bytes}`);
    expect(same(answers[n]!.body, pattern(bytes))).toBe(true);
  }
  const header = "v".repeat(100_000); // larger than a frame
  expect((await bus.request({ path: "/", headers: { header }, body: pattern(70_000) })).body.length).toBe(70_000);
});

test("a body of 100 MB does not delay small requests behind it by its whole length", async () => {
  await using space = new Workspace();
  const bus = await space.bus({ via, payloadBytes: 100_000_000 });
  await using _ = remote(space);
  await bus.ready();
  const order: string[] = [];
  const large = bus.request({ path: "/echo", body: new Uint8Array(100_000_000) }).then(({ body }) => {
    order.push("large");
    return body.length;
  });
  for (let n = 0; n < 5; n++) {
    await bus.request({ path: "/echo", body: "small" });
    order.push("small");
  }
  expect(await large).toBe(100_000_000);
  expect(order.slice(0, 5)).toEqual(Array.from({ length: 5 }, () => "small"));
});

test("a body whose memory is taken away while it is sent fails its request; the connection goes on", async () => {
  await using space = new Workspace();
  const bus = await space.bus({ via, allowedUids: [] });
  await space.worker((request) => request.body, { via });
  await bus.ready();
  for (const take of [
    (body: Uint8Array<ArrayBuffer>) => void body.buffer.transfer(),
    (body: Uint8Array<ArrayBuffer>) => body.buffer.resize(10),
  ]) {
    const body = new Uint8Array(new ArrayBuffer(3_000_000, { maxByteLength: 3_000_000 }));
    const lost = rejection(bus.request({ path: "/", body }));
    take(body);
    expect(await lost).toMatchObject({ code: "BODY_RELEASED", message: expect.stringContaining("while it was sent") });
    expect((await bus.request({ path: "/", body: "next" })).text()).toBe("next");
  }
  expect(bus.stats()).toMatchObject({ inFlight: 0, workersEvicted: 0 });
});

/** A writer on a socket that accepts everything; `types` are the types of the frames that it got. */
function writerOf(types: number[]): FrameWriter {
  let body = 0; // bytes of a body that come in the next writes
  const write = (bytes: Uint8Array): number => {
    for (let at = body; at < bytes.length; at += HEADER_BYTES + u32(bytes, at + 4)) {
      types.push(bytes[at]!);
      body = at + HEADER_BYTES + u32(bytes, at + 4);
    }
    body -= bytes.length;
    return bytes.length;
  };
  return new FrameWriter({ write } as unknown as Duplex);
}

test("beside other frames at most 32 KiB of large bodies are on the way, alone 1 MiB; small frames go first", () => {
  const types: number[] = [];
  const writer = writerOf(types);
  const { body, mark, cancel } = FRAME;
  writer.add(new Rest(7, [new Uint8Array(19 * FRAME_BYTES)], null));
  writer.flush();
  expect(types.splice(0)).toEqual([body, mark]); // 1 MiB
  writer.send(cancel, 1);
  writer.flush();
  expect(types.splice(0)).toEqual([cancel]);
  expect(writer.marked()).toBe(true);
  writer.flush();
  for (let left = (3 * FRAME_BYTES) / 32_768; left > 0; left--) {
    expect(types.splice(0)).toEqual(left > 1 ? [body, mark] : [body]); // 32 KiB each
    expect(writer.marked()).toBe(left > 1);
    writer.flush();
  }
  expect([types.length, writer.isEmpty]).toEqual([0, true]);
});

test("the frames of one turn go out in few writes: from 1 KiB on before the turn ends, in their order", async () => {
  const types: number[] = [];
  const writer = writerOf(types);
  const sent = Array.from({ length: 20 }, (_, n) => {
    writer.sendBytes(FRAME.response, 0, n, new Uint8Array(100));
    return types.length;
  });
  expect([sent[8], sent[9], sent[10], sent[19]]).toEqual([0, 0, 10, 10]);
  await Promise.resolve();
  expect(types).toEqual(Array.from({ length: 20 }, () => FRAME.response));
});

test("the head of a large body is not a small frame: beside other large bodies, a body goes out 1 MiB at a time", () => {
  const types: number[] = [];
  const writer = writerOf(types);
  const { body, mark, request } = FRAME;
  writer.add(new Rest(7, [new Uint8Array(17 * FRAME_BYTES)], null));
  writer.flush();
  writer.begin(request, 0, 8, 0);
  writer.add(new Rest(8, [new Uint8Array(17 * FRAME_BYTES)], null));
  writer.flush();
  expect([types.splice(0), writer.marked()]).toEqual([[body, mark, request], true]);
  writer.flush();
  expect([types.splice(0), writer.marked()]).toEqual([[body, body, mark], true]); // the rest, and 1 MiB of the other one
  writer.flush();
  expect([types, writer.isEmpty]).toEqual([[body], true]);
});

test("a reader answers a mark after 32 KiB of bodies, also in frames of one byte, and refuses one before, and an answer to no mark", () => {
  const [answers, refused]: [number[], string[]] = [[], []];
  const writer = writerOf(answers);
  const sink = { isOpen: true, frame: () => {}, piece: () => {}, malformed: (what: string) => void refused.push(what) };
  const reader = new FrameReader(sink, writer);
  const half = frame(FRAME.body, 0, 1, new Uint8Array(FRAME_BYTES / 2));
  const small = frame(FRAME.body, 0, 1, new Uint8Array(1));
  // The writer counts the bytes that it sends, with the headers of frames.
  for (let bytes = 0; bytes < FRAME_BYTES; bytes += small.length) reader.push(small);
  reader.push(frame(FRAME.mark, 0, 0));
  for (const bytes of [half, frame(FRAME.mark, 0, 0), frame(FRAME.mark, 0, 0), frame(FRAME.marked, 0, 0)])
    reader.push(bytes);
  writer.flush();
  expect(answers).toEqual([FRAME.marked, FRAME.marked]);
  expect(refused).toEqual(["a mark without bytes before it", "a MARKED without a mark"]);
});

test("a body that arrives in pieces moves little by little to larger memory, at most four times what has arrived", () => {
  const { set } = Uint8Array.prototype;
  for (const total of [262_144, 262_145, 1_048_576, 1_048_577, 9_000_001]) {
    const bytes = pattern(total);
    const collector = new Collector(total, bytes.subarray(0, 1_000));
    let most = 0;
    try {
      Uint8Array.prototype.set = function (from, at) {
        most += from.length;
        return set.call(this, from, at);
      };
      for (let at = 1_000; at < total; at += 10_000) {
        most = 0;
        const piece = bytes.subarray(at, at + 10_000);
        collector.add(piece);
        expect(most).toBeLessThanOrEqual(3 * piece.length);
        expect(collector.bytes.length).toBeLessThanOrEqual(Math.max(262_144, 4 * collector.length));
      }
    } finally {
      Uint8Array.prototype.set = set;
    }
    expect([collector.missing, same(collector.bytes, bytes)]).toEqual([0, true]);
  }
});

test("1 000 requests and streams at once are all answered, each with its own bytes", async () => {
  await using space = new Workspace();
  const bus = await space.bus({ via, slots: 256, queue: { limit: 2_000 } });
  async function* twice(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
    yield bytes;
    yield bytes;
  }
  await space.worker((request) => (request.path === "/twice" ? twice(request.body) : request.body), { via });
  await bus.ready();
  const all = Array.from({ length: 1_000 }, async (_, n) => {
    const body = pattern(n * 50);
    const path = n % 2 === 0 ? "/twice" : "/once";
    const answer = await bus.request({ path, body });
    return (
      answer.body.length === body.length * (n % 2 === 0 ? 2 : 1) && same(answer.body.subarray(0, body.length), body)
    );
  });
  expect((await Promise.all(all)).every((isRight) => isRight)).toBe(true);
});

test("a reader that stops holds its stream at the credit, 16 of them delay no other request, and go on later", async () => {
  await using space = new Workspace();
  const bus = await space.bus({ via });
  let produced = 0;
  async function* endless(): AsyncGenerator<Uint8Array> {
    for (;;) {
      produced += 8_192;
      yield new Uint8Array(8_192);
    }
  }
  await space.worker((request) => (request.path === "/endless" ? endless() : "quick"), { via });
  await bus.ready();
  const streams = await Promise.all(Array.from({ length: 16 }, () => bus.stream({ path: "/endless" })));
  let before = -1;
  await until(() => before === (before = produced), "the sources to stop");
  expect(produced).toBeLessThan(16 * 300_000);
  expect((await bus.request({ path: "/quick" })).text()).toBe("quick");
  for (const stream of streams) {
    let bytes = 0;
    for await (const chunk of stream.chunks()) if ((bytes += chunk.length) > 1_000_000) break;
    expect(bytes).toBeGreaterThan(1_000_000);
  }
});

onLinux(
  "a worker that is stopped holds what it was sent; its kill settles each request, and what was never sent runs elsewhere",
  async () => {
    await using space = new Workspace();
    const bus = await space.bus({ via, slots: 64 });
    await using stopped = remote(space);
    await bus.ready();
    await stop(stopped);
    const bodies = Array.from({ length: 8 }, () => bus.request({ path: "/echo", body: new Uint8Array(2_000_000) }));
    const results = Promise.allSettled(bodies);
    await space.worker((request) => `${request.body.length}`, { via });
    await bus.ready({ workers: 2 });
    await stopped.kill();
    const settled = await results;
    const texts = settled.map((one) =>
      one.status === "fulfilled" ? one.value.text() : (one.reason as SlotbusError).code,
    );
    // The socket holds less than a whole body, so none of them can have run.
    expect(texts).toEqual(Array.from({ length: 8 }, () => "2000000"));
  },
);

const attacks: [name: string, says: RegExp, onRequest: (worker: RawWorker, id: number) => void][] = [
  [
    "a frame that claims 4 GB",
    /a frame of 4294967295 bytes/,
    (w, id) => w.send(frame(FRAME.body, 0, id, HEAD, 0xffff_ffff)),
  ],
  ["a BODY above 1 MiB", /a frame of 1048577 bytes/, (w, id) => w.send(frame(FRAME.body, 0, id, HEAD, 1_048_577))],
  ["another frame above 64 KiB", /a frame of 65537 bytes/, (w, id) => w.send(frame(FRAME.end, 0, id, HEAD, 65_537))],
  ["an unknown type", /unknown type 99/, (w, id) => w.send(frame(99, 0, id))],
  ["an empty BODY", /empty BODY/, (w, id) => w.send(frame(FRAME.body, 0, id))],
  ["bytes before the response", /too many bytes/, (w, id) => w.send(frame(FRAME.body, 0, id, HEAD))],
  ["a head above the limit", /invalid response/, (w, id) => w.send(response(id, 200, 0x7fff_ffff, 0, HEAD))],
  ["a body above the limit", /invalid response/, (w, id) => w.send(response(id, 200, 5, 0xffff_ffff, HEAD))],
  ["more bytes than it announced", /invalid response/, (w, id) => w.send(response(id, 200, 4, 0, HEAD))],
  ["an invalid status", /invalid response/, (w, id) => w.send(response(id, 999, 5, 0, HEAD))],
  ["a malformed head", /malformed head/, (w, id) => w.send(response(id, 200, 5, 0, new Uint8Array(5).fill(255)))],
  [
    "two responses",
    /two responses|too many|invalid response|left/,
    (w, id) => {
      w.send(response(id, 200, 5, 10, HEAD), response(id, 200, 5, 10, HEAD));
    },
  ],
  ["the end of no stream", /does not stream/, (w, id) => w.send(frame(FRAME.end, 0, id))],
  ["credit for no stream", /invalid credit/, (w, id) => w.send(frame(FRAME.credit, 0, id, new Uint8Array(4).fill(1)))],
  ["a free exchange again", /was not cancelled/, (w, id) => w.send(frame(FRAME.freed, 0, id))],
  ["a mark without bytes", /a mark without bytes/, (w, id) => w.send(frame(FRAME.mark, 0, id))],
  ["an answer to no mark", /a MARKED without a mark/, (w, id) => w.send(frame(FRAME.marked, 0, id))],
  ["a frame of clients", /only a client sends/, (w, id) => w.send(frame(FRAME.request, 0, id, HEAD))],
  [
    "a flood of pongs",
    /too many frames/,
    (w) => {
      const pongs = new Uint8Array(HEADER_BYTES * 5_000);
      for (let n = 0; n < 5_000; n++) putHeader(pongs, n * HEADER_BYTES, FRAME.pong, 0, 0, 0);
      w.send(pongs, pongs, pongs);
    },
  ],
];

for (const [name, says, onRequest] of attacks) {
  test(`a worker that sends ${name} is evicted; its request settles, and the next worker is not harmed`, async () => {
    await using space = new Workspace();
    const bus = await space.bus({ via, allowedUids: [] });
    const died = Promise.withResolvers<string>();
    bus.on("died", (_, reason) => died.resolve(reason));
    const worker = await RawWorker.attach(space, onRequest);
    await bus.ready();
    const error = await rejection<SlotbusError>(bus.request({ path: "/" }));
    expect(error.mayHaveExecuted).toBe(true);
    expect(await died.promise).toMatch(says);
    await until(() => worker.isClosed, "its socket to be closed");
    await space.worker(() => "fine", { via });
    await bus.ready();
    expect((await bus.request({ path: "/" })).text()).toBe("fine");
  });
}

test("a worker that sends more of a stream than it has credit for is evicted", async () => {
  await using space = new Workspace();
  const bus = await space.bus({ via });
  const worker = await RawWorker.attach(space, (one, id) => {
    one.send(response(id, 200, 5, 0, HEAD, FLAG.streams));
    for (let n = 0; n < 4; n++) one.send(frame(FRAME.body, 0, id, new Uint8Array(FRAME_BYTES)));
    one.send(frame(FRAME.body, 0, id, HEAD));
  });
  await bus.ready();
  const answer = await bus.stream({ path: "/" });
  await until(() => worker.isClosed, "its socket to be closed");
  expect((await rejection<SlotbusError>(answer.bytes())).code).toBe("WORKER_DIED");
});

test("random bytes and random frames from workers harm no bus", async () => {
  await using space = new Workspace();
  const bus = await space.bus({ via, slots: 4 });
  let seed = 1;
  const random = (below: number): number => {
    seed = (seed * 48_271) % 0x7fff_ffff;
    return seed % below;
  };
  for (let round = 0; round < 60; round++) {
    const worker = await RawWorker.attach(space, (one, id) => {
      for (let n = 0; n < 20; n++) {
        const body = Uint8Array.from({ length: random(40) }, () => random(256));
        const isOdd = random(8) === 0;
        one.send(isOdd ? body : frame(random(14), random(3), random(3) === 0 ? random(99_999) : id, body));
      }
    });
    await bus.ready();
    await Promise.allSettled(Array.from({ length: 4 }, () => bus.request({ path: "/" }, { timeout: 50 })));
    worker.send(new Uint8Array(99).fill(255));
    await until(() => worker.isClosed, "its socket to be closed");
  }
  expect(bus.stats()).toMatchObject({ inFlight: 0, unsettledAtEnd: 0 });
  await space.worker(() => "fine", { via });
  await bus.ready();
  expect((await bus.request({ path: "/" })).text()).toBe("fine");
});

/** A request as a client sends it: what its first frame claims, and the bytes that follow. */
function request(id: number, head: number, body: number, bytes: Uint8Array, method = 0, flags = 0): Uint8Array {
  const whole = new Uint8Array(24 + bytes.length);
  putU32(whole, 12, head);
  putU32(whole, 16, body);
  putU32(whole, 20, method);
  whole.set(bytes, 24);
  return frame(FRAME.request, flags, id, whole);
}

/** The head of a request with the path "/". */
const ASKS = Uint8Array.from([4, 0, 0, 0, 1, 0, 0, 0, 47]);

const clientAttacks: [name: string, says: RegExp, frames: () => Uint8Array[]][] = [
  ["a head above the limit", /invalid request/, () => [request(1, 0x7fff_ffff, 0, ASKS)]],
  ["a body above the limit", /invalid request/, () => [request(1, 9, 0xffff_ffff, ASKS)]],
  ["an undecodable head", /malformed head/, () => [request(1, 9, 0, new Uint8Array(9).fill(255))]],
  ["an unknown method", /invalid request/, () => [request(1, 9, 0, ASKS, 99)]],
  ["one exchange twice", /invalid request/, () => [request(256, 9, 0, ASKS), request(512, 9, 0, ASKS)]],
  ["an exchange above its concurrency", /invalid request/, () => [request(4, 9, 0, ASKS)]],
  ["more bytes than it announced", /too many bytes/, () => [request(1, 9, 0, ASKS), frame(FRAME.body, 0, 1, HEAD)]],
  [
    "credit for no stream",
    /invalid credit/,
    () => [request(1, 9, 0, ASKS), frame(FRAME.credit, 0, 1, HEAD.subarray(0, 4))],
  ],
  ["a mark without bytes", /a mark without bytes/, () => [frame(FRAME.mark, 0, 1)]],
  ["a frame of workers", /only a worker sends/, () => [frame(FRAME.response, 0, 1, HEAD)]],
  [
    "a flood of pings",
    /frames per second/,
    () => {
      const pings = new Uint8Array(HEADER_BYTES * 5_000);
      for (let n = 0; n < 5_000; n++) putHeader(pings, n * HEADER_BYTES, FRAME.ping, 0, 0, 0);
      return [pings, pings, pings];
    },
  ],
];

for (const [name, says, frames] of clientAttacks) {
  test(`a client that sends ${name} is left, and the worker takes requests of the next client`, async () => {
    await using space = new Workspace();
    const isClosed = Promise.withResolvers<void>();
    const listener = sockets.listen(join(space.directory, `${space.name}.sock`), (duplex) => {
      const reader = new HandshakeReader();
      duplex.onClose = isClosed.resolve;
      duplex.onData = (bytes) => {
        reader.read(bytes, (type) => {
          if (type === 1) {
            duplex.write(encodeWelcome({ tag: 1, headLimit: 4_096, payloadLimit: 1_000, concurrency: 4 }));
            return true;
          }
          for (const one of frames()) duplex.write(one);
          return false;
        });
      };
    });
    const handled = Promise.withResolvers<void>();
    const worker = await space.worker(
      async (asked) => {
        if (asked.body.length > 0) return "fine";
        handled.resolve();
        return new Promise<string>((_, reject) => {
          asked.signal.addEventListener("abort", () => reject(asked.signal.reason as Error));
        });
      },
      { via },
    );
    worker.on("handlerError", () => {});
    const reason = Promise.withResolvers<SlotbusError>();
    worker.on("disconnected", reason.resolve);
    const error = await reason.promise;
    expect([error.code, error.message]).toEqual(["PROTOCOL", expect.stringMatching(says)]);
    await isClosed.promise;
    listener.stop();
    rmSync(join(space.directory, `${space.name}.sock`), { force: true });
    const bus = await space.bus({ via });
    await bus.ready();
    expect((await bus.request({ path: "/", body: "x" })).text()).toBe("fine");
  });
}
