/** Workers in C and in Python, with the blocking functions of slotbus.h: each serves a real client. */

import { beforeAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { RemoteError, type SlotBus, WorkerDiedError } from "../src/index.ts";
import { METHODS } from "../src/bus/codec.ts";
import { findLibrary } from "../src/native/find.ts";
import { pattern, rejection, same, until, Workspace } from "./support.ts";

const root = resolve(import.meta.dir, "..");
const cWorker = join(root, "zig-out/bin/c-worker");
const python = [Bun.which("python3") ?? "python3", join(root, "examples/python-worker.py")];

const zig = Bun.which("zig", { PATH: `${root}/node_modules/.bin:${process.env["PATH"]}` })!;

beforeAll(() => {
  const build = Bun.spawnSync([zig, "build", "c-worker"], { cwd: root, stderr: "pipe" });
  expect(build.stderr.toString()).toBe("");
}, 120_000);

/** A worker in another language; killed at the end if it still runs. */
class Foreign implements AsyncDisposable {
  readonly #process: Bun.Subprocess<"ignore", "pipe", "pipe">;
  readonly output: Promise<string>;

  constructor(command: string[], space: Workspace, name = space.name) {
    this.#process = Bun.spawn([...command, name], {
      env: { ...process.env, SLOTBUS_DIR: space.directory, SLOTBUS_LIB: findLibrary() },
      stdio: ["ignore", "pipe", "pipe"],
    });
    const { stdout, stderr } = this.#process;
    this.output = Promise.all([stdout.text(), stderr.text()]).then((texts) => texts.join(""));
  }

  get pid(): number {
    return this.#process.pid;
  }

  kill(signal: NodeJS.Signals): void {
    this.#process.kill(signal);
  }

  /** Its exit code when it ended by itself; -1 when a signal ended it. */
  async ended(): Promise<number> {
    await until(() => this.#process.exitCode !== null || this.#process.signalCode !== null, "the end of a worker");
    return this.#process.exitCode ?? -1;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#process.kill("SIGKILL");
    await this.#process.exited;
  }
}

/** Whether the slots of the bus have these states. */
function isIn(bus: SlotBus, ...states: string[]): boolean {
  const slots = bus.diagnostics().slots.map(({ state }) => state);
  return states.every((state) => slots.includes(state as (typeof slots)[number]));
}

async function client(space: Workspace): Promise<SlotBus> {
  return space.bus({ payloadBytes: 1 << 20, slots: 16 });
}

for (const [language, command] of Object.entries({ C: [cWorker], Python: python })) {
  test(`a worker in ${language} answers, and ends when the bus closes`, async () => {
    await using space = new Workspace();
    const bus = await client(space);
    await using worker = new Foreign(command, space);
    await bus.ready();
    const hello = await bus.request({ path: "/hello", body: "Ada" });
    expect(hello.text()).toBe(`hello Ada, from process ${worker.pid}`);
    for (const bytes of [0, 1, 4096, 100_000, 1 << 20]) {
      const sent = pattern(bytes);
      const echo = await bus.request({ method: "POST", path: "/echo", body: sent });
      expect([echo.status, echo.body.length, same(echo.body, sent)]).toEqual([200, bytes, true]);
    }
    const many = await Promise.all(
      Array.from({ length: 200 }, (_, i) => bus.request({ path: "/echo", body: `number ${i}` })),
    );
    expect(many.map((answer) => answer.text())).toEqual(Array.from({ length: 200 }, (_, i) => `number ${i}`));
    await bus.close();
    expect(await worker.ended()).toBe(0);
    expect(await worker.output).toBe("attached\nthe handle or the connection is closed\n");
  }, 30_000);

  test(`a failure in a worker in ${language} reaches its caller, and the worker goes on`, async () => {
    await using space = new Workspace();
    const bus = await client(space);
    await using _ = new Foreign(command, space);
    await bus.ready();
    const error = await rejection(bus.request({ path: "/nothing/ünd-😀" }));
    expect(error).toBeInstanceOf(RemoteError);
    expect(error.message).toContain("no handler for /nothing/ünd-😀");
    expect((await bus.request({ path: "/echo", body: "on" })).text()).toBe("on");
  }, 30_000);

  test(`a worker in ${language} keeps a copy of a body whose call it has answered, while another request has its slot`, async () => {
    await using space = new Workspace();
    const bus = await space.bus({ payloadBytes: 1 << 20, slots: 2 });
    await using _ = new Foreign(command, space);
    await bus.ready();
    for (const bytes of [1_000, 100_000, 1 << 20]) {
      const sent = pattern(bytes);
      expect((await bus.request({ path: "/keep", body: sent })).ok).toBe(true);
      for (let i = 0; i < 8; i++) await bus.request({ path: "/echo", body: new Uint8Array(1 << 20).fill(i) });
      expect(same((await bus.request({ path: "/kept" })).body, sent)).toBe(true);
    }
  }, 30_000);

  test(`a worker in ${language} serves all clients of a shared bus, and ends with the last`, async () => {
    await using space = new Workspace();
    const first = await space.client();
    await using worker = new Foreign(command, space);
    await first.ready();
    const second = await space.client();
    await second.ready({ timeout: 2_000 });
    const ask = async (bus: SlotBus, who: string, i: number): Promise<boolean> =>
      (await bus.request({ path: "/echo", body: `${who} ${i}` })).text() === `${who} ${i}`;
    const both = Array.from({ length: 200 }, (_, i) => [ask(first, "first", i), ask(second, "second", i)]);
    expect((await Promise.all(both.flat())).every(Boolean)).toBe(true);
    await first.close();
    expect((await second.request({ path: "/hello", body: "Ada" })).text()).toBe(
      `hello Ada, from process ${worker.pid}`,
    );
    const third = await space.client(); // takes the number of the first
    await third.ready({ timeout: 2_000 });
    await second.close();
    expect(await ask(third, "third", 1)).toBe(true);
    await third.close();
    expect(await worker.ended()).toBe(0);
  }, 30_000);

  test(`without a client a worker in ${language} ends with the reason`, async () => {
    await using space = new Workspace();
    await using worker = new Foreign(command, space, "not a name");
    expect(await worker.ended()).toBe(1);
    expect(await worker.output).toStartWith("the name does not match");
  }, 30_000);
}

test("a worker in C sees method, path, query, id and headers, in characters of any width", async () => {
  await using space = new Workspace();
  const bus = await client(space);
  await using _ = new Foreign([cWorker], space);
  await bus.ready();
  for (const method of METHODS) {
    const request = { method, path: "/call", query: "ä=€&f=😀", headers: { "User-Agent": "Bün 😀" }, id: "id-é" };
    const answer = await bus.request(request);
    expect(answer.text()).toBe(`${method} /call?ä=€&f=😀 id=id-é agent=Bün 😀`);
    expect(answer.contentType).toBe("text/plain;charset=utf-8");
  }
  const long = { path: "/call", query: "q".repeat(150), headers: { ["x".repeat(300)]: "y".repeat(20_000) } };
  expect((await bus.request(long)).text()).toMatch(/^GET \/call\?q{150} id=[0-9a-z]+-[0-9a-z]+ agent=none$/);
  expect((await bus.request({ path: "/echo" })).headers.get("X-Language")).toBe("C");
});

test("a worker in C sees the generated id of a request without an id", async () => {
  await using space = new Workspace();
  const bus = await client(space);
  await using worker = new Foreign([cWorker], space);
  await bus.ready();
  const [, id] = /id=(\S+)/.exec((await bus.request({ path: "/call" })).text())!;
  const [tag, serial] = id!.split("-");
  const pending = rejection(bus.request({ path: "/work", body: "60000" }));
  await until(() => isIn(bus, "CLAIMED"), "the request with the worker");
  worker.kill("SIGKILL");
  expect((await pending).message).toContain(`request ${tag}-${(parseInt(serial!, 36) + 1).toString(36)}`);
});

test("kill -9 of a worker in C during a request is the bus's error, and the next worker gets the waiting requests", async () => {
  await using space = new Workspace();
  const bus = await client(space);
  await using first = new Foreign([cWorker], space);
  await bus.ready();
  const running = rejection(bus.request({ path: "/work", body: "60000" }));
  const waiting = bus.request({ path: "/hello", body: "Bob" });
  await until(() => isIn(bus, "CLAIMED", "READY"), "one request with the worker, one waiting");
  first.kill("SIGKILL");
  const error = (await running) as WorkerDiedError;
  expect(error).toBeInstanceOf(WorkerDiedError);
  expect([error.pid, error.mayHaveExecuted]).toEqual([first.pid, true]);
  await using second = new Foreign([cWorker], space);
  expect((await waiting).text()).toBe(`hello Bob, from process ${second.pid}`);
}, 30_000);

test("a worker in C notices that its caller gave up, and its late answer reaches nobody", async () => {
  await using space = new Workspace();
  const bus = await client(space);
  await using worker = new Foreign([cWorker], space);
  await bus.ready();
  const late = await rejection(bus.request({ path: "/work", body: "60000" }, { timeout: 500 }));
  expect((late as Error & { code: string }).code).toBe("TIMEOUT");
  expect((await bus.request({ path: "/work", body: "1" })).text()).toBe("worked");
  worker.kill("SIGTERM"); // it ends with its current wait
  expect(await worker.ended()).toBe(0);
  expect(await worker.output).toMatch(/^attached\nstopped\n\S+: the client no longer waits for this response\n$/);
  await until(() => bus.stats().workers.length === 0, "the end of the worker");
  expect(bus.stats().workersDied).toBe(0);
}, 30_000);

test("a worker in C whose error text was cut inside a character still answers", async () => {
  await using space = new Workspace();
  const bus = await client(space);
  await using _ = new Foreign([cWorker], space);
  await bus.ready();
  const path = `/${"a".repeat(98)}`;
  const error = await rejection(bus.request({ path: `${path}é` }, { timeout: 10_000 }));
  expect(error).toBeInstanceOf(RemoteError);
  expect(error.message).toEndWith(`no handler for ${path}`);
}, 30_000);

test("a worker in Python whose answer is above the client's limit reports that to its caller", async () => {
  await using space = new Workspace();
  const bus = await client(space);
  await using _ = new Foreign(python, space);
  await bus.ready();
  const error = await rejection(bus.request({ path: "/hello", body: "a".repeat(1 << 20) }, { timeout: 10_000 }));
  expect(error).toBeInstanceOf(RemoteError);
  expect(error.message).toContain("the client does not accept a response of");
  expect((await bus.request({ path: "/echo", body: "on" })).text()).toBe("on");
}, 30_000);

test("a body that streams to a worker in C is refused with one error, and the worker goes on", async () => {
  await using space = new Workspace();
  const bus = await client(space);
  await using _ = new Foreign([cWorker], space);
  await bus.ready();
  async function* source() {
    yield new Uint8Array(10);
  }
  const error = await rejection(bus.request({ method: "POST", path: "/echo", body: source() }));
  expect(error.message).toContain("This worker accepts only whole bodies");
  expect((await bus.request({ path: "/echo", body: "on" })).text()).toBe("on");
});

test('a worker in C that passes NULL for bytes gets "invalid", and goes on', async () => {
  const folder = mkdtempSync(join(tmpdir(), "slotbus-null-"));
  try {
    const program = join(folder, "null-worker");
    const source = join(import.meta.dir, "fixtures/null-worker.c");
    const library = findLibrary();
    const linking = [library, `-Wl,-rpath,${dirname(library)}`, "-o", program];
    const build = [zig, "cc", "-std=c11", `-I${root}/csrc`, source, ...linking];
    expect(Bun.spawnSync(build, { stderr: "pipe" }).stderr.toString()).toBe("");
    await using space = new Workspace();
    const bus = await client(space);
    await using worker = new Foreign([program], space);
    await bus.ready();
    expect((await bus.request({ path: "/tell" })).text()).toBe("body -1, answer -1, receive -1");
    expect((await bus.request({ path: "/nothing" })).body.length).toBe(0);
    const error = (await rejection(bus.request({ path: "/fail" }))) as RemoteError;
    expect([error.remoteCode, error.message]).toEqual(["HANDLER_FAILED", "Error: "]);
    await bus.close();
    expect(await worker.ended()).toBe(0);
  } finally {
    rmSync(folder, { recursive: true });
  }
}, 180_000);
