/** The wire over a real NATS server: what it keeps of a bus, and what faults do to it. `install.sh` installs the server. */

import { join } from "node:path";
import { SlotBus, type SlotbusError } from "../../src/index.ts";
import { nats } from "../../src/nats/index.ts";
import { findNatsServer, NatsServer, type NatsServerOptions } from "../nats-server.ts";
import { remote, runSuite } from "../portable-suites.ts";
import { rejection } from "../wait.ts";
import { chunksOf, hasher, hashOf } from "./bytes.ts";
import { type Checks, expect, Lacking, note, Program, until } from "./checks.ts";
import { Proxy } from "./nats-proxy.ts";

async function startServer(options?: NatsServerOptions): Promise<NatsServer> {
  if (!findNatsServer()) throw new Lacking("nats-server is not installed");
  return NatsServer.start(options);
}

/** Starts a worker in a process of its own and waits until it is attached. */
async function startWorker(url: string, name: string, env: Record<string, string> = {}): Promise<Program> {
  const program = [process.execPath, join(import.meta.dir, "nats-worker.ts"), name];
  const worker = new Program(program, { NATS_URL: url, ...env });
  await worker.expectLine("ready");
  return worker;
}

const now = (): number => performance.now();

async function suites(): Promise<void> {
  await using server = await startServer();
  for (const [file, left] of Object.entries(remote)) {
    const env = { SLOTBUS_WIRE: "nats", NATS_URL: server.url };
    const { failed, strange, exitCode, passed, said } = await runSuite(file, left, {
      ...env,
      BUN_OPTIONS: `--preload=${join(import.meta.dir, "nats-connect.ts")}`,
    });
    expect(strange.length === 0, `no test of ${file} has the names ${strange.join(", ")}`);
    expect(
      failed.length === 0 && exitCode === 0,
      `the tests of ${file} failed:\n${failed.join("\n")}\n${said.slice(-3_000)}`,
    );
    expect(passed > 20, `only ${passed} tests of ${file} ran`);
    note(`${file}: ${passed} passed, ${left.length} are left out`);
  }
}

/** A bus with one worker in a process of its own, each with its own connection. */
async function pair(server: NatsServer, url = server.url): Promise<{ bus: SlotBus; worker: Program }> {
  const bus = await SlotBus.connect({ name: "checked", via: nats({ servers: url }), payloadBytes: 134_217_728 });
  const worker = await startWorker(server.url, "checked");
  await bus.ready();
  return { bus, worker };
}

async function killedWorker(): Promise<void> {
  await using server = await startServer();
  const times: number[] = [];
  for (let round = 0; round < 5; round++) {
    const { bus, worker } = await pair(server);
    await using _ = bus;
    await using __ = worker;
    const asked = rejection<SlotbusError>(bus.request({ path: "/hang" }));
    await until(() => bus.diagnostics().slots.some(({ requestId }) => requestId !== null), "the request is sent");
    await Bun.sleep(50);
    worker.kill("SIGKILL");
    await worker.ended();
    const start = now();
    const { code, mayHaveExecuted } = await asked;
    times.push(now() - start);
    expect(code === "WORKER_DIED" && mayHaveExecuted, `it rejected with ${code}, mayHaveExecuted ${mayHaveExecuted}`);
    expect(bus.workers.length === 0, "the bus still has the worker");
  }
  const median = times.toSorted((a, b) => a - b)[2]!;
  note(`noticed after ${times.map((ms) => ms.toFixed(1)).join(", ")} ms`);
  expect(median < 200, `the median is ${median} ms`);
}

async function stoppedWorker(): Promise<void> {
  await using server = await startServer();
  const { bus, worker } = await pair(server);
  await using _ = bus;
  await using __ = worker;
  const died: string[] = [];
  bus.on("died", (_worker, reason) => died.push(reason));
  const asked = rejection<SlotbusError>(bus.request({ path: "/hang" }));
  await Bun.sleep(100);
  worker.kill("SIGSTOP");
  const start = now();
  const { code, mayHaveExecuted } = await asked;
  const ms = now() - start;
  note(`noticed after ${(ms / 1_000).toFixed(1)} s: ${died[0]}`);
  expect(code === "WORKER_DIED" && mayHaveExecuted, `it rejected with ${code}, mayHaveExecuted ${mayHaveExecuted}`);
  expect(ms > 2_000 && ms < 6_000, `it was noticed after ${ms} ms`);
  worker.kill("SIGCONT");
  const answer = await bus.request({ path: "/echo", body: "again" }, { timeout: 10_000 });
  expect(answer.text() === "again", `it answered ${answer.text()}`);
  const aborts = Number((await bus.request({ path: "/aborts" })).text());
  expect(aborts === 1, `${aborts} handlers were aborted`);
}

async function killedServer(): Promise<void> {
  await using server = await startServer();
  const { bus, worker } = await pair(server);
  await using _ = bus;
  await using __ = worker;
  const times: number[] = [];
  for (let round = 0; round < 5; round++) {
    const running = rejection<SlotbusError>(bus.request({ path: "/hang" }));
    await Bun.sleep(50);
    await server.kill();
    const lost = await running;
    expect(lost.mayHaveExecuted && lost.code === "WORKER_DIED", `what ran rejected with ${lost.code}`);
    const refused = await rejection<SlotbusError>(bus.request({ path: "/echo" }, { waitForWorker: false }));
    expect(refused.code === "NO_WORKER" && !refused.mayHaveExecuted, `while it was gone: ${refused.code}`);
    const waiting = bus.request({ path: "/echo", body: "waited" });
    await Bun.sleep(300);
    await server.startAgain();
    const start = now();
    const answer = await waiting;
    times.push(now() - start);
    expect(answer.text() === "waited", `it answered ${answer.text()}`);
  }
  note(`first answers ${times.map((ms) => ms.toFixed(0)).join(", ")} ms after the server accepts connections`);
  expect(
    times.every((ms) => ms < 1_000),
    `it took ${Math.max(...times)} ms`,
  );
}

async function stoppedServer(): Promise<void> {
  await using server = await startServer();
  const { bus, worker } = await pair(server);
  await using _ = bus;
  await using __ = worker;
  const running = rejection<SlotbusError>(bus.request({ path: "/hang" }));
  await Bun.sleep(100);
  server.signal("SIGSTOP");
  const start = now();
  const { code, mayHaveExecuted } = await running;
  note(`noticed after ${((now() - start) / 1_000).toFixed(1)} s`);
  expect(code === "WORKER_DIED" && mayHaveExecuted && now() - start < 6_000, `it rejected with ${code}`);
  const refused = await rejection<SlotbusError>(bus.request({ path: "/echo" }, { waitForWorker: false }));
  expect(refused.code === "NO_WORKER" && !refused.mayHaveExecuted, `meanwhile it rejected with ${refused.code}`);
  server.signal("SIGCONT");
  const answer = await bus.request({ path: "/echo", body: "again" }, { timeout: 20_000 });
  expect(answer.text() === "again", `it answered ${answer.text()}`);
}

async function cutNetwork(): Promise<void> {
  await using server = await startServer();
  await using proxy = await Proxy.start(server.port);
  const { bus, worker } = await pair(server, proxy.url);
  await using _ = bus;
  await using __ = worker;
  const times: number[] = [];
  for (let round = 0; round < 10; round++) {
    const running = rejection<SlotbusError>(bus.request({ path: "/hang" }));
    await Bun.sleep(30);
    const start = now();
    proxy.cut();
    expect((await running).mayHaveExecuted, "what ran has not executed, it says");
    const answer = await bus.request({ path: "/echo", body: `${round}` }, { timeout: 10_000 });
    times.push(now() - start);
    expect(answer.text() === `${round}`, `it answered ${answer.text()}`);
  }
  note(`answers again ${times.map((ms) => ms.toFixed(0)).join(", ")} ms after a cut`);
  // Nothing flows, but the connection stays: signs of life are missing.
  const running = rejection<SlotbusError>(bus.request({ path: "/hang" }));
  await Bun.sleep(30);
  proxy.stick();
  const start = now();
  await running;
  expect(now() - start < 6_000, `a stuck network was noticed after ${now() - start} ms`);
  proxy.flow();
  const answer = await bus.request({ path: "/echo", body: "flows" }, { timeout: 20_000 });
  expect(answer.text() === "flows", `it answered ${answer.text()}`);
}

const LARGE = 67_108_864;

async function largeBodies(): Promise<void> {
  await using server = await startServer();
  const { bus, worker } = await pair(server);
  await using _ = bus;
  await using __ = worker;
  const seen = hasher();
  const whole = new Uint8Array(LARGE);
  let at = 0;
  for (const chunk of chunksOf(LARGE, seen)) {
    whole.set(chunk, at);
    at += chunk.length;
  }
  const hash = `${seen.digest("hex")} ${LARGE}`;
  const start = now();
  const sent = await bus.request({ path: "/hash", body: whole }, { timeout: 60_000 });
  expect(sent.text() === hash, `a whole body arrived as ${sent.text()}`);
  const back = await bus.request({ path: "/echo", body: whole }, { timeout: 60_000 });
  expect(Buffer.compare(back.bytes(), whole) === 0, "a whole body came back with other bytes");
  const streamed = await bus.request({ path: "/hash", body: chunksOf(LARGE, hasher()) }, { timeout: 60_000 });
  expect(streamed.text() === hash, `a stream arrived as ${streamed.text()}`);
  const given = await bus.stream({ path: "/give", query: `${LARGE}` }, { timeout: 60_000 });
  expect((await hashOf(given.chunks())) === hash, "a stream came with other bytes");
  note(`5 × 64 MiB in ${((now() - start) / 1_000).toFixed(1)} s`);
}

export const checks: Checks = {
  "the tests of bus, contract and fetch pass over NATS, except those that portable-suites.ts lists": suites,
  "a killed worker over NATS is noticed within milliseconds while it has a request": killedWorker,
  "a stopped worker over NATS is noticed by missing signs of life, aborts what it ran, and comes back": stoppedWorker,
  "after a NATS server was killed and started again, the first request is answered within a second": killedServer,
  "a stopped NATS server is noticed by missing signs of life, and the bus goes on when it continues": stoppedServer,
  "after the network to a NATS server was cut, or let nothing through, the bus goes on": cutNetwork,
  "bodies of 64 MiB pass over NATS unchanged in both directions, whole and streamed": largeBodies,
};
