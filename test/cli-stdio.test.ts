/** `slotbus stdio` as its users run it: editors and clients in Node, a service manager that reloads it. */

import { describe, expect, test } from "bun:test";
import { closeSync, constants, existsSync, openSync, readFileSync, readSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { faultOf } from "../src/cli/stdio/json.ts";
import type { StdioPoolOptions } from "../src/stdio/options.ts";
import { Program } from "./program.ts";
import { fixture, folder, isAlive } from "./stdio-stage.ts";
import { until } from "./wait.ts";

const COMMAND = join(import.meta.dir, "../src/cli/slotbus.ts");
const CLIENT = join(import.meta.dir, "fixtures/stdio-client.mjs");
const TOKEN = "a-token-of-24-characters";
const pool = (options: Partial<StdioPoolOptions> = {}): StdioPoolOptions =>
  fixture("stdio-worker.ts", { ready: true, ...options });
const request = (id: number, method: string, params: unknown = null): string =>
  `${JSON.stringify({ jsonrpc: "2.0", id, method, params })}\n`;

/** Runs it until it exits. */
function slotbus(args: readonly string[], input = "", env: Record<string, string> = {}) {
  const { exitCode, stdout, stderr } = Bun.spawnSync([process.execPath, COMMAND, "stdio", ...args], {
    stdin: Buffer.from(input),
    env: { ...process.env, SLOTBUS_STDIO_TOKEN: "", ...env },
    timeout: 20_000,
  });
  return { code: exitCode, out: stdout.toString(), err: stderr.toString() };
}

const start = (args: readonly string[], env: Record<string, string> = {}): Program =>
  new Program([process.execPath, COMMAND, "stdio", ...args], { SLOTBUS_STDIO_TOKEN: "", ...env });

/** A folder with a config that a test can write again, and the path of a socket. */
function stage(pools: readonly StdioPoolOptions[], more: object = {}) {
  const place = folder();
  const config = join(place.path, "bus.json");
  const write = (next: readonly StdioPoolOptions[], others: object = {}): void =>
    writeFileSync(config, JSON.stringify({ pools: next, ...others }, null, 2));
  write(pools, more);
  return Object.assign(place, { config, write, socket: join(place.path, "bus.sock") });
}

/** Writes to a socket, ends its input and returns the messages that arrived. */
async function talk(where: { path: string } | { host: string; port: number }, text: string): Promise<unknown[]> {
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  let came = "";
  const socket = connect(where, () => socket.end(text));
  socket.on("data", (data) => (came += data.toString()));
  socket.on("close", () => resolve(came));
  socket.on("error", reject);
  const lines = (await promise).split("\n").filter((line) => line !== "");
  return lines.map((line) => JSON.parse(line));
}

describe("flags", () => {
  test("--help names the flags in 80 columns", () => {
    const { code, out, err } = slotbus(["--help"]);
    expect([code, err]).toEqual([0, ""]);
    for (const name of [
      "config",
      "check",
      "json",
      "unix",
      "tcp",
      "hostname",
      "stdio",
      "pool",
      "framing",
      "token-file",
      "no-token",
    ])
      expect(out).toContain(`  --${name} `);
    for (const line of out.split("\n")) expect(line.length).toBeLessThanOrEqual(80);
  });

  test("an error is one line on stderr, and exit code 2", () => {
    using place = stage([pool()]);
    const good = ["--config", place.config];
    const wrong: [args: string[], said: string, input?: string][] = [
      [[], "--config"],
      [good, "There is nothing to serve: give --unix, --tcp or --stdio"],
      [["--config", "/no/such/file", "--stdio"], "Cannot read the config"],
      [[...good, "--tcp", "0"], "--token-file or SLOTBUS_STDIO_TOKEN, or --no-token"],
      [[...good, "--tcp", "70000"], "--tcp is 70000; it must be a whole number from 0 to 65535."],
      [[...good, "--token", TOKEN, "--tcp", "0"], "unknown option '--token'"],
      [[...good, "--tcp", "0", "--no-token", "--token-file", place.config], "exclude each other"],
      [[...good, "--tcp", "0", "--token-file", "/no/such/file"], "Cannot read the token"],
      [[...good, "--unix", "x".repeat(200)], "--unix"],
      [[...good, "--hostname", "x", "--stdio"], "--hostname needs --tcp"],
      [[...good, "--framing", "lines", "--stdio"], "--framing is "],
      [[...good, "--pool", "a"], "--pool needs --unix, --tcp or --stdio."],
      [[...good, "--pool", "b", "--stdio"], '--pool is "b"; it must be the id of a pool (a).'],
      [["--config", "-", "--check"], "standard input:1:", `{"pools":${"[".repeat(200_000)}`],
      [["--config", "-", "--stdio"], "Standard input cannot be both the config", JSON.stringify({ pools: [pool()] })],
      [
        ["--config", "-", "--check"],
        'standard input: a StdioBus has no option "pols". Did you mean pools?',
        '{"pols":[]}',
      ],
      [["--config", "-", "--check"], "standard input:3:3: JSON Parse error", '{\n  "pools": []\n  "serve": {} }'],
      [["--config", "-", "--check"], "standard input must be a JSON object", "[1]"],
    ];
    const second = (extra: object): string => JSON.stringify({ pools: [pool(), { id: "b", command: "b", ...extra }] });
    for (const [config, said] of [
      [second({ restart: { backoff: { max: -1 } } }), "pools[1].restart.backoff.max is -1; it must be"],
      [second({ instnces: 2 }), 'pools[1] has no option "instnces". Did you mean instances?'],
      [second({ id: "a" }), 'Two pools have the id "a"'],
      [second({}), 'Cannot run program "b"'],
      [JSON.stringify({ pools: [pool()], serve: {} }), "serve needs exactly one of `unix`, `tcp` and `stdio`."],
      [JSON.stringify({ pools: [pool()], serve: [{ tcp: { port: "x" } }] }), 'serve[0].tcp.port is "x"'],
      [JSON.stringify({ pools: [pool()], serve: [{ unix: "/x", pool: "b" }] }), 'serve[0].pool is "b"; it must be'],
      [JSON.stringify({ pools: [pool()], limits: { max_restart: 1 } }), "Did you mean max_restarts?"],
    ] as const)
      wrong.push([["--config", "-", "--check"], said, config]);
    for (const [args, said, input = ""] of wrong) {
      const { code, out, err } = slotbus(args, input);
      expect([args, code, out, err]).toEqual([args, 2, "", err]);
      expect(err).toMatch(/^slotbus: [^\n]+\n$/);
      expect(err).toContain(said);
    }
  }, 60_000);

  test("--check says what would run, and starts nothing; it takes a `serve` section and the older form", () => {
    using place = stage([pool({ instances: 2 }), { id: "b", command: "sh", args: ["-c", "touch $RAN"] }], {
      serve: { unix: "/run/x.sock" },
    });
    const ran = join(place.path, "ran");
    const args = ["--config", place.config, "--check", "--tcp", "4000"];
    const text = slotbus(args, "", { SLOTBUS_STDIO_TOKEN: TOKEN, RAN: ran });
    expect([text.code, text.err]).toEqual([0, ""]);
    expect(text.out).toContain(`pool "a": 2 workers of ${process.execPath} `);
    expect(text.out).toContain("serve 127.0.0.1:4000, /run/x.sock");
    expect(text.out).not.toContain(TOKEN);
    const json = JSON.parse(slotbus([...args, "--no-token", "--json"]).out);
    expect(json).toMatchObject({
      pools: [
        { id: "a", instances: 2 },
        { id: "b", args: ["-c", "touch $RAN"] },
      ],
    });
    expect(existsSync(ran)).toBe(false);
    writeFileSync(place.config, `\uFEFF${JSON.stringify({ pools: [pool()] })}`);
    expect(slotbus(["--config", place.config, "--check"])).toMatchObject({ code: 0, err: "" });
    const older = { pools: [{ id: "o", command: "sh", instances: 3 }], limits: { max_restarts: 1 } };
    expect(slotbus(["--config", "-", "--check"], JSON.stringify(older)).out).toContain('pool "o": 3 workers');
  }, 30_000);

  test("line and column of invalid JSON", () => {
    const faults: [text: string, line: number, column: number][] = [
      ["", 1, 1],
      ['{"a": 1,}', 1, 9],
      ['{"a": 1\n "b": 2}', 2, 2],
      ['{"a": tru}', 1, 7],
      ["{'a': 1}", 1, 2],
      ['// no\n{"a": 1}', 1, 1],
      ['{"a": [1, 2\n', 2, 1],
      ['{"a": 01}', 1, 7],
      ['{"a": "\\x"}', 1, 7],
      ["[{}, {]", 1, 7],
      ['{"a": {"b": [null, -1.5e3, "ü\\u00e4"]}} x', 1, 41],
    ];
    for (const [text, line, column] of faults) {
      expect(() => JSON.parse(text)).toThrow();
      expect([text, faultOf(text)]).toEqual([text, { line, column }]);
    }
  });
});

describe("clients", () => {
  test("on a unix socket and a tcp port with a token; after SIGTERM it answers the requests it has", async () => {
    using place = stage([pool({ instances: 2, stop: { drain: 1, endOfInput: 1, term: 1 } })]);
    const file = join(place.path, "token");
    writeFileSync(file, `${TOKEN}\n`);
    for (const [args, env] of [
      [["--token-file", file], {}],
      [[], { SLOTBUS_STDIO_TOKEN: TOKEN }],
    ] as [string[], Record<string, string>][]) {
      const flags = ["--config", place.config, "--unix", place.socket, "--tcp", "0", "--json", ...args];
      await using bus = start(flags, env);
      const said = JSON.parse(await bus.line("{"));
      expect(said).toMatchObject({ pid: bus.process.pid, pools: { a: 2 } });
      expect(said.serve[0]).toBe(place.socket);
      const port = Number(/^127\.0\.0\.1:(\d+)$/.exec(said.serve[1])![1]);
      expect(await talk({ path: place.socket }, request(1, "echo", "hi"))).toEqual([
        { jsonrpc: "2.0", id: 1, result: "hi" },
      ]);
      const tcp = { host: "127.0.0.1", port };
      expect(await talk(tcp, request(1, "echo"))).toMatchObject([{ error: { code: -32_001 } }]);
      expect((await bus.logged("refused")).message).toContain("the client's first message was not $/auth");
      expect(await talk(tcp, request(1, "$/auth", { token: TOKEN }) + request(2, "echo", 7))).toMatchObject([
        { result: true },
        { result: 7 },
      ]);
      expect(readFileSync(`/proc/${bus.process.pid}/cmdline`, "utf8")).not.toContain(TOKEN);
      const slow = talk({ path: place.socket }, request(3, "tell", 1) + request(4, "late", 500));
      await until(() => bus.log.length > 0, "its log");
      await talk({ path: place.socket }, request(5, "echo"));
      bus.process.kill("SIGTERM");
      expect(await slow).toMatchObject([{ id: 3 }, { id: 4, result: 500 }]);
      expect(await bus.process.exited).toBe(0);
      expect(existsSync(place.socket)).toBe(false);
      expect(bus.log.filter(({ event }) => event === "left").length).toBe(2);
    }
  }, 30_000);

  test("a second signal ends it and its workers at once", async () => {
    using place = stage([pool()]);
    await using bus = start(["--config", place.config, "--unix", place.socket]);
    const { pid } = await bus.logged("joined");
    const socket = connect({ path: place.socket });
    socket.on("error", () => {});
    socket.write(request(1, "wait") + request(2, "echo"));
    await new Promise((come) => socket.once("data", come));
    bus.process.kill("SIGINT");
    await bus.logged("ending");
    bus.process.kill("SIGTERM");
    expect(await bus.process.exited).toBe(1);
    await until(() => !isAlive(pid!), "the end of its worker");
    socket.destroy();
  }, 30_000);

  test("--stdio: an editor starts it as its server; its output is only messages, and it ends with its input", async () => {
    const script = `
      process.stdin.setEncoding("utf8");
      let rest = "";
      const say = (message) => process.stdout.write(JSON.stringify({ jsonrpc: "2.0", ...message }) + "\\n");
      say({ method: "hello" });
      process.stdin.on("data", (data) => {
        const lines = (rest + data).split("\\n");
        rest = lines.pop();
        for (const line of lines) {
          const { id, method, params, result } = JSON.parse(line);
          if (method === "ask") say({ id: "q", method: "workspace/configuration", params });
          else if (method === "long") setTimeout(() => say({ id, result: "x".repeat(params) }), 300);
          else if (method) say({ id, result: params });
          else say({ method: "got", params: result });
        }
      });`;
    using place = stage([{ id: "node", command: "node", args: ["-e", script] }]);
    await using bus = start(["--config", place.config, "--stdio"]);
    const send = (text: string): void => {
      bus.process.stdin.write(text);
      void bus.process.stdin.flush();
    };
    const told = async (what: object): Promise<void> => {
      const line = JSON.stringify({ jsonrpc: "2.0", ...what });
      await until(() => bus.lines.includes(line), line);
    };
    send(request(1, "initialize", { a: 1 }));
    await told({ id: 1, result: { a: 1 } });
    expect(bus.lines[0]).toBe('{"jsonrpc":"2.0","method":"hello"}');
    send(`${JSON.stringify({ jsonrpc: "2.0", method: "ask", params: [1] })}\n`);
    await told({ id: "w1", method: "workspace/configuration", params: [1] });
    send(`${JSON.stringify({ jsonrpc: "2.0", id: "w1", result: "yes" })}\n`);
    await told({ method: "got", params: "yes" });
    // More than a pipe holds; it is read later.
    send(request(2, "long", 500_000) + request(3, "long", 500_000));
    void bus.process.stdin.end();
    expect(await bus.process.exited).toBe(0);
    await until(() => bus.lines.length === 6, "both answers");
    for (const line of bus.lines) expect(JSON.parse(line).jsonrpc).toBe("2.0");
    expect(bus.lines.slice(4).map((line) => JSON.parse(line).result.length)).toEqual([500_000, 500_000]);
    expect((await bus.logged("ending"))["why"]).toBe("the client on standard input has ended");
  }, 30_000);

  test("the log has a line for each worker that starts, writes, dies and is paused", async () => {
    const restart = { maxRestarts: 0, backoff: { initial: 60_000 } };
    using place = stage([pool({ restart })], { serve: { tcp: { port: 0, token: false } } });
    await using bus = start(["--config", place.config]);
    const port = Number(/127\.0\.0\.1:(\d+)/.exec(await bus.line("stdio bus serves "))![1]);
    await talk({ host: "127.0.0.1", port }, request(1, "die", "exit"));
    await bus.logged("paused");
    const { pid } = await bus.logged("joined");
    expect(await bus.logged("log")).toMatchObject({ pool: "a", worker: 0, pid, line: "about to die" });
    expect(await bus.logged("died")).toMatchObject({ level: "warn", pool: "a", pid, exitCode: 3, signal: null });
    expect(await bus.logged("paused")).toMatchObject({ level: "error", pool: "a" });
    bus.process.kill("SIGTERM");
    expect(await bus.process.exited).toBe(0);
  }, 30_000);
});

test("when its log has no reader, it goes on, and ends with code 0", async () => {
  using place = stage([pool()]);
  const script = 'mkfifo log; (head -n 1 log; touch gone) >/dev/null & exec "$@" 2>log';
  const args = [process.execPath, COMMAND, "stdio", "--config", place.config, "--unix", place.socket];
  const bus = Bun.spawn(["sh", "-c", script, "sh", ...args], { cwd: place.path, stdio: ["ignore", "pipe", "inherit"] });
  await until(() => existsSync(join(place.path, "gone")), "the end of its reader", 20_000);
  for (const id of [1, 2]) {
    bus.kill("SIGHUP");
    expect(await talk({ path: place.socket }, request(id, "echo", id))).toMatchObject([{ result: id }]);
  }
  bus.kill("SIGTERM");
  expect(await bus.exited).toBe(0);
}, 30_000);

test("log lines that a slow reader does not take are counted as lost, and requests are answered meanwhile", async () => {
  const script = 'yes "$(printf %01000d 1)" | head -n 5000 >&2; exec "$@"';
  const { command, args = [] } = pool();
  using place = stage([pool({ command: "sh", args: ["-c", script, "sh", command, ...args] })]);
  const log = join(place.path, "log");
  expect(Bun.spawnSync(["mkfifo", log]).exitCode).toBe(0);
  const fd = openSync(log, constants.O_RDWR | constants.O_NONBLOCK);
  const all = [process.execPath, COMMAND, "stdio", "--config", place.config, "--unix", place.socket];
  const bus = Bun.spawn(["sh", "-c", `exec "$@" 2>${log}`, "sh", ...all], { stdio: ["ignore", "ignore", "inherit"] });
  const isServing = (): Promise<boolean> => talk({ path: place.socket }, "").then(Boolean, () => false);
  await until(isServing, "the bus serves", 20_000);
  expect(await talk({ path: place.socket }, request(1, "echo", 1))).toMatchObject([{ result: 1 }]);
  bus.kill("SIGTERM");
  const buffer = Buffer.alloc(1 << 20);
  let text = "";
  const counted = (): number => {
    const lines = text.slice(0, text.lastIndexOf("\n") + 1).split("\n");
    const all = lines.filter((line) => line !== "").map((line) => JSON.parse(line) as Record<string, unknown>);
    const lost = all.reduce((sum, { lines: count }) => sum + Number(count ?? 0), 0);
    expect(lost === 0 || lost > 1_000).toBe(true);
    return lost + all.filter(({ event }) => event === "log").length;
  };
  const read = (): void => {
    try {
      for (;;) text += buffer.toString("utf8", 0, readSync(fd, buffer));
    } catch (error) {
      expect((error as { code?: unknown }).code).toBe("EAGAIN");
    }
  };
  await until(() => (read(), counted() >= 5_000), "each line is there or counted as lost", 20_000);
  expect(text).toContain('"event":"lost"');
  expect(await bus.exited).toBe(0);
  closeSync(fd);
}, 30_000);

describe("SIGHUP", () => {
  test("a client in Node asks all the time while pools change: every request is answered, once", async () => {
    using place = stage([pool({ instances: 2 })]);
    await using bus = start(["--config", place.config, "--unix", place.socket]);
    await bus.line("stdio bus serves ");
    await using client = new Program(["node", CLIENT, place.socket]);
    await client.line("connected");
    const changes: [pools: StdioPoolOptions[], said: object][] = [
      [[pool({ instances: 4 })], { resized: ["a"], replaced: [] }],
      [[pool({ instances: 4, env: { A: "1" } })], { resized: [], replaced: ["a"] }],
      [[pool({ instances: 1, env: { A: "1" } }), pool({ id: "b" })], { resized: ["a"], added: ["b"] }],
      [[pool({ args: [...pool().args!, "more"] }), pool({ id: "b" })], { replaced: ["a"], unchanged: ["b"] }],
      [[pool({ args: [...pool().args!, "more"] })], { unchanged: ["a"], removed: ["b"] }],
      [[pool({ concurrency: 2 }), pool({ id: "c" })], { replaced: ["a"], added: ["c"] }],
      [[pool({ instances: 3 })], { replaced: ["a"], removed: ["c"] }],
    ];
    for (const [index, [pools, said]] of changes.entries()) {
      place.write(pools);
      const before = client.lines.length;
      bus.process.kill("SIGHUP");
      expect(await bus.logged("reloaded", index + 1)).toMatchObject(said);
      await until(() => client.lines.length > before + 1, "more answers");
    }
    void client.process.stdin.end();
    const report = JSON.parse((await client.line("report ")).slice(7));
    expect(report).toEqual({ sent: report.sent, unanswered: 0, twice: 0, errors: [] });
    expect(report.sent).toBeGreaterThan(changes.length * 200);
    expect(await client.process.exited).toBe(0);
    bus.process.kill("SIGTERM");
    expect(await bus.process.exited).toBe(0);
    expect(bus.log.filter(({ event }) => event === "died")).toEqual([]);
  }, 60_000);

  test("with an invalid config, or another address, nothing changes and one line says why", async () => {
    using place = stage([pool()]);
    await using bus = start(["--config", place.config, "--unix", place.socket]);
    await bus.line("stdio bus serves ");
    const { pid } = await bus.logged("joined");
    const wrong: [write: () => void, said: string][] = [
      [() => writeFileSync(place.config, '{"pools": [\n]]'), `${place.config}:2:2: JSON Parse error`],
      [() => place.write([pool({ instances: 0 })]), "pools[0].instances is 0"],
      [() => place.write([pool({ command: "no-such-program" })]), "no-such-program"],
      [
        () => place.write([pool({ instances: 2 })], { serve: { unix: "/x" } }),
        "`serve` has changed, which needs a restart",
      ],
      [() => place.write([pool({ env: { A: "1" }, args: ["-e", "process.exit(3)"] })]), "ended before it was ready"],
    ];
    for (const [index, [write, said]] of wrong.entries()) {
      write();
      bus.process.kill("SIGHUP");
      const { level, message } = await bus.logged("not reloaded", index + 1);
      expect([level, message!.includes(said) || message]).toEqual(["error", true]);
      expect(await talk({ path: place.socket }, request(1, "pid"))).toMatchObject([{ result: pid }]);
    }
    place.write([pool({ env: { A: "1" } })]);
    bus.process.kill("SIGHUP");
    expect(await bus.logged("reloaded")).toMatchObject({ replaced: ["a"] });
    bus.process.kill("SIGTERM");
    expect(await bus.process.exited).toBe(0);
  }, 60_000);

  test("several signals while it starts cause one reload once it has started", async () => {
    const wait = 'touch began; until [ -e go ]; do sleep 0.02; done; echo \'{"method":"$/ready"}\'; cat';
    using place = folder();
    const config = join(place.path, "bus.json");
    const write = (more: object): void =>
      writeFileSync(
        config,
        JSON.stringify({
          pools: [{ id: "s", command: "sh", args: ["-c", wait], cwd: place.path, ready: true, ...more }],
        }),
      );
    write({});
    await using bus = start(["--config", config, "--unix", join(place.path, "bus.sock")]);
    await until(() => existsSync(join(place.path, "began")), "its worker", 20_000);
    write({ instances: 2 });
    for (let n = 0; n < 20; n++) bus.process.kill("SIGHUP");
    writeFileSync(join(place.path, "go"), "");
    expect(await bus.logged("reloaded")).toMatchObject({ resized: ["s"] });
    bus.process.kill("SIGTERM");
    expect(await bus.process.exited).toBe(0);
    expect(bus.log.filter(({ event }) => event.includes("reloaded")).length).toBeLessThan(3);
  }, 30_000);

  test("a config from standard input cannot be read again; the bus goes on", async () => {
    using place = folder();
    const socket = join(place.path, "bus.sock");
    await using bus = start(["--config", "-", "--unix", socket]);
    bus.process.stdin.write(JSON.stringify({ pools: [pool()] }));
    void bus.process.stdin.end();
    await bus.line("stdio bus serves ");
    bus.process.kill("SIGHUP");
    expect((await bus.logged("not reloaded")).message).toContain("came from standard input");
    expect(await talk({ path: socket }, request(1, "echo", 1))).toMatchObject([{ result: 1 }]);
    bus.process.kill("SIGTERM");
    expect(await bus.process.exited).toBe(0);
  }, 30_000);
});
