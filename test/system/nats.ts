/** The wire over a real NATS server: what it keeps of a bus, and what faults do to it. `install.sh` installs the server. */

import { hostname } from "node:os";
import { join } from "node:path";
import type { NatsRow } from "../../bench/nats/suite.ts";
import type { Bar } from "../../bench/report.ts";
import { missing } from "../../bench/servers.ts";
import { contract, type PortableBus, rpc, SlotBus, type SlotbusError, SlotWorker } from "../../src/index.ts";
import { nats } from "../../src/nats/index.ts";
import { findNatsServer, NatsServer, type NatsServerOptions } from "../nats-server.ts";
import { remote, runSuite } from "../portable-suites.ts";
import { rejection } from "../wait.ts";
import { chunksOf, hasher, hashOf } from "./bytes.ts";
import { type Checks, expect, Lacking, note, Program, root, run, until } from "./checks.ts";
import { cluster, documentedCluster } from "./nats-cluster.ts";
import { hub, hubEvents, hubPermissions } from "./nats-hub.ts";
import { machines } from "./nats-machines.ts";
import { DocWorker, type Outgoing } from "./nats-peer.ts";
import { faults } from "./nats-faults.ts";
import { Proxy } from "./nats-proxy.ts";
import { credentials, fleetPermissions, tls } from "./nats-security.ts";

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
    expect(passed > 3, `only ${passed} tests of ${file} ran`);
    note(`${file}: ${passed} passed, ${left.length} are left out`);
  }
}

/** A bus with one worker in a process of its own, each with its own connection. */
async function pair(server: NatsServer, url = server.url): Promise<{ bus: PortableBus; worker: Program }> {
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
    await until(() => bus.stats().inFlight > 0, "the request is sent");
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
  const states: string[] = [];
  bus.on("disconnected", ({ code }) => states.push(code));
  bus.on("connected", () => states.push("connected"));
  const isConnected = (): boolean => /^slotbus_connected\{.*\} 1$/m.test(bus.metrics());
  for (let round = 0; round < 5; round++) {
    expect(isConnected(), bus.metrics());
    const running = rejection<SlotbusError>(bus.request({ path: "/hang" }));
    await Bun.sleep(50);
    await server.kill();
    const lost = await running;
    expect(lost.mayHaveExecuted && lost.code === "WORKER_DIED", `what ran rejected with ${lost.code}`);
    const refused = await rejection<SlotbusError>(bus.request({ path: "/echo" }, { waitForWorker: false }));
    expect(refused.code === "NO_WORKER" && !refused.mayHaveExecuted, `while it was gone: ${refused.code}`);
    expect(!isConnected(), bus.metrics());
    const waiting = bus.request({ path: "/echo", body: "waited" });
    await Bun.sleep(300);
    await server.startAgain();
    const start = now();
    const answer = await waiting;
    times.push(now() - start);
    expect(answer.text() === "waited", `it answered ${answer.text()}`);
  }
  expect(states.join() === Array(5).fill("DISCONNECTED,connected").join(), `the events of the bus: ${states}`);
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

async function bench(): Promise<void> {
  if (missing("nats") !== null) throw new Lacking("nats-server is not installed");
  const { rows, bars } = JSON.parse(await run(["bun", "src/cli/slotbus.ts", "bench", "nats", "--short", "--json"])) as {
    rows: NatsRow[];
    bars: Bar[];
  };
  expect(rows.map(({ system }) => system).join() === "slotbus,nats", "the systems are others");
  expect(bars.length === 7 && bars.every(({ measured }) => measured > 0), "a bar is missing");
  note(bars.map(({ name, measured }) => `${name}: ${measured}`).join("; "));
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

/** A server with a small `max_payload`: each frame is cut into many messages. */
async function smallMessages(): Promise<void> {
  await using server = await startServer({ config: "max_payload: 1000" });
  const { bus, worker } = await pair(server);
  await using _ = bus;
  await using __ = worker;
  for (const bytes of [0, 1, 900, 1_000, 70_000, 3_000_000]) {
    const body = crypto.getRandomValues(new Uint8Array(Math.min(bytes, 65_536)));
    const whole = Buffer.alloc(bytes, body.length > 0 ? body : 0);
    const back = await bus.request({ path: "/echo", body: whole }, { timeout: 60_000 });
    expect(Buffer.compare(back.bytes(), whole) === 0, `${bytes} bytes came back changed`);
  }
  const given = await bus.stream({ path: "/give", query: "3000000" }, { timeout: 60_000 });
  let length = 0;
  for await (const chunk of given.chunks()) length += chunk.length;
  expect(length === 3_000_000, `a stream had ${length} bytes`);
}

async function manyFaults(): Promise<void> {
  await using server = await startServer();
  await faults(server, 1_050);
}

/** Each of many readers stops after its first chunk; meanwhile others are served, and the server finds nobody slow. */
async function stalledReaders(): Promise<void> {
  await using server = await startServer();
  const bus = await SlotBus.connect({ name: "checked", via: nats({ servers: server.url }), slots: 64 });
  await using _ = bus;
  await using first = await startWorker(server.url, "checked");
  await using second = await startWorker(server.url, "checked");
  await bus.ready({ workers: 2 });
  const before = process.memoryUsage().rss;
  const readers = await Promise.all(Array.from({ length: 100 }, () => bus.stream({ path: "/endless" })));
  const chunks = readers.map((reader) => reader.chunks()[Symbol.asyncIterator]());
  for (const chunk of chunks) expect((await chunk.next()).done !== true, "an endless stream ended");
  await Bun.sleep(1_000);
  const grown = process.memoryUsage().rss - before;
  const times: number[] = [];
  for (let n = 0; n < 500; n++) {
    const start = now();
    await bus.request({ path: "/echo", body: "x" });
    times.push(now() - start);
  }
  const slow = server.log.split("\n").filter((line) => /slow consumer/i.test(line));
  expect(slow.length === 0, `the server says: ${slow[0]}`);
  const median = times.toSorted((a, b) => a - b)[250]!;
  note(`${(grown / 1_048_576).toFixed(0)} MiB more for 100 readers; others take ${median.toFixed(2)} ms`);
  expect(grown < 100 * 1_048_576, `100 readers that stopped hold ${grown} bytes`);
  expect(median < 50, `a request beside them takes ${median} ms`);
  for (const chunk of chunks) await chunk.return?.();
  void [first, second];
}

/** What a worker can do to its connection, and what the bus then says of it. */
const BREAKS: [name: string, spoil: (message: Outgoing) => void, says: RegExp][] = [
  ["a gap in the numbers", (message) => message.number++, /a message between it and this process was lost/],
  ["a number twice", (message) => message.number--, /a message between it and this process was lost/],
  [
    "an acknowledgement of bytes that were not sent",
    (message) => (message.acknowledged += 9_999),
    /an invalid message/,
  ],
  ["a message of no kind", (message) => (message.kind = 3), /an invalid message/],
  ["an end with bytes", (message) => (message.kind = 2), /an invalid message/],
  ["a frame of 4 GB", (message) => message.bytes.fill(255, 4, 8), /a frame of 4294967295 bytes/],
];

async function documented(): Promise<void> {
  await using server = await startServer();
  const bus = await SlotBus.connect({ name: "documented", via: nats({ servers: server.url }) });
  await using _ = bus;
  const reasons: string[] = [];
  bus.on("died", (_worker, reason) => reasons.push(reason));
  {
    await using worker = await DocWorker.open(server.url, "documented");
    worker.onRequest = (exchange, path) => worker.respond(exchange, `you asked ${path}`);
    await bus.ready();
    const answer = await bus.request({ path: "/hello" });
    expect(answer.text() === "you asked /hello", `it answered ${answer.text()}`);
  }
  await until(() => bus.workers.length === 0, "a worker whose connection to the server ended is gone");
  for (const [name, spoil, says] of BREAKS) {
    await using worker = await DocWorker.open(server.url, "documented");
    worker.onRequest = (exchange) => {
      worker.spoil = spoil;
      worker.respond(exchange, "spoilt");
    };
    await bus.ready();
    const { code, mayHaveExecuted } = await rejection<SlotbusError>(bus.request({ path: "/hello" }));
    expect(code === "WORKER_DIED" && mayHaveExecuted, `after ${name} the request rejects with ${code}`);
    expect(says.test(reasons.at(-1)!), `after ${name} the bus says: ${reasons.at(-1)}`);
    await until(() => worker.isOver, `the worker learns that its connection is over after ${name}`);
  }
  await using mute = await DocWorker.open(server.url, "documented");
  mute.onRequest = () => (mute.isMute = true);
  await bus.ready();
  const start = now();
  await rejection(bus.request({ path: "/hello" }));
  expect(now() - start > 2_500 && now() - start < 6_000, `a mute worker was noticed after ${now() - start} ms`);
}

/** What `slotbus ls`, `stats` and `top` say of a bus with one worker, this process, which has had one request. `ask` sends one. */
async function command(url: string, name: string, ask: () => Promise<unknown>): Promise<void> {
  const cli = async (...args: string[]): Promise<{ out: string; errors: string; code: number }> => {
    const child = Bun.spawn([process.execPath, "src/cli/slotbus.ts", ...args, "--nats", url], {
      cwd: root,
      stdio: ["ignore", "pipe", "pipe"],
    });
    const [out, errors, code] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
    return { out, errors, code };
  };
  const listed = (await cli("ls")).out.trim().split("\n");
  expect(listed.length === 2 && /^shop\.eu +1 +1 +0\/256 +1 +\d/.test(listed[1]!), `ls says:\n${listed.join("\n")}`);
  const { workers } = JSON.parse((await cli("stats", name, "--json")).out) as { workers: Record<string, unknown>[] };
  const [worker] = workers;
  expect(
    workers.length === 1 && worker!["pid"] === process.pid && worker!["taken"] === 1 && worker!["host"] === hostname(),
    `stats says: ${JSON.stringify(workers)}`,
  );
  expect((await cli("stats", name)).out.startsWith(`bus shop.eu on ${url}, 1 worker, 0/256 in use`), "stats as text");
  const none = await cli("stats", "none");
  expect(none.code === 3 && none.errors.includes('No worker of bus "none" answers'), `an unknown bus: ${none.errors}`);
  expect((await cli("stats")).code === 2, "a bus without a name");
  let isOver = false;
  const asking = (async () => {
    for (; !isOver; await Bun.sleep(5)) await ask();
  })();
  const top = await cli("top", name, "--json", "--interval", "0.3");
  const live = await cli("top", "--once", "--interval", "0.3");
  isOver = true;
  await asking;
  const frame = JSON.parse(top.out) as { buses: { name: string; workers: { requests_per_s: number }[] }[] };
  const [found] = frame.buses;
  const isRight = found?.name === name && found.workers.length === 1 && found.workers[0]!.requests_per_s > 10;
  expect(
    isRight && /^bus shop\.eu {2}1 worker {2}\d+ requests\/s$/m.test(live.out),
    `top says:\n${top.out}${live.out}`,
  );
  expect((await cli("top", "none", "--json")).code === 3, "top of an unknown bus");
}

async function services(): Promise<void> {
  await using server = await startServer();
  const via = nats({ servers: server.url });
  const name = "shop.eu";
  await using bus = await SlotBus.connect({ name, via });
  await using worker = await SlotWorker.open({ name, via });
  const shop = contract("shop", { buy: rpc<{ item: string }, string>() });
  worker.implement(shop, { buy: ({ item }) => `bought ${item}` });
  await bus.client(shop).buy({ item: "tea" });
  const connection = await via.link.enter();
  const ask = async (subject: string) => (await connection.request(subject)).json<Record<string, unknown>>();
  const ping = await ask("$SRV.PING");
  expect(ping["type"] === "io.nats.micro.v1.ping_response" && ping["name"] === "shop_eu", JSON.stringify(ping));
  const info = (await ask("$SRV.INFO.shop_eu")) as { endpoints: { name: string }[] };
  expect(info.endpoints.map((one) => one.name).join() === "requests,shop-buy", JSON.stringify(info));
  const stats = (await ask(`$SRV.STATS.shop_eu.${String(ping["id"])}`)) as { endpoints: { num_requests: number }[] };
  expect(stats.endpoints[0]!.num_requests === 1, JSON.stringify(stats));
  await command(server.url, name, () => bus.client(shop).buy({ item: "tea" }));
  await worker.close();
  const gone = await rejection<Error>(connection.request("$SRV.PING.shop_eu"));
  expect(
    gone.name === "NoRespondersError" || gone.name === "RequestError",
    `after the end of the worker: ${gone.name}`,
  );
  await via.link.leave();
}

/** Users that have only the permissions of docs/nats.md. */
const USERS = `authorization { users = [
  { user: asks, password: one, permissions: {
    publish: ["slotbus.shop~eu.w", "slotbus.shop~eu.w.>"], subscribe: ["slotbus.shop~eu.c", "slotbus.shop~eu.c.>"] } }
  { user: answers, password: two, permissions: {
    publish: ["slotbus.shop~eu.c", "slotbus.shop~eu.c.>"], subscribe: ["slotbus.shop~eu.w", "slotbus.shop~eu.w.>"] } }
] }`;

async function permissions(): Promise<void> {
  await using server = await startServer({ config: USERS });
  const [asks, answers, wrong] = [
    { user: "asks", pass: "one" },
    { user: "answers", pass: "two" },
    { user: "answers", pass: "wrong" },
  ].map((user) => nats({ servers: server.url, ...user }));
  const name = "shop.eu";
  await using bus = await SlotBus.connect({ name, via: asks });
  await using worker = await SlotWorker.open({ name, via: answers });
  worker.serve((request) => `hello ${request.text()}`);
  const answer = await bus.request({ path: "/", body: "Ada" });
  expect(answer.text() === "hello Ada", `it answered ${answer.text()}`);
  const refused = {
    "a client that opens a worker": SlotWorker.open({ name, via: asks }),
    "a worker that connects a bus": SlotBus.connect({ name, via: answers }),
    "a worker of another bus": SlotWorker.open({ name: "shop", via: answers }),
    "a wrong password": SlotBus.connect({ name, via: wrong }),
  };
  for (const [who, opening] of Object.entries(refused)) {
    const { code, message } = await rejection<SlotbusError>(opening);
    expect(code === "PERMISSION_DENIED", `${who} gets ${code}: ${message}`);
  }
}

export const checks: Checks = {
  "the tests of the public API pass over NATS, except those that portable-suites.ts lists": suites,
  "a killed worker over NATS is noticed within milliseconds while it has a request": killedWorker,
  "a stopped worker over NATS is noticed by missing signs of life, aborts what it ran, and comes back": stoppedWorker,
  "after a NATS server was killed and started again, the first request is answered within a second": killedServer,
  "a stopped NATS server is noticed by missing signs of life, and the bus goes on when it continues": stoppedServer,
  "after the network to a NATS server was cut, or let nothing through, the bus goes on": cutNetwork,
  "users with the permissions of docs/nats.md ask and answer over NATS, and others are refused": permissions,
  "a worker that is written from docs/nats.md alone answers, and is cut off when it breaks a rule of that page":
    documented,
  "tools that speak the services protocol of NATS see workers, the methods of their contracts and their counts":
    services,
  "slotbus bench nats measures slotbus and the bare client library": bench,
  "100 readers over NATS that stop hold little, delay nobody, and the server finds no slow consumer": stalledReaders,
  "over 1 000 faults over NATS nothing runs twice, nothing that ran is denied, no answer is foreign, all settle":
    manyFaults,
  "a cluster of three NATS servers loses one under load: requests, events and leases go on, and the books are right":
    cluster,
  "three servers with the file of docs/many-machines.md serve its users over TLS, and keep leases three times":
    documentedCluster,
  "the programs and the compose file of docs/many-machines.md work on two machines with a cable": machines,
  "a hub over NATS serves workers of other machines, which end, are killed, hang, and lose the server": hub,
  "two hub processes over NATS send events and WebSocket messages of one worker; wrong starts are clear errors":
    hubEvents,
  "a hub and its worker over NATS need the permissions of docs/nats.md, and no more": hubPermissions,
  "over TLS to a NATS server, a client that trusts its certificate works, and another gets one error": tls,
  "users with the permissions of docs/nats.md publish events, read them and claim leases": fleetPermissions,
  "a password, a token, an NKey and a file of credentials open a NATS server, and a wrong one is refused at once":
    credentials,
  "bodies of 64 MiB pass over NATS unchanged in both directions, whole and streamed": largeBodies,
  "bodies pass over a NATS server that accepts messages of 1 000 bytes only": smallMessages,
};
