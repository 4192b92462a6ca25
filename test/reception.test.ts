/** What reaches the client's socket, and what a worker does with a listener that is not a client. */

import { expect, test } from "bun:test";
import { chmodSync, existsSync, mkdirSync, statSync, symlinkSync, writeFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import type { Socket } from "bun";
import {
  type SlotbusError,
  ClosedError,
  InvalidConfigError,
  NotReadyError,
  SlotBus,
  VersionMismatchError,
  NoWorkerError,
  type SlotWorker,
} from "../src/index.ts";
import { C } from "../src/native/abi.ts";
import { leaves } from "./leaks.ts";
import { descriptors, rejection, until, Workspace, mappings } from "./support.ts";

const MAGIC = 0x0053554254304c53n;

/** A message in its form on the socket. */
function message(type: number, ...words: [bytes: 2 | 4 | 8, value: number | bigint][]): Uint8Array {
  const body = Buffer.alloc(words.reduce((sum, [bytes]) => sum + bytes, 0));
  let at = 0;
  for (const [bytes, value] of words) {
    if (bytes === 8) body.writeBigUInt64LE(BigInt(value), at);
    else body.writeUIntLE(Number(value), at, bytes);
    at += bytes;
  }
  return new Uint8Array([type, body.length, ...body]);
}

function joinMessage(abi: number, concurrency = 4, role: number = C["SB_ROLE_WORKER"]): Uint8Array {
  return message(C.SB_MSG_JOIN, [8, MAGIC], [2, abi], [2, abi], [4, role], [4, concurrency], [4, 0]);
}

/** A raw connection to the client. */
async function knock(space: Workspace): Promise<{ socket: Socket<undefined>; got: number[]; closed: () => boolean }> {
  const got: number[] = [];
  let closed = false;
  const socket = await Bun.connect({
    unix: join(space.directory, `${space.name}.sock`),
    socket: {
      data: (_, bytes) => void got.push(...bytes),
      close: () => {
        closed = true;
      },
    },
  });
  return { socket, got, closed: () => closed };
}

async function refusals(space: Workspace): Promise<{ bus: SlotBus; reasons: string[] }> {
  const bus = await space.bus();
  const reasons: string[] = [];
  bus.on("refused", ({ pid }, reason) => reasons.push(`${pid} ${reason}`));
  return { bus, reasons };
}

test("a ready() that times out says how many workers came, and why others did not", async () => {
  await using space = new Workspace();
  const bus = await space.bus();
  const late = bus.ready({ workers: 3, timeout: 2_000 });
  const failed = rejection<NotReadyError>(bus.ready({ workers: 2, timeout: 500 }));
  const unlimited = rejection(bus.ready({ workers: 9, timeout: Infinity }));
  for (let times = 0; times < 2; times++) {
    const peer = await knock(space);
    peer.socket.write(joinMessage(7));
    await until(peer.closed, "it is turned away");
  }
  const gone = await space.worker(() => "x");
  await until(() => bus.workers.length === 1, "it came");
  await gone.close();
  await until(() => bus.workers.length === 0, "it left");
  await space.worker(() => "x");
  const error = await failed;
  expect(error).toBeInstanceOf(NotReadyError);
  const { attached, wanted, failures, retryable, cause } = error;
  const refused = `pid ${process.pid} was refused: it speaks protocol 7 to 7, this bus speaks ${C.SB_ABI}, 2 times`;
  expect({ attached, wanted, failures, retryable, cause }).toEqual({
    attached: 1,
    wanted: 2,
    failures: [refused, `pid ${process.pid} left`],
    retryable: true,
    cause: undefined,
  });
  expect(error.message).toStartWith(`Bus "${space.name}" has 1 of 2 workers after 500 ms. Meanwhile: ${refused}; pid`);
  await space.worker(() => "x");
  await space.worker(() => "x");
  await late;
  const nobody = await rejection<NotReadyError>(bus.ready({ workers: 4, timeout: 1 }));
  expect(nobody.failures).toEqual([]); // since the call
  expect(nobody.message).toStartWith(`Bus "${space.name}" has 3 of 4 workers after 1 ms. Start workers`);
  expect(await rejection(bus.ready({ timeout: -1 }))).toBeInstanceOf(InvalidConfigError);
  await bus.close();
  expect(await unlimited).toBeInstanceOf(ClosedError);
});

test("a peer of another version gets our version, is named with its own, and gets no memory", async () => {
  await using space = new Workspace();
  const { bus, reasons } = await refusals(space);
  const peer = await knock(space);
  peer.socket.write(joinMessage(7));
  await until(peer.closed, "it is turned away");
  expect(peer.got.slice(0, 2)).toEqual([C.SB_MSG_REFUSED, 16]);
  const refused = Buffer.from(peer.got);
  expect([refused.readUInt16LE(10), refused.readUInt16LE(12), refused.readUInt32LE(14)]).toEqual([
    C.SB_ABI,
    C.SB_ABI,
    C.SB_EVERSION,
  ]);
  expect(reasons).toEqual([`${process.pid} it speaks protocol 7 to 7, this bus speaks ${C.SB_ABI}`]);
  expect(bus.stats().peersRefused).toBe(1);
});

test("garbage, a bell before joining, ATTACHED before HELLO and a malformed JOIN are turned away", async () => {
  await using space = new Workspace();
  const { bus, reasons } = await refusals(space);
  for (const bytes of [
    Buffer.from("GET / HTTP/1.1\r\n\r\n"),
    new Uint8Array([0]),
    message(C.SB_MSG_ATTACHED),
    message(C.SB_MSG_JOIN, [8, 1n], [4, 1]),
    message(C.SB_MSG_JOIN, [8, MAGIC]),
    joinMessage(C.SB_ABI, 0),
    joinMessage(C.SB_ABI, 257),
    joinMessage(C.SB_ABI, 4, 9),
    new Uint8Array(300).fill(255),
  ]) {
    const before = reasons.length;
    const peer = await knock(space);
    peer.socket.write(bytes);
    await until(peer.closed, `closed after ${bytes.length} bytes of ${bytes[0]}`);
    expect(reasons.length).toBe(before + 1);
  }
  await space.worker(() => "fine");
  expect((await bus.request({ path: "/" })).text()).toBe("fine");
});

test("a worker that leaves before the client has read its ATTACHED joins and leaves, and no registration stays", async () => {
  await using space = new Workspace();
  const { bus, reasons } = await refusals(space);
  const events: string[] = [];
  for (const event of ["joined", "left", "died"] as const) bus.on(event, () => events.push(event));
  const peer = await knock(space);
  peer.socket.write(joinMessage(C.SB_ABI));
  await until(() => peer.got.length > 0, "the client says HELLO");
  // In one piece, as a client that was stopped reads them.
  const all = [message(C.SB_MSG_ATTACHED), new Uint8Array([C.SB_MSG_BELL]), message(C.SB_MSG_DRAIN)];
  peer.socket.write(Buffer.concat([...all, message(C.SB_MSG_GOODBYE)]));
  peer.socket.end();
  await until(() => events.length + reasons.length === 2, "it has left, or was turned away");
  expect([events, reasons, bus.workers, bus.diagnostics().slots]).toEqual([["joined", "left"], [], [], []]);
  await space.worker(() => "fine");
  expect((await bus.request({ path: "/" })).text()).toBe("fine");
});

test("a silent peer is disconnected after 2 s, and delays no other peer meanwhile", async () => {
  await using space = new Workspace();
  const { bus, reasons } = await refusals(space);
  const silent = await knock(space);
  await space.worker(() => "fine");
  expect((await bus.request({ path: "/" })).text()).toBe("fine");
  await until(silent.closed, "the silent one is let go", 5_000);
  expect(reasons).toEqual([`${process.pid} the handshake timed out after 2000 ms`]);
});

test("64 handshakes at once; the 65th peer is refused and a worker retries", async () => {
  await using space = new Workspace();
  const { bus, reasons } = await refusals(space);
  const silent = await Promise.all(Array.from({ length: 64 }, () => knock(space)));
  const last = await knock(space);
  await until(last.closed, "the 65th is turned away");
  expect(reasons).toEqual([`${process.pid} 64 handshakes are already running`]);
  const opening = space.worker(() => "fine");
  await until(() => reasons.length > 2, "the worker was refused too, and retries");
  for (const { socket } of silent) socket.end();
  await opening;
  expect((await bus.request({ path: "/" })).text()).toBe("fine");
});

test("a peer that leaves in the middle of a handshake leaves nothing behind", async () => {
  await using space = new Workspace();
  const bus = await space.bus();
  const before = descriptors();
  for (let i = 0; i < 50; i++) {
    const peer = await knock(space);
    if (i % 2) peer.socket.write(joinMessage(C.SB_ABI));
    if (i % 4 === 3) await until(() => peer.got.length > 0, "HELLO came");
    peer.socket.terminate();
  }
  await until(() => descriptors() <= before, "all descriptors are closed");
  expect([bus.workers.length, bus.stats().workersJoined]).toEqual([0, 0]);
});

/** A peer that attaches without mapping anything, and then does what the test wants. */
async function attach(space: Workspace, bus: SlotBus) {
  const peer = await knock(space);
  peer.socket.write(joinMessage(C.SB_ABI));
  await until(() => peer.got[0] === C.SB_MSG_HELLO, "HELLO came");
  peer.socket.write(message(C.SB_MSG_ATTACHED));
  await until(() => bus.workers.length === 1, "it is attached");
  return peer;
}

for (const [what, bytes, reason] of [
  ["rings 20 000 times without work", new Uint8Array(20_000), /rang its doorbell more than 10000 times per second/],
  ["sends a message that nobody knows", message(99, [4, 1]), /sent an unexpected message of type 99/],
  ["joins twice", joinMessage(C.SB_ABI), /sent an unexpected message of type 1/],
] as const) {
  test(`an attached worker that ${what} is evicted with its pid, and its requests settle`, async () => {
    await using space = new Workspace();
    const bus = await space.bus();
    const deaths: string[] = [];
    bus.on("died", ({ pid }, how) => deaths.push(`${pid} ${how}`));
    const peer = await attach(space, bus);
    const moved = bus.request({ path: "/" });
    expect(bus.stats().inFlight).toBe(1);
    for (let at = 0; at < bytes.length;) at += Math.max(0, peer.socket.write(bytes.subarray(at)));
    await until(peer.closed, "evicted");
    expect(deaths[0]).toMatch(reason);
    expect(bus.stats().workersEvicted).toBe(1);
    await space.worker(() => "from an honest one");
    expect((await moved).text()).toBe("from an honest one"); // it was never claimed
  });
}

test("a process that was evicted four times and still lives is refused", async () => {
  await using space = new Workspace();
  const { bus, reasons } = await refusals(space);
  for (let i = 0; i < 4; i++) {
    const peer = await attach(space, bus);
    peer.socket.write(message(99));
    await until(() => bus.workers.length === 0, "evicted");
  }
  const error = await rejection(space.worker(() => "x"));
  expect(error).toMatchObject({ code: "PERMISSION_DENIED" });
  expect(reasons.at(-1)).toMatch(/4 evicted workers are still alive/);
});

test("a worker that meets a client of another version reports both versions", async () => {
  await using space = new Workspace();
  using _client = Bun.listen({
    unix: join(space.directory, `${space.name}.sock`),
    socket: {
      data: (socket) => {
        socket.write(message(C.SB_MSG_REFUSED, [8, MAGIC], [2, 3], [2, 5], [4, C.SB_EVERSION]));
        socket.end();
      },
    },
  }) as unknown as Disposable;
  const error = await rejection(space.worker(() => "x"));
  expect(error).toBeInstanceOf(VersionMismatchError);
  expect(error.message).toContain(`version 3 to 5; this process speaks ${C.SB_ABI}`);
});

for (const [what, reply] of [
  ["garbage", Buffer.from("HTTP/1.1 400 Bad Request\r\n\r\n")],
  [
    "HELLO without memory",
    message(C.SB_MSG_HELLO, [8, MAGIC], [8, 1n], [8, 4096n], [4, C.SB_ABI], [4, C["SB_FINGERPRINT"]]),
  ],
  ["half a message", new Uint8Array([C.SB_MSG_HELLO, 32, 1, 2, 3])],
] as const) {
  test(`a worker that gets ${what} from a listener says that it is not a client`, async () => {
    await using space = new Workspace();
    const listener = Bun.listen({
      unix: join(space.directory, `${space.name}.sock`),
      socket: { data: (socket) => void socket.write(reply) },
    });
    expect(await rejection(space.worker(() => "x"))).toMatchObject({ code: "PROTOCOL" });
    listener.stop(true);
  });
}

test("a silent listener costs a worker 2 s, and gives a clear error", async () => {
  await using space = new Workspace();
  const listener = Bun.listen({ unix: join(space.directory, `${space.name}.sock`), socket: { data: () => {} } });
  const start = performance.now();
  const error = await rejection(space.worker(() => "x", { timeout: 0 }));
  expect(error).toMatchObject({ code: "RESOURCE" });
  expect(error.message).toContain("did not finish the handshake within 2000 ms");
  expect(performance.now() - start).toBeWithin(1_900, 4_000);
  listener.stop(true);
});

test("a directory with other permissions is refused by the client, a directory that others can write by the worker", async () => {
  await using space = new Workspace();
  const inside = join(space.directory, "d");
  space.leftovers = ["d", "file", "link"];
  mkdirSync(inside, { mode: 0o700 });
  writeFileSync(join(space.directory, "file"), "");
  symlinkSync(inside, join(space.directory, "link"));
  for (const [path, mode] of [
    ["d", 0o755],
    ["d", 0o710],
    ["d", 0o702],
    ["file", 0o700],
    ["link", 0o700],
  ] as const) {
    chmodSync(join(space.directory, path), mode);
    const error = await rejection(space.bus({ directory: join(space.directory, path) }));
    expect(error).toMatchObject({ code: "PERMISSION_DENIED" });
    expect(error.message).toMatch(/mode 0700/);
  }
  chmodSync(inside, 0o722);
  expect(await rejection(space.worker(() => "x", { directory: inside }))).toMatchObject({ code: "PERMISSION_DENIED" });
  expect(existsSync(join(inside, `${space.name}.lock`))).toBe(false);
});

test("the directory is made with mode 0700 when it is missing, and the socket with 0600", async () => {
  await using space = new Workspace();
  const directory = join(space.directory, "new");
  space.leftovers = ["new"];
  const bus = await space.bus({ directory });
  expect((statSync(directory).mode & 0o777).toString(8)).toBe("700");
  expect((statSync(join(directory, `${bus.name}.sock`)).mode & 0o777).toString(8)).toBe("600");
});

test("a directory whose path is too long for a socket address works", async () => {
  await using space = new Workspace();
  const directory = join(space.directory, "d".repeat(100), "e".repeat(100));
  space.leftovers = ["d".repeat(100)];
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  const bus = await space.bus({ directory });
  await space.worker((request) => request.path, { directory });
  expect(directory.length).toBeGreaterThan(108);
  expect((await bus.request({ path: "/deep" })).text()).toBe("/deep");
});

test.if(process.getuid?.() === 0)(
  "a worker of another user is refused with PERMISSION_DENIED, or accepted when its uid is listed",
  async () => {
    leaves(/anon_inode/); // the threads of Bun.build stay
    await using space = new Workspace();
    const nobody = 65_534;
    const directory = join(space.directory, "shared");
    space.leftovers = ["shared"];
    mkdirSync(directory);
    chmodSync(space.directory, 0o755);
    chmodSync(directory, 0o711);
    const { address, bun } = await borrowedRuntime(space);
    const run = async (): Promise<string> => {
      const child = Bun.spawn(["setpriv", `--reuid=${nobody}`, "--clear-groups", bun, address, space.name, directory], {
        stdout: "pipe",
        stderr: "pipe",
        env: { HOME: "/nonexistent", PATH: process.env["PATH"] },
      });
      const [out, err] = await Promise.all([child.stdout.text(), child.stderr.text()]);
      await child.exited;
      return out + err;
    };
    const bus = await space.bus({ directory, allowedUids: [1] });
    expect(await run()).toContain(`PERMISSION_DENIED`);
    await bus.close();
    const open = await space.bus({ directory, allowedUids: [nobody] });
    const running = run();
    await open.ready();
    expect(open.workers[0]!.uid).toBe(nobody);
    expect((await open.request({ path: "/" })).text()).toBe(`uid ${nobody}`);
    await open.close();
    expect(await running).toContain("done");
  },
  20_000,
);

/** A program and a Bun that another user can read: a bundle in the workspace. */
async function borrowedRuntime(space: Workspace): Promise<{ address: string; bun: string }> {
  const entry = join(space.directory, "foreign.ts");
  writeFileSync(
    entry,
    `import { SlotWorker } from ${JSON.stringify(join(import.meta.dir, "../src/index.ts"))};
     try {
       const worker = await SlotWorker.open({ name: process.argv[2], directory: process.argv[3], reconnect: false });
       worker.serve(() => "uid " + process.geteuid());
       worker.on("disconnected", () => console.log("done"));
     } catch (error) { console.log(error.code, error.message); }`,
  );
  const library = join(space.directory, "lib.so");
  const bun = join(space.directory, "bun");
  await Bun.write(
    library,
    Bun.file(process.env["SLOTBUS_LIB"] ?? join(import.meta.dir, "../zig-out/lib/libslotbus.so")),
  );
  await Bun.write(bun, Bun.file(process.execPath));
  chmodSync(bun, 0o755);
  chmodSync(library, 0o755);
  const address = join(space.directory, "foreign.js");
  const build = await Bun.build({ entrypoints: [entry], target: "bun" });
  await Bun.write(address, `process.env.SLOTBUS_LIB = ${JSON.stringify(library)};\n${await build.outputs[0]!.text()}`);
  chmodSync(address, 0o644);
  space.leftovers.push("foreign.ts", "foreign.js", "lib.so", "bun");
  return { address, bun };
}

test("the 65th worker is refused with the limit of 64, and attaches when one leaves", async () => {
  await using space = new Workspace();
  const bus = await space.bus({ slots: 1, payloadBytes: 4_096 });
  const reasons: string[] = [];
  bus.on("refused", (_, reason) => reasons.push(reason));
  const workers: SlotWorker[] = [];
  const full = Promise.withResolvers<void>();
  let running = 0;
  const hold = async (text: string): Promise<string> => {
    if (++running === 64) full.resolve();
    await full.promise; // so that no request moves to a worker that has answered already
    return text;
  };
  for (let i = 0; i < C.SB_LINKS_MAX; i++) workers.push(await space.worker(() => hold(String(i))));
  await bus.ready({ workers: 64 });
  const error = await rejection<SlotbusError>(space.worker(() => "one too many", { timeout: 0 }));
  expect(error).toMatchObject({ code: "RESOURCE" });
  expect(error.retryable).toBe(true);
  await until(() => reasons.length === 1, "the client says so");
  for (const text of [error.message, reasons[0]!]) expect(text).toContain("64");
  const opening = space.worker(() => hold("65th"));
  await workers[0]!.close();
  await opening;
  await bus.ready({ workers: 64 });
  const all = await Promise.all(Array.from({ length: 64 }, () => bus.request({ path: "/" })));
  expect(new Set(all.map((response) => response.text())).size).toBe(64);
}, 20_000);

test("a JOIN that arrives byte by byte is accepted", async () => {
  await using space = new Workspace();
  const bus = await space.bus();
  const peer = await knock(space);
  for (const byte of joinMessage(C.SB_ABI)) {
    peer.socket.write(new Uint8Array([byte]));
    await new Promise((done) => setImmediate(done));
  }
  await until(() => peer.got[0] === C.SB_MSG_HELLO, "HELLO");
  peer.socket.write(new Uint8Array([C.SB_MSG_ATTACHED, 0]));
  await bus.ready();
  peer.socket.terminate();
  await until(() => bus.stats().workersDied === 1, "it is gone");
});

test("an observer gets HELLO, does not count as a worker, gets no request, and is disconnected when it sends", async () => {
  await using space = new Workspace();
  const bus = await space.bus();
  const before = descriptors();
  const peer = await knock(space);
  peer.socket.write(joinMessage(C.SB_ABI, 4, C["SB_ROLE_OBSERVER"]));
  await until(() => peer.got[0] === C.SB_MSG_HELLO, "HELLO");
  expect([bus.workers.length, bus.stats().workersJoined]).toEqual([0, 0]);
  expect(await rejection(bus.request({ path: "/" }, { waitForWorker: false }))).toBeInstanceOf(NoWorkerError);
  const worker = await space.worker(() => "a worker");
  expect((await bus.request({ path: "/" })).text()).toBe("a worker");
  await worker.close();
  expect(peer.got.length).toBe(34); // nothing after HELLO
  peer.socket.write(new Uint8Array([C.SB_MSG_ATTACHED, 0]));
  await until(peer.closed, "it is turned away");
  expect(bus.stats().peersRefused).toBe(1);
  await until(() => descriptors() <= before, "all descriptors are closed");
});

test("two hundred peers with random bytes crash nothing, leak nothing, and a worker is served among them", async () => {
  await using space = new Workspace();
  const { bus } = await space.pair((request) => request.path);
  const before = [descriptors(), mappings()];
  for (let i = 0; i < 200; i++) {
    const peer = await knock(space);
    const bytes = crypto.getRandomValues(new Uint8Array(1 + (i % 64)));
    if (i % 4 === 0) bytes.set(joinMessage(C.SB_ABI).subarray(0, Math.min(bytes.length, i % 26)));
    peer.socket.write(bytes);
    if (i % 3 === 0) expect((await bus.request({ path: `/${i}` })).text()).toBe(`/${i}`);
    peer.socket.end();
    await until(peer.closed, "it is gone", 5_000);
  }
  expect(bus.workers.length).toBe(1);
  await until(() => descriptors() <= before[0]!, "all descriptors are closed");
  expect(mappings()).toBe(before[1]!);
}, 20_000);

test("a bus that closes in the middle of a handshake refuses the peer, and a worker keeps trying", async () => {
  await using space = new Workspace();
  const bus = await space.bus();
  const peer = await knock(space);
  const opening = space.worker((request) => request.path); // its JOIN is on its way
  await bus.close();
  await until(peer.closed, "it is refused");
  expect(peer.got[0]).toBe(C.SB_MSG_REFUSED);
  expect(readdirSync(space.directory)).toEqual([]);
  const next = await space.bus();
  await opening;
  expect((await next.request({ path: "/" })).text()).toBe("/");
});

test("a client whose file size limit is below a region's size refuses each worker with that reason, and lives", async () => {
  await using space = new Workspace();
  space.leftovers = [`${space.name}.lock`, `${space.name}.sock`]; // it is killed
  const script = `ulimit -f 1024; exec "$@"`;
  const client = Bun.spawn(
    ["sh", "-c", script, "sh", process.execPath, join(import.meta.dir, "fixtures/lonely.ts"), space.name, "ref"],
    { env: { ...process.env, SLOTBUS_DIR: space.directory }, stdio: ["ignore", "pipe", "inherit"] },
  );
  await client.stdout.getReader().read(); // "open": it listens
  for (let i = 0; i < 2; i++) {
    const error = await rejection(space.worker(() => "x", { timeout: 0 }));
    expect(error).toMatchObject({ code: "RESOURCE" });
    expect(error.message).toContain("RLIMIT_FSIZE");
  }
  expect(client.exitCode).toBeNull();
  client.kill("SIGKILL");
  await client.exited;
});
