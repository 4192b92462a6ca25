/** A client that breaks the protocol: its worker names the fault, leaves the client, and attaches to the next one. */

import { expect, test } from "bun:test";
import { join } from "node:path";
import type { Socket } from "bun";
import { Arena, bodyOffset, encodeHead } from "../src/bus/codec.ts";
import { type SlotbusError, type SlotWorker, type WorkerRequest } from "../src/index.ts";
import { C, FIELDS, native, type Pointer, view } from "../src/native/library.ts";
import { descriptors, mappings, until, Workspace } from "./support.ts";

/** A client made from the library's own functions, without checks. */
class BareClient implements Disposable {
  readonly client: Pointer;
  /** Index and socket of each attachment. */
  readonly links: { index: number; fd: number; socket: Socket<number> }[] = [];
  readonly #listener: { stop(now: boolean): void };
  #closed = false;

  constructor(space: Workspace, onAttached: (client: BareClient) => void) {
    this.client = native.sb_client_open(4, 65_536, 4_096, 4_096, 0, 1) as Pointer;
    this.#listener = Bun.listen<number>({
      unix: join(space.directory, `${space.name}.sock`),
      socket: {
        data: (socket, bytes) => {
          if (bytes[0] === C.SB_MSG_JOIN) this.#offer(socket);
          if (bytes[0] !== C.SB_MSG_ATTACHED) return;
          native.sb_link_start(this.client, socket.data);
          onAttached(this);
        },
        close: (socket) => void (this.#closed || native.sb_link_stop(this.client, socket.data)),
      },
    });
  }

  get last(): { index: number; fd: number; socket: Socket<number> } {
    return this.links.at(-1)!;
  }

  send(type: number, ...body: number[]): void {
    expect(native.sb_control_send(this.last.fd, type, new Uint8Array([...body, 0]), body.length)).toBe(0);
  }

  /** Publishes the arena of a slot; returns the address of its request line. */
  publish(write: (arena: Arena) => { head: number; body: number }): { slot: number; line: number } {
    const { index } = this.last;
    const slot = native.sb_slot_reserve(this.client, index);
    expect(slot).toBeGreaterThanOrEqual(0);
    const stride = native.sb_client_stride(this.client);
    const arenas = native.sb_link_arenas(this.client, index) as number;
    const { head, body } = write(new Arena(view(arenas + 2 * slot * stride, stride)));
    native.sb_slot_publish(this.client, index, slot, 0, head, bodyOffset(head), body, 0, 1);
    const slots = FIELDS["sb_region.pad5"][0] + FIELDS["sb_region.pad5"][1];
    // Header, lines and slots fill two pages with four slots.
    return { slot, line: arenas - 2 * C.SB_PAGE + slots + slot * 128 };
  }

  /** Publishes a request like an honest client. */
  ask(path: string, body = 0): { slot: number; line: number } {
    return this.publish((arena) => ({
      head: encodeHead(arena, [path, "", "", ""], 0, 4, 4_096, "request"),
      body,
    }));
  }

  /** Waiting events: kind and slot. */
  poll(): { kind: number; slot: number }[] {
    const count = native.sb_client_poll(this.client, 0);
    const words = new Uint32Array(
      view(native.sb_client_events(this.client) as number, C.SB_BATCH * C.SB_EVENT_WORDS * 4),
    );
    return Array.from({ length: count }, (_, i) => ({
      kind: words[i * C.SB_EVENT_WORDS]! & 0xffff,
      slot: words[i * C.SB_EVENT_WORDS]! >>> 16,
    }));
  }

  /** Releases all memory; nothing may read it afterwards. */
  [Symbol.dispose](): void {
    this.#listener.stop(true);
    for (const { index } of this.links) native.sb_link_drop(this.client, index, 1);
    native.sb_client_close(this.client);
    this.#closed = true;
  }

  #offer(socket: Socket<number>): void {
    const { fd } = socket as unknown as { fd: number };
    socket.data = native.sb_link_offer(this.client, fd, 4);
    expect(socket.data).toBeGreaterThanOrEqual(0);
    this.links.push({ index: socket.data, fd, socket });
  }
}

function listen(worker: SlotWorker): SlotbusError[] {
  const reasons: SlotbusError[] = [];
  worker.on("disconnected", (reason) => reasons.push(reason));
  return reasons;
}

const setLine = (line: number, field: keyof typeof FIELDS, value: number): void =>
  new DataView(view(line, 64)).setUint32(FIELDS[field][0], value, true);

const ways: [what: string, code: string, how: (client: BareClient) => void][] = [
  [
    "a head of garbage",
    "REGION_CORRUPT",
    (client) => client.publish((arena) => (arena.bytes.fill(255, 0, 64), { head: 40, body: 0 })),
  ],
  ["a head of no bytes", "REGION_CORRUPT", (client) => client.publish(() => ({ head: 0, body: 0 }))],
  [
    "a head above the limit",
    "REGION_CORRUPT",
    (client) => setLine(client.ask("/").line, "sb_request_line.head_bytes", 0x7fff_ffff),
  ],
  [
    "a body beyond its arena",
    "REGION_CORRUPT",
    (client) => setLine(client.ask("/").line, "sb_request_line.body_bytes", 0xffff_fff0),
  ],
  [
    "an offset beyond its arena",
    "REGION_CORRUPT",
    (client) => setLine(client.ask("/").line, "sb_request_line.body_offset", 0xffff_ff00),
  ],
  ["an unknown message", "PROTOCOL", (client) => client.send(99, 1, 2)],
  ["a second HELLO", "PROTOCOL", (client) => client.send(C.SB_MSG_HELLO)],
  ["a cancel of another length", "PROTOCOL", (client) => client.send(C.SB_MSG_CANCEL, 1, 2, 3)],
];

for (const [what, code, how] of ways) {
  test(`the worker leaves a client that sends ${what} with ${code}, runs no handler, and serves the next client`, async () => {
    await using space = new Workspace();
    space.leftovers = [`${space.name}.sock`];
    const before = [descriptors(), mappings()];
    const paths: string[] = [];
    const client = new BareClient(space, (self) => {
      if (self.links.length === 1) how(self);
      else self.ask("/good");
    });
    const worker = await space.worker((request) => (paths.push(request.path), "answer"), {
      reconnect: { initial: 1, max: 5 },
    });
    const reasons = listen(worker);
    await until(() => reasons.length === 1, "it leaves");
    expect([reasons[0]!.code, paths]).toEqual([code, []]);
    if (code === "REGION_CORRUPT") {
      expect(reasons[0]).toMatchObject({ code: "REGION_CORRUPT" });
      expect(reasons[0]!.message).toContain(space.name);
      expect(reasons[0]!.cause).toBeDefined(); // the exact fault
    } else {
      expect(reasons[0]!.message).toMatch(/sent an unexpected message of type \d+/);
    }
    await until(() => paths.length === 1, "the next client's request is handled");
    await until(() => client.poll().some(({ kind }) => kind === C.SB_EV_DONE), "and answered");
    expect([paths, reasons.length, worker.connected]).toEqual([["/good"], 1, true]);
    await worker.close();
    client[Symbol.dispose]();
    await until(() => descriptors() <= before[0]!, "all descriptors are closed");
    expect(mappings()).toBe(before[1]!);
  });
}

test("a cancel for no request is ignored, a cancel for a running handler aborts it", async () => {
  await using space = new Workspace();
  space.leftovers = [`${space.name}.sock`];
  const kept: WorkerRequest[] = [];
  let client!: BareClient;
  using _client = (client = new BareClient(space, (self) => void self.ask("/running")));
  const worker = await space.worker((request) => (kept.push(request), void request.defer()));
  const reasons = listen(worker);
  await until(() => kept.length === 1, "it runs");
  const { signal } = kept[0]!;
  const token = native.sb_slot_token(client.client, client.last.index, 0);
  const cancel = (slot: number, of: number): void =>
    client.send(C.SB_MSG_CANCEL, ...new Uint8Array(new Uint32Array([slot, of]).buffer));
  const running = kept[0]!.claim.slot;
  cancel(0xffff_ffff, token);
  cancel((running + 1) % 4, kept[0]!.claim.token);
  cancel(running, kept[0]!.claim.token + 1);
  const { promise, resolve } = Promise.withResolvers<void>();
  signal.addEventListener("abort", () => resolve());
  let early = true;
  void promise.then(() => (early = false));
  await new Promise((done) => setTimeout(done, 20)); // all three are read
  expect([signal.aborted, early, worker.connected, reasons]).toEqual([false, true, true, []]);
  cancel(running, kept[0]!.claim.token);
  await promise;
  expect(signal.aborted).toBe(true);
  await worker.close({ timeout: 0 });
});

test("a client that leaves in the middle of a message is handled like a closed client", async () => {
  await using space = new Workspace();
  space.leftovers = [`${space.name}.sock`];
  using client = new BareClient(space, (self) => {
    self.last.socket.write(new Uint8Array([C.SB_MSG_CANCEL, 8, 0, 0])); // the other six bytes never come
    self.last.socket.end();
  });
  const worker = await space.worker(() => "x", { reconnect: false });
  const reasons = listen(worker);
  await until(() => reasons.length === 1, "it leaves");
  expect([reasons[0]!.code, worker.connected, client.links.length]).toEqual(["CLOSED", false, 1]);
});

test("an unknown method of a client does not reach the handler", async () => {
  await using space = new Workspace();
  space.leftovers = [`${space.name}.sock`];
  const methods: string[] = [];
  using client = new BareClient(space, (self) => setLine(self.ask("/").line, "sb_request_line.method", 200));
  const worker = await space.worker((request) => (methods.push(request.method), "x"), { reconnect: false });
  const reasons = listen(worker);
  await until(() => methods.length + reasons.length > 0, "it is refused, or handled");
  expect(client.links.length).toBe(1);
  expect([methods, reasons.map(({ code }) => code)]).toEqual([[], ["REGION_CORRUPT"]]);
});
