/** The worker SDK in its own program: what it prints, and how it ends. */

import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { InvalidConfigError } from "../src/errors.ts";
import { callBus, serve } from "../src/serve.ts";
import { rejection, until, Workspace } from "./support.ts";

const program = join(import.meta.dir, "fixtures/stdio-worker.ts");

/** The fixture's worker as a shell would start it; with `lines` already on its input. */
class Program implements AsyncDisposable {
  readonly process: Bun.Subprocess<"pipe", "pipe", "pipe">;
  output = "";
  errors = "";
  readonly #read: Promise<unknown>;

  constructor(env: Record<string, string | undefined> = {}) {
    this.process = Bun.spawn([process.execPath, program], {
      env: { ...process.env, SLOTBUS_STDIO: undefined, SLOTBUS_NAME: undefined, ...env },
      stdio: ["pipe", "pipe", "pipe"],
    });
    const read = async (stream: ReadableStream<Uint8Array>, add: (text: string) => void): Promise<void> => {
      const decoder = new TextDecoder();
      for await (const chunk of stream) add(decoder.decode(chunk, { stream: true }));
    };
    this.#read = Promise.all([
      read(this.process.stdout, (text) => (this.output += text)),
      read(this.process.stderr, (text) => (this.errors += text)),
    ]);
  }

  send(...messages: unknown[]): void {
    for (const message of messages) this.process.stdin.write(`${JSON.stringify(message)}\n`);
    void this.process.stdin.flush();
  }

  /** Messages so far. */
  get messages(): { id?: unknown; result?: unknown; method?: string; params?: unknown }[] {
    return this.output
      .split("\n")
      .filter(Boolean)
      .map((line) => JSON.parse(line));
  }

  /** Its exit code, after its output was read to the end. */
  async ended(): Promise<number> {
    const code = await this.process.exited;
    await this.#read;
    return code;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.process.kill("SIGKILL");
    await this.process.exited;
  }
}

test("printed text goes to standard error, and only messages to standard output", async () => {
  await using worker = new Program();
  worker.send({ id: 1, method: "print", params: { a: 1 } });
  await worker.process.stdin.end();
  expect(await worker.ended()).toBe(0);
  expect(worker.messages).toEqual([{ jsonrpc: "2.0", id: 1, result: "ok" }] as object[]);
  expect(worker.errors).toContain("printed");
  expect(worker.errors).toContain("written\n");
});

test("at the end of its input it answers its requests, and exits with code 0", async () => {
  await using worker = new Program();
  worker.send({ id: 1, method: "drain", params: 100 }, { id: 2, method: "echo", params: 2 });
  await worker.process.stdin.end();
  expect(await worker.ended()).toBe(0);
  expect(worker.messages.map(({ result }) => result)).toEqual([2, "drained"]);
});

test("at SIGTERM it answers its requests, and exits with code 0 though its input is open", async () => {
  await using worker = new Program();
  worker.send({ id: 1, method: "drain", params: 200 }, { id: 2, method: "echo", params: 2 });
  await until(() => worker.messages.length === 1, "its first answer");
  worker.process.kill("SIGTERM");
  expect(await worker.ended()).toBe(0);
  expect(worker.messages.map(({ result }) => result)).toEqual([2, "drained"]);
});

test("when the host stops reading, its calls are aborted and it ends", async () => {
  const worker = Bun.spawn([process.execPath, program], { stdio: ["pipe", "pipe", "inherit"] });
  worker.stdin.write('{"id":1,"method":"wait"}\n{"id":2,"method":"echo","params":2}\n');
  void worker.stdin.flush();
  const reader = worker.stdout.getReader();
  await reader.read();
  await reader.cancel();
  // One answer may still fit into the pipe before it is closed.
  for (let id = 3; worker.exitCode === null && id < 200; id++) {
    worker.stdin.write(`{"id":${id},"method":"echo","params":${id}}\n`);
    void Promise.resolve(worker.stdin.flush()).catch(() => {});
    await Promise.race([worker.exited, Bun.sleep(20)]);
  }
  expect(worker.exitCode).toBe(0);
});

/** Resident memory of a process, in MiB. */
function memoryOf(pid: number): number {
  return (Number(readFileSync(`/proc/${pid}/statm`, "latin1").split(" ")[1]) * 4_096) / 2 ** 20;
}

test("while its answers are not read it stops reading, and a handler that awaits its progress waits", async () => {
  const worker = Bun.spawn([process.execPath, program], { stdio: ["pipe", "pipe", "inherit"] });
  const reader = worker.stdout.getReader();
  worker.stdin.write('{"id":0,"method":"echo","params":0}\n');
  void worker.stdin.flush();
  await reader.read();
  const before = memoryOf(worker.pid);
  worker.stdin.write('{"id":1,"method":"count","params":3000000}\n'); // 200 MB of progress without backpressure
  const line = `${JSON.stringify({ id: 2, method: "echo", params: "x".repeat(100_000) })}\n`;
  const written = worker.stdin.write(line.repeat(2_000)); // and 200 MB of answers
  void Promise.resolve(written).catch(() => {});
  let last = -1;
  for (let now = before; Math.abs(now - last) > 1;) {
    last = now;
    await Bun.sleep(300);
    now = memoryOf(worker.pid);
  }
  expect(last - before).toBeLessThan(100);
  let bytes = 0;
  while (bytes < 20_000_000) bytes += (await reader.read()).value!.length; // and it continues when they are read
  worker.kill("SIGKILL");
  await worker.exited;
}, 20_000);

test("it sends $/ready only to a bus that started it", async () => {
  await using alone = new Program();
  await using started = new Program({ SLOTBUS_STDIO: "ndjson" });
  for (const worker of [alone, started]) worker.send({ id: 1, method: "echo", params: 1 });
  await until(() => alone.messages.length === 1 && started.messages.length === 2, "their messages");
  expect(alone.messages[0]!.id).toBe(1);
  expect(started.messages[0]).toEqual({ jsonrpc: "2.0", method: "$/ready", params: { slotbus: 1 } } as object);
});

test("invalid messages are answered with an error, and the next request is answered", async () => {
  await using worker = new Program();
  worker.process.stdin.write("garbage\n[]\n42\n");
  worker.send([{ id: 1, method: "echo", params: 1 }, { method: "throw" }], { id: 2, method: "echo", params: 2 });
  await worker.process.stdin.end();
  expect(await worker.ended()).toBe(0);
  expect(worker.messages as object[]).toMatchObject([
    { id: null, error: { code: -32_700 } },
    { id: null, error: { code: -32_600 } },
    { id: 1, result: 1 },
    { id: 2, result: 2 },
  ]);
  expect(worker.errors).toContain("it broke"); // a notification has no answer, so the log has its error
});

test("on a bus it drains at SIGTERM, and a missing bus is an error", async () => {
  await using workspace = new Workspace();
  const bus = await workspace.bus();
  const env = { SLOTBUS_NAME: workspace.name, SLOTBUS_DIR: workspace.directory };
  await using worker = new Program(env);
  await bus.ready();
  const answer = callBus(bus, "drain", 200);
  const [stats] = [await callBus(bus, "echo", 1)];
  expect(stats).toBe(1);
  worker.process.kill("SIGTERM");
  expect(await answer).toBe("drained");
  expect(await worker.ended()).toBe(0);
  expect(worker.output).toBe("");
  await using lost = new Program({ ...env, SLOTBUS_NAME: `${workspace.name}-not` });
  expect(await lost.ended()).not.toBe(0);
  expect(lost.errors).toContain("Cannot find bus");
}, 20_000);

test("a worker of a bus that starts its own workers serves on that bus, even inside a worker of a stdio bus", async () => {
  await using workspace = new Workspace();
  process.env["SLOTBUS_STDIO"] = "ndjson"; // as in such a worker that does not use serve
  try {
    const bus = await workspace.bus({ workers: { entry: program, min: 1, max: 1 } });
    expect(await callBus(bus, "echo", [1])).toEqual([1]);
    expect(await callBus<number>(bus, "pid")).not.toBe(process.pid);
  } finally {
    delete process.env["SLOTBUS_STDIO"];
  }
}, 20_000);

test("an answer on the bus that is not from serve has its own error", async () => {
  await using workspace = new Workspace();
  const { bus } = await workspace.pair(() => "plain text");
  expect((await rejection(callBus(bus, "echo"))).message).toContain("not a response of serve()");
});

test("a second call is rejected, over stdio and on a bus, and the first one continues", async () => {
  await using workspace = new Workspace();
  const bus = await workspace.bus();
  const twice = `
    import { serve } from ${JSON.stringify(join(import.meta.dir, "../src/serve.ts"))};
    void serve({ who: () => "first" });
    try {
      await serve({ who: () => "second" });
    } catch (error) {
      console.error(error.name + ": " + error.message);
    }`;
  const start = (env: Record<string, string>) =>
    Bun.spawn([process.execPath, "-e", twice], {
      env: { ...process.env, SLOTBUS_STDIO: undefined, SLOTBUS_NAME: undefined, ...env },
      stdio: ["pipe", "pipe", "pipe"],
    });
  const stdio = start({});
  stdio.stdin.write('{"id":1,"method":"who"}\n');
  await stdio.stdin.end();
  expect(JSON.parse(await stdio.stdout.text())).toEqual({ jsonrpc: "2.0", id: 1, result: "first" });
  expect(await stdio.stderr.text()).toStartWith(
    "InvalidConfigError: serve() was already called in this process (over stdio).",
  );
  const onBus = start({ SLOTBUS_NAME: workspace.name, SLOTBUS_DIR: workspace.directory });
  await bus.ready();
  expect([await callBus<string>(bus, "who"), bus.workers.length]).toEqual(["first", 1]);
  onBus.kill("SIGTERM");
  expect(await onBus.stderr.text()).toStartWith(
    "InvalidConfigError: serve() was already called in this process (over bus).",
  );
  expect([await stdio.exited, await onBus.exited]).toEqual([0, 0]);
});

test("after a call that found no bus, another call is accepted", async () => {
  await using workspace = new Workspace();
  const bus = await workspace.bus();
  const program = `
    import { serve } from ${JSON.stringify(join(import.meta.dir, "../src/serve.ts"))};
    const where = (name) => ({ name, directory: ${JSON.stringify(workspace.directory)} });
    await serve({}, where("not-there")).catch(() => {});
    await serve({ who: () => "second" }, where(${JSON.stringify(workspace.name)}));`;
  const child = Bun.spawn([process.execPath, "-e", program], { stdio: ["ignore", "inherit", "inherit"] });
  await bus.ready();
  expect(await callBus<string>(bus, "who")).toBe("second");
  child.kill("SIGTERM");
  expect(await child.exited).toBe(0);
}, 20_000);

test("handlers that are not functions are refused", async () => {
  for (const wrong of [{ echo: 1 as unknown as () => void }, null as unknown as {}]) {
    expect(await rejection(serve(wrong))).toBeInstanceOf(InvalidConfigError);
  }
});

test("unknown options of serve are refused, not ignored", async () => {
  const framing = await rejection(serve({}, { framing: "raw" as "ndjson" }));
  expect(framing.message).toContain("ndjson, length, content-length");
  const name = await rejection<InvalidConfigError>(serve({}, { nam: "x" } as object));
  expect([name.constructor, name.message]).toEqual([InvalidConfigError, expect.stringContaining("Did you mean name?")]);
});

test("it resolves when it serves; drain takes no new requests and does not end it; close ends it with exit code 0", async () => {
  await using workspace = new Workspace();
  const bus = await workspace.bus();
  const source = `
    import { serve } from ${JSON.stringify(join(import.meta.dir, "../src/serve.ts"))};
    const called = Promise.withResolvers();
    const late = async (ms) => (called.resolve(), await Bun.sleep(ms), "late");
    const served = await serve({ late });
    console.error("serves", served.over, served.closed);
    await called.promise;
    const draining = served.drain();
    console.error("drains", served.closed);
    await draining;
    console.error("drained");
    process.once("exit", (code) => console.error("exits", code));
    const closing = served.close();
    await Promise.all([closing, served.close({ timeout: 0 }), served.done]);`;
  for (const over of ["stdio", "bus"] as const) {
    const where = over === "bus" ? { SLOTBUS_NAME: workspace.name, SLOTBUS_DIR: workspace.directory } : {};
    const child = Bun.spawn([process.execPath, "-e", source], {
      env: { ...process.env, SLOTBUS_STDIO: undefined, SLOTBUS_NAME: undefined, ...where },
      stdio: ["pipe", "pipe", "pipe"],
    });
    if (over === "bus") {
      await bus.ready();
      expect(await callBus<string>(bus, "late", 100)).toBe("late");
    } else {
      child.stdin.write('{"id":1,"method":"late","params":100}\n');
      await child.stdin.flush();
      expect(JSON.parse(await child.stdout.text()).result).toBe("late");
    }
    expect([await child.exited, await child.stderr.text()]).toEqual([
      0,
      `serves ${over} false\ndrains true\ndrained\nexits 0\n`,
    ]);
  }
}, 20_000);

test("options of drain and close are checked, and invalid ones end nothing", async () => {
  const source = `
    import { serve } from ${JSON.stringify(join(import.meta.dir, "../src/serve.ts"))};
    const served = await serve({ echo: (params) => params });
    const names = [];
    for (const end of [served.close({ timeout: -1 }), served.drain({ timout: 1 })]) {
      await end.catch((error) => names.push(error.name));
    }
    console.error(names.join(), served.closed);`;
  const child = Bun.spawn([process.execPath, "-e", source], {
    env: { ...process.env, SLOTBUS_STDIO: undefined, SLOTBUS_NAME: undefined },
    stdio: ["pipe", "pipe", "pipe"],
  });
  child.stdin.write('{"id":1,"method":"echo","params":2}\n');
  await child.stdin.end();
  expect(await child.exited).toBe(0);
  expect(await child.stderr.text()).toBe("InvalidConfigError,InvalidConfigError false\n");
  expect(JSON.parse(await child.stdout.text()).result).toBe(2);
});
