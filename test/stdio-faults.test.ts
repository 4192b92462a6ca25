/**
 * The stdio bus under faults: hosts and workers that are killed, peers that do not read, storms of starts and stops, and
 * its counters against an outside count. For longer runs: `npm run prove -- stdio`.
 */

import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { BusOverloadedError, ClosedError, RequestTimeoutError } from "../src/errors.ts";
import { StdioBus } from "../src/stdio/bus.ts";
import { fixture, folder, isAlive, marked, running } from "./stdio-stage.ts";
import { Child, descriptors, rejection, until } from "./support.ts";

const soon = { restart: { maxRestarts: Infinity, backoff: { initial: 1, max: 10 } } };

describe("a killed host", () => {
  test("leaves no process of its stdio pool or its bus after one second, with any signals that its workers ignore", async () => {
    using place = folder();
    const mark = place.path;
    await using host = new Child("stdio-host.ts", [`host-${process.pid}`], {
      SLOTBUS_DIR: place.path,
      SLOTBUS_TEST_MARK: place.path,
    });
    await host.line("busy", 20_000);
    await until(() => marked(mark).length >= 17, "host, four launchers, four workers and two children of each"); // and their `sleep`s
    await host.kill("SIGKILL");
    await until(() => marked(mark).length === 0, "none of them lives", 1_000);
  }, 30_000);

  test("leaves no process either when it is killed while its workers start", async () => {
    using place = folder();
    const mark = place.path;
    for (const least of [2, 3, 5, 8]) {
      const name = `host-${process.pid}-${least}`;
      await using host = new Child("stdio-host.ts", [name], { SLOTBUS_DIR: place.path, SLOTBUS_TEST_MARK: place.path });
      await until(() => marked(mark).length >= least, `${least} processes`);
      await host.kill("SIGKILL");
      await until(() => marked(mark).length === 0, "none of them lives", 1_000);
    }
  }, 30_000);
});

describe("killed workers", () => {
  test("keys of a killed worker stay with its next life, other workers' keys do not move", async () => {
    await using bus = await running({ pools: [fixture("stdio-worker.ts", { instances: 4, ready: true, ...soon })] });
    const keys = Array.from({ length: 200 }, (_, i) => `user ${i}`);
    const owners = (): Promise<number[]> => Promise.all(keys.map((key) => bus.request<number>("pid", 0, { key })));
    let before = await owners();
    for (let round = 0; round < 4; round++) {
      const dead = before[0]!;
      process.kill(dead, "SIGKILL");
      await until(
        () => bus.workers.length === 4 && !bus.stats().workers.some(({ pid }) => pid === dead),
        "the next life",
      );
      expect(isAlive(dead)).toBe(false);
      const after = await owners();
      const heirs = new Set(after.filter((_, i) => before[i] === dead));
      expect(heirs.size).toBe(1);
      const [heir] = heirs;
      expect(before).not.toContain(heir!);
      expect(after).toEqual(before.map((pid) => (pid === dead ? heir! : pid)));
      before = after;
    }
  });

  test("each client's requests are answered once, to that client, though all use the same ids and workers die", async () => {
    using place = folder();
    await using bus = await running({
      pools: [fixture("stdio-worker.ts", { instances: 3, ready: true, ...soon })],
      queue: { limit: 2_000 },
    });
    const unix = join(place.path, "s");
    await bus.serve({ unix, concurrency: 1_000 });
    const each = 200;
    const clients = Array.from({ length: 4 }, (_, client) => {
      const answers = new Map<string, { id: unknown; result?: unknown; error?: { data: { code: string } } }[]>();
      const socket = connect(unix);
      let rest = "";
      socket.setEncoding("utf8").on("data", (text: string) => {
        const lines = (rest + text).split("\n");
        rest = lines.pop()!;
        for (const line of lines) {
          const message = JSON.parse(line);
          const id = JSON.stringify(message.id);
          answers.set(id, [...(answers.get(id) ?? []), message]);
        }
      });
      const ids = Array.from({ length: each }, (_, i) => [i, `${i}`]).flat(); // 42 and "42" are two ids
      for (const id of ids) {
        const params = [client, id];
        socket.write(`${JSON.stringify({ jsonrpc: "2.0", id, method: "echo", params })}\n`);
      }
      return { socket, answers, client, ids };
    });
    const count = (): number => clients.reduce((sum, { answers }) => sum + answers.size, 0);
    for (let kills = 0; kills < 6; kills++) {
      await until(() => count() > (kills * clients.length * each * 2) / 12, "answers");
      await until(
        () => bus.workers.length === 3 && bus.stats().workers.every(({ pid }) => isAlive(pid)),
        "all workers",
      );
      process.kill(bus.stats().workers[kills % 3]!.pid, "SIGKILL");
    }
    await until(() => count() === clients.length * each * 2, "all are answered");
    let failed = 0;
    for (const { socket, answers, client, ids } of clients) {
      for (const id of ids) {
        const got = answers.get(JSON.stringify(id))!;
        expect(got.length).toBe(1);
        if (got[0]!.error) expect([got[0]!.error.data.code, ++failed]).toEqual(["WORKER_DIED", failed]);
        else expect(got[0]).toEqual({ jsonrpc: "2.0", id, result: [client, id] } as object as (typeof got)[0]);
      }
      socket.destroy();
    }
    expect(failed).toBeLessThan(6 * 64 + 1); // at most a killed worker's requests
    expect(bus.stats()).toMatchObject({ inFlight: 0, waiting: 0, protocolErrors: 0 });
  }, 30_000);

  test("events come in order: log before the exit, the exit before its consequences", async () => {
    const told: string[] = [];
    const restart = { maxRestarts: 1, backoff: { initial: 1, max: 10 }, giveUp: true };
    await using bus = await running(
      { pools: [fixture("stdio-worker.ts", { ready: true, restart })] },
      {
        joined: ({ life }) => told.push(`joined ${life}`),
        left: ({ life }) => told.push(`left ${life}`),
        died: ({ life }, { exitCode }) => told.push(`died ${life} with ${exitCode}`),
        log: (_, line) => told.push(line),
        failed: ({ code }, pool) => told.push(`${code} ${pool}`),
      },
    );
    await rejection(bus.request("die", "exit"));
    await until(() => bus.workers.length === 1, "its next life");
    await rejection(bus.request("die", "exit"));
    await until(() => told.includes("WORKER_FAILED a"), "its end");
    expect(told).toEqual([
      "joined 1",
      "about to die",
      "died 1 with 3",
      "joined 2",
      "about to die",
      "died 2 with 3",
      "WORKER_FAILED a",
    ]);
  });
});

describe("peers that do not read", () => {
  const deaf = (): ReturnType<typeof fixture> =>
    fixture("stdio-odd.ts", { id: "deaf", stop: { drain: 0, endOfInput: 0, term: 0 } }, "deaf");

  test("a megabyte for a worker that reads nothing waits, times out, delays no other worker and counts as queued", async () => {
    await using bus = await running({
      pools: [deaf(), fixture("stdio-worker.ts", { ready: true })],
      queuedBytes: 256 * 1_024,
      queue: { limit: 2 },
    });
    const to = { pool: "deaf", timeout: 1_000 };
    const large = rejection<RequestTimeoutError>(bus.request("echo", "x".repeat(2 ** 20), to));
    await until(() => bus.stats().workers.some(({ queuedBytes }) => queuedBytes > 2 ** 20), "it is queued");
    const later = [1, 2].map((i) => rejection<RequestTimeoutError>(bus.request("echo", i, to)));
    expect(await rejection(bus.request("echo", 3, to))).toBeInstanceOf(BusOverloadedError);
    const start = performance.now();
    for (let i = 0; i < 100; i++) expect(await bus.request("echo", i, { pool: "a" })).toBe(i);
    expect(performance.now() - start).toBeLessThan(5_000);
    expect((await large).mayHaveExecuted).toBe(true);
    for (const error of await Promise.all(later)) {
      expect(error).toBeInstanceOf(RequestTimeoutError);
      expect(error.mayHaveExecuted).toBe(false); // it was never sent
    }
    expect(bus.stats()).toMatchObject({ inFlight: 0, waiting: 0 });
    const [report] = await bus.close();
    expect([report!.pool, report!.signal]).toEqual(["deaf", "SIGTERM"]);
  }, 20_000);

  test("reading from a worker stops while its responses and notifications are not taken, and none is lost", async () => {
    await using bus = await running({ pools: [fixture("stdio-odd.ts", {})] });
    const reader = bus.subscribe({ method: "flood", queue: { limit: 10, policy: "block" } });
    const flood = bus.request("flood", 200_000); // 10 MB and more
    let last = -1;
    await until(async () => {
      const before = last;
      last = bus.stats().bytesOut;
      await Bun.sleep(100);
      return last > 0 && before === last;
    }, "it is held");
    expect(last).toBeLessThan(2 ** 20);
    let next = 0;
    for await (const { params } of reader) {
      expect(params).toBe(next++);
      if (next === 200_000) break;
    }
    expect(await flood).toBe(200_000);
    expect(bus.stats().lost).toBe(0);
  }, 30_000);
});

describe("storms", () => {
  test("starts, exits and requests in any order all settle, and leave nothing", async () => {
    const start = (): Promise<StdioBus> => StdioBus.start({ pools: [{ id: "a", command: "cat", instances: 2 }] });
    await (await start()).close();
    const before = descriptors();
    const seed = Number(process.env["SEED"] ?? Date.now() % 2 ** 31);
    let state = seed;
    const random = (below: number): number =>
      (state = (Math.imul(state, 1_103_515_245) + 12_345) & 0x7fff_ffff) % below;
    const outcomes: Promise<unknown>[] = [];
    const errors: unknown[] = [];
    const buses = await Promise.all(Array.from({ length: 4 }, start));
    let started = 0;
    for (let i = 0; i < 300; i++) {
      const what = random(10);
      const bus = buses[random(buses.length)]!;
      let outcome: Promise<unknown>;
      if (what === 0) outcome = start().then((one) => (started++, one.close({ timeout: random(100) })));
      else if (what === 1) outcome = bus.close({ timeout: random(20) });
      else if (what === 2) outcome = bus.drain();
      else if (what === 3) outcome = start().then((one) => buses.splice(random(4), 1, one)[0]!.close());
      else if (what < 7) outcome = bus.notify("x");
      else outcome = bus.resize("a", 1 + random(3));
      outcomes.push(outcome.catch((error) => errors.push(error)));
      if (random(3) > 0) await Bun.sleep(random(8));
    }
    await Promise.all(outcomes);
    await Promise.all(buses.map((bus) => bus.close()));
    expect(errors.filter((error) => !(error instanceof ClosedError))).toEqual([]);
    for (const bus of buses) expect([bus.closed, bus.workers, bus.stats().workers]).toEqual([true, [], []]);
    expect(started).toBeGreaterThan(5);
    await until(() => descriptors() <= before, `${before} descriptors (seed ${seed})`);
  }, 60_000);

  test("hundreds of starts and stops leave no descriptor, no process and no memory", async () => {
    const child = Bun.spawn([process.execPath, join(import.meta.dir, "prove/stdio/cycles.ts"), "test"], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    const text = await child.stdout.text();
    expect([await child.exited, text]).toEqual([
      0,
      expect.stringMatching(/lost 0, doubled 0, misdelivered 0, leaked 0\n$/),
    ]);
  }, 60_000);
});

test("a client that reads nothing delays its worker for its request's timeout, and no later request", async () => {
  using place = folder();
  await using bus = await running({ pools: [fixture("stdio-worker.ts", { timeout: 500 })] });
  const { path } = await bus.serve({ unix: join(place.path, "s"), queuedBytes: 1_024 });
  const client = connect(path!, () => client.write('{"id":1,"method":"endless"}\n')).pause();
  await until(() => bus.stats().inFlight === 1, "its request");
  await until(() => bus.stats().inFlight === 0, "its timeout");
  expect(await bus.request("echo", 1)).toBe(1);
  expect(await rejection(bus.request("endless", 0, { onProgress: () => new Promise(() => {}) }))).toMatchObject({
    code: "TIMEOUT",
  });
  expect(await bus.request("echo", 2)).toBe(2);
  client.destroy();
});

describe("counters", () => {
  test("all eight counters equal what pipes in between and the caller counted", async () => {
    using place = folder();
    const [input, output] = [join(place.path, "in"), join(place.path, "out")];
    const program = [process.execPath, join(import.meta.dir, "fixtures/stdio-worker.ts")];
    const script = `tee -a ${input} | "$@" | tee -a ${output}`;
    await using bus = await running({
      pools: [{ id: "a", command: "sh", args: ["-c", script, "sh", ...program], ready: true, ...soon }],
    });
    const unix = join(place.path, "s");
    await bus.serve({ unix });
    const counted = { restarts: 0, routing: 0, connects: 0, disconnects: 0 };
    for (let round = 0; round < 3; round++) {
      for (let i = 0; i < 50; i++) expect(await bus.request("echo", `${i}ä€`)).toBe(`${i}ä€`);
      await bus.request("tell", { a: 1 });
      await bus.request("count", 10, { onProgress: () => {} });
      await rejection(bus.request("fail", 1));
      await rejection(bus.request("wait", 0, { timeout: 20 })); // and its cancellation
      await bus.notify("echo", round);
      expect(await rejection(bus.request("echo", 1, { pool: "nowhere" }))).toMatchObject({ code: "UNKNOWN_POOL" });
      counted.routing++;
      const socket = connect(unix);
      const came = new Promise<string>((done) => socket.once("data", (bytes) => done(`${bytes}`)));
      socket.write('{"jsonrpc":"2.0","id":"x","method":"echo","params":7}\n');
      expect(JSON.parse(await came)).toEqual({ jsonrpc: "2.0", id: "x", result: 7 });
      counted.connects++;
      if (round > 0) {
        socket.destroy();
        await until(() => bus.stats().clients === 1, "the end of a client");
        counted.disconnects++;
      }
      const of = (file: string): string => readFileSync(file, "utf8");
      const isRead = (): boolean => bus.stats().bytesIn === Buffer.byteLength(of(input));
      await until(() => isRead() && bus.stats().bytesOut === Buffer.byteLength(of(output)), "all is through the pipes");
      expect(bus.stats()).toMatchObject({
        messagesIn: of(input).split("\n").length - 1,
        bytesIn: Buffer.byteLength(of(input)),
        messagesOut: of(output).split("\n").length - 1,
        bytesOut: Buffer.byteLength(of(output)),
        workerRestarts: counted.restarts,
        routingErrors: counted.routing,
        clientConnects: counted.connects,
        clientDisconnects: counted.disconnects,
      });
      process.kill(bus.stats().workers[0]!.pid, "SIGKILL");
      await until(() => bus.workers.length === 0, "its end");
      await until(() => bus.workers.length === 1, "its next life");
      counted.restarts++;
    }
    expect(bus.stats().workerRestarts).toBe(3);
  }, 30_000);
});

test("without the C library and the launcher, the conformance tests pass over stdio", async () => {
  const only = ["test", "stdio-conformance", "-t", "^(a link in memory|stdio) "];
  const child = Bun.spawn([process.execPath, ...only], {
    cwd: join(import.meta.dir, ".."),
    env: { ...process.env, SLOTBUS_LIB: "/nowhere/libslotbus.so", SLOTBUS_LAUNCHER: "" },
    stdio: ["ignore", "ignore", "pipe"],
  });
  const report = await child.stderr.text();
  expect(report).toMatch(/^ *32 pass$/m);
  expect(report).toMatch(/^ *0 fail$/m);
  expect(await child.exited).toBe(0);
}, 60_000);
