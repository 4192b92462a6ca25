/** The JSON-RPC endpoint that the stdio bus uses three times: for a worker, towards a worker, for a server's client. */

import { describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type PeerOwner, type PeerRequest, RpcPeer } from "../src/stdio/peer.ts";
import { fixture, running } from "./stdio-stage.ts";
import { until } from "./wait.ts";

describe("a request with the id of an open request is refused, and the open one goes on", () => {
  // "1" is another id than 1, and 1 may be used again after its answer.
  const cancel = { method: "$/cancelRequest", params: { id: 1 } };
  const asked = [
    { id: 1, method: "wait" },
    { id: 1, method: "echo", params: "ran" },
    { id: "1", method: "echo" },
    cancel,
  ];
  const again = { id: 1, method: "echo", params: "again" };
  const lines = (messages: object[]): string => messages.map((message) => `${JSON.stringify(message)}\n`).join("");
  const refused = { id: 1, error: { code: -32_600, message: "a request with id 1 is not answered yet" } };
  const answers = [refused, { id: "1", result: null }, { id: 1, error: {} }, { id: 1, result: "again" }];
  const parse = (text: string): { id: unknown; error?: object }[] =>
    text
      .split("\n")
      .slice(0, -1)
      .map((line) => JSON.parse(line));
  const inOrder = (messages: { id: unknown }[]): object[] => [
    ...messages.filter(({ id }) => id === 1).slice(0, 1),
    ...messages.filter(({ id }) => id === "1"),
    ...messages.filter(({ id }) => id === 1).slice(1),
  ];

  test("by a worker", async () => {
    const { command, args } = fixture("stdio-worker.ts");
    await using worker = Bun.spawn([command, ...args!], { stdio: ["pipe", "pipe", "inherit"] });
    let text = "";
    const read = (async () => {
      const decoder = new TextDecoder();
      for await (const chunk of worker.stdout) text += decoder.decode(chunk, { stream: true });
    })();
    worker.stdin.write(lines(asked));
    await worker.stdin.flush();
    await until(() => parse(text).length === 3, "three answers");
    worker.stdin.write(lines([again]));
    await worker.stdin.end();
    await read;
    expect(inOrder(parse(text))).toMatchObject(answers);
    expect(parse(text)).toHaveLength(4);
  });

  test("by a server, to its client", async () => {
    const directory = mkdtempSync(join(tmpdir(), "slotbus-peer-"));
    try {
      await using bus = await running({ pools: [fixture("stdio-worker.ts", { ready: true })] });
      await using server = await bus.serve({ unix: join(directory, "s") });
      let text = "";
      const socket = connect(server.path!, () => void socket.write(lines(asked)));
      socket.on("data", (data) => (text += data.toString()));
      await until(() => parse(text).length === 3, "three answers");
      socket.end(lines([again]));
      await until(() => socket.closed, "the end of the connection");
      expect(inOrder(parse(text))).toMatchObject(answers);
      expect(parse(text)).toHaveLength(4);
    } finally {
      rmSync(directory, { recursive: true });
    }
  });

  test("by a bus, to its worker, and it counts as the worker's error", async () => {
    const faults: string[] = [];
    const pools = [fixture("stdio-odd.ts")];
    await using bus = await running({ pools }, { fault: ({ message }) => faults.push(message) });
    const ran: unknown[] = [];
    bus.onRequest("slow", async (params) => {
      ran.push(params);
      await until(() => faults.length === 1, "the second request");
      return "first";
    });
    expect(await bus.request("askTwice", null, { timeout: 5_000 })).toMatchObject([
      { id: "twice", error: { code: -32_600, message: 'a request with id "twice" is not answered yet' } },
      { id: "twice", result: "first" },
    ]);
    expect([ran, bus.stats().protocolErrors]).toEqual([[1], 1]);
    expect(faults[0]).toContain('sent another request with the id "twice"');
  });
});

/** An owner that handles each request as the test says. */
class Owner implements PeerOwner<never> {
  readonly peer: RpcPeer;
  readonly seen: unknown[] = [];
  readonly open: PeerRequest[] = [];
  written = "";
  depth = 0;
  handle: (request: PeerRequest) => Promise<unknown> | null = () => null;

  constructor(limits: { concurrency?: number; queuedBytes?: number } = {}) {
    const sink = { write: (data: string | Uint8Array) => ((this.written += `${data}`), null) };
    const all = {
      framing: "ndjson" as const,
      protocol: "json-rpc" as const,
      messageBytes: 4_096,
      concurrency: 8,
      queuedBytes: 4_096,
      ...limits,
    };
    this.peer = new RpcPeer(this, sink, all, () => "cancelled");
  }

  asked(request: PeerRequest): Promise<unknown> | null {
    expect(++this.depth).toBe(1);
    this.seen.push(request.id);
    this.open.push(request);
    const hold = this.handle(request);
    this.depth--;
    return hold;
  }

  /** Pushes requests with these ids, in one chunk. */
  push(...ids: number[]): Promise<void> | null {
    return this.peer.push(Buffer.from(ids.map((id) => `{"id":${id},"method":"m"}\n`).join("")));
  }

  received = (): boolean => true;
  misread(): void {}
  invalid(): void {}
  notified = (): null => null;
  answered(): void {}
}

test("a cancel notification aborts the open request with its id, and no other", () => {
  const owner = new Owner();
  void owner.push(1, 2);
  void owner.peer.push(Buffer.from('{"method":"$/cancelRequest","params":{"id":2}}\n'));
  expect(owner.open.map(({ isAborted }) => isAborted)).toEqual([false, true]);
  expect(owner.open[1]!.signal.reason).toBe("cancelled");
});

describe("reading", () => {
  test("bytes that arrive, and answers that make room, wait while a message is being handled", () => {
    const owner = new Owner({ concurrency: 1 });
    owner.handle = (request) => {
      if (request.id === 1) void owner.push(4, 5);
      owner.peer.answer(request.id!, null);
      return null;
    };
    expect(owner.push(1, 2, 3)).toBeNull();
    expect(owner.seen).toEqual([1, 2, 3, 4, 5]);
  });

  test("continues when any request at the limit is answered, not only the last", async () => {
    const owner = new Owner({ concurrency: 2 });
    const all = owner.push(1, 2, 3);
    expect(owner.seen).toEqual([1, 2]);
    owner.peer.answer(owner.open[0]!.id!, "first");
    expect(owner.seen).toEqual([1, 2, 3]);
    owner.peer.answer(owner.open[1]!.id!, "second"); // bytes after the last message are read only when there is room
    await all;
    owner.peer.answer(owner.open[2]!.id!, "third");
    await owner.peer.drain();
    expect(
      owner.written
        .split("\n")
        .slice(0, -1)
        .map((line) => JSON.parse(line).result),
    ).toEqual(["first", "second", "third"]);
  });

  test("waits for the owner's promise, within a chunk too, and continues when it settles either way", async () => {
    const owner = new Owner();
    const holds = new Map([1, 2].map((id) => [id, Promise.withResolvers<void>()]));
    owner.handle = ({ id }) => holds.get(id as number)?.promise ?? null;
    const all = owner.push(1, 2, 3);
    expect(owner.seen).toEqual([1]);
    holds.get(1)!.resolve();
    await until(() => owner.seen.length === 2, "the second");
    holds.get(2)!.reject(new Error("its reader is gone"));
    await all;
    expect(owner.seen).toEqual([1, 2, 3]);
  });

  test("stops while `queuedBytes` bytes wait to be written, and stopReading ends a waiting read", async () => {
    const owner = new Owner({ queuedBytes: 1 });
    owner.handle = (request) => (owner.peer.answer(request.id!, null), null);
    const all = owner.push(1, 2);
    expect(owner.seen).toEqual([1]); // its answer is written in a microtask
    await all;
    expect(owner.seen).toEqual([1, 2]);
    const rest = owner.push(3, 4);
    owner.peer.stopReading();
    await rest;
    expect([owner.seen, owner.push(5)]).toEqual([[1, 2, 3], null]);
  });

  test("a sink that fails discards waiting bytes, and the peer no longer waits for any answer", async () => {
    const owner = new Owner();
    const broken = Promise.withResolvers<void>();
    const failing = { write: () => Promise.reject(new Error("EPIPE")) };
    const limits = {
      framing: "ndjson" as const,
      protocol: "json-rpc" as const,
      messageBytes: 64,
      concurrency: 8,
      queuedBytes: 8,
    };
    const events = Object.assign(owner, { broken: () => broken.resolve() });
    const peer = new RpcPeer(events, failing, limits, () => "cancelled");
    peer.post('{"method":"long enough"}');
    const room = peer.room();
    await broken.promise;
    await room;
    await peer.drain();
    expect([peer.out.isOpen, peer.out.queuedBytes]).toEqual([false, 0]);
  });
});
