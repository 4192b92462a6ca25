/** A cluster of three NATS servers that loses one under load. */

import { writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { Contest } from "../../src/contest/index.ts";
import { EventBus, Fleet, type PortableEventBus, topic } from "../../src/events/index.ts";
import { type PortableBus, SlotBus, type SlotbusError, SlotWorker } from "../../src/index.ts";
import { nats, type NatsVia } from "../../src/nats/index.ts";
import { blocksOf } from "../docs-blocks.ts";
import { cert, key } from "../fixtures/certificate.ts";
import { findNatsServer, NatsServer, type NatsServerOptions } from "../nats-server.ts";
import { rejection } from "../wait.ts";
import { expect, Lacking, note, Place, Program, until } from "./checks.ts";
import { type Heard, hear } from "./nats-heard.ts";
import { Books, call } from "./nats-faults.ts";
import { Tenures } from "./nats-tenures.ts";

/** Requests that each client has under way. */
const CALLERS = 4;

/** Resolves to ports that are free now. */
async function freePorts(count: number): Promise<number[]> {
  const servers = await Promise.all(
    Array.from({ length: count }, async () => {
      const server = createServer();
      await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
      return server;
    }),
  );
  const ports = servers.map((server) => (server.address() as { port: number }).port);
  await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))));
  return ports;
}

/** Starts three servers at once. `optionsOf` returns the options of each, for the ports of all routes. */
async function startServers(
  optionsOf: (n: number, ports: readonly number[]) => NatsServerOptions,
): Promise<NatsServer[]> {
  if (!findNatsServer()) throw new Lacking("nats-server is not installed");
  const ports = await freePorts(3);
  return Promise.all(ports.map((_, n) => NatsServer.start(optionsOf(n, ports))));
}

function startCluster(): Promise<NatsServer[]> {
  return startServers((n, ports) => {
    const routes = ports.map((port) => `"nats://127.0.0.1:${port}"`).join(", ");
    const cluster = `cluster { name: three, listen: "127.0.0.1:${ports[n]}", routes: [${routes}] }`;
    return { jetstream: true, config: `server_name: s${n}\n${cluster}` };
  });
}

/** The servers of a cluster in an order: the first that answers is taken. */
type At = (...order: number[]) => { servers: string[]; noRandomize: boolean };

/** Events of a publisher at server 0, which is killed, read at server 2, which stays, and at server 0. */
class Feed implements AsyncDisposable {
  #accepted = 0;
  #refused = 0;
  readonly #stack = new AsyncDisposableStack();
  readonly #heard: Heard[] = [];
  #timer: Timer | null = null;

  async open(at: At): Promise<void> {
    const enter = async (...order: number[]): Promise<PortableEventBus> => {
      const fleet = this.#stack.use(await Fleet.join({ name: "crew", via: nats(at(...order)), rings: { events: {} } }));
      return EventBus.open({ fleet, ring: "events" });
    };
    for (const order of [
      [2, 1],
      [0, 1, 2],
    ])
      this.#heard.push(await hear(await enter(...order), topic("t.*"), { queue: { limit: 100_000 } }));
    const publisher = await enter(0, 1, 2);
    const publish = (): void => {
      try {
        void publisher.publish(`t.${this.#accepted % 3}`, this.#accepted);
        this.#accepted++;
      } catch (error) {
        expect((error as SlotbusError).code === "DISCONNECTED", String(error));
        this.#refused++;
      }
    };
    publish();
    await until(() => this.#heard.every(({ events }) => events.length === 1), "the readers know the publisher");
    this.#timer = setInterval(publish, 2);
  }

  /** Resolves when `count` more events came to each reader. */
  async more(count: number): Promise<void> {
    const before = this.#heard.map(({ events }) => events.length);
    const isThere = (): boolean => this.#heard.every(({ events }, n) => events.length > before[n]! + count);
    await until(isThere, `${count} more events`);
  }

  /** Expects that each event came once and in order, or was counted as lost by the reader whose server stayed. */
  async audit(): Promise<void> {
    clearInterval(this.#timer!);
    const [steady, moved] = this.#heard as [Heard, Heard];
    const came = (): number => steady.events.length + steady.lost;
    await until(() => came() >= this.#accepted, "all events came or are counted");
    await Bun.sleep(1_200); // another heartbeat
    note(
      `${this.#accepted} events, ${this.#refused} refused; ${steady.lost} lost and counted; ` +
        `${moved.events.length} came to the reader that moved`,
    );
    expect(came() === this.#accepted && steady.unknown === 0, `${came()} of ${this.#accepted} came or are counted`);
    expect(moved.unknown === 1, `the reader that moved once tells ${moved.unknown} gaps`);
    for (const { events } of this.#heard)
      for (const n of [0, 1, 2]) {
        const mine = (events as number[]).filter((one) => one % 3 === n);
        expect(
          mine.every((one, i) => i === 0 || one > mine[i - 1]!),
          `events of t.${n} came twice or in another order`,
        );
      }
    expect(
      moved.events.length > this.#accepted / 4,
      `only ${moved.events.length} events came to the reader that moved`,
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#timer!);
    await this.#stack.disposeAsync();
  }
}

/** A request of a client whose only server is gone. The audit finds out whether it ran. */
async function refuse(bus: PortableBus, books: Books): Promise<void> {
  const number = ++books.sent;
  const asked = bus.request({ path: "/run", query: String(number) }, { waitForWorker: false });
  const { code, mayHaveExecuted } = await rejection<SlotbusError>(asked);
  expect(code === "NO_WORKER" && !mayHaveExecuted, `it rejected with ${code}, mayHaveExecuted ${mayHaveExecuted}`);
  books.notExecuted.push(number);
  books.settled++;
}

/**
 * Clients and workers, a publisher and two readers, and three processes that compete for leases, at all servers of a cluster. The
 * server that leads the stream of the leases is killed and comes back. One client knows only that server.
 */
export async function cluster(): Promise<void> {
  const servers = await startCluster();
  await using _ = { [Symbol.asyncDispose]: async () => void (await Promise.all(servers.map((one) => one.kill()))) };
  await using stack = new AsyncDisposableStack();
  for (const server of servers) stack.use(server);
  const link = nats({ servers: servers.map(({ url }) => url) });
  const fleet = stack.use(await untilElected(() => Fleet.join({ name: "crew", via: link })));
  const contest = stack.use(await untilElected(() => Contest.open({ fleet, owner: "a" })));
  const subject = { kind: "leader", label: "cluster" };
  const first = await contest.claim(subject, { ttl: 60_000 });
  const { replicas, leader } = await streamOf(link);
  expect(replicas === 3, `the stream of the leases has ${replicas} replicas`);
  servers.unshift(...servers.splice(leader, 1));
  const urls = servers.map(({ url }) => url);
  const at: At = (...order) => ({ servers: order.map((n) => urls[n]!), noRandomize: true });
  using books = new Books();
  for (const n of [0, 1, 2]) {
    const options = JSON.stringify(at(n, (n + 1) % 3, (n + 2) % 3));
    const command = [process.execPath, join(import.meta.dir, "nats-worker.ts"), "cluster", options];
    stack.use(new Program(command, { NATS_URL: urls[n]!, LEDGER: books.ledger }));
  }
  const connect = async (...order: number[]): Promise<PortableBus> =>
    stack.use(await SlotBus.connect({ name: "cluster", via: nats(at(...order)) }));
  const buses = [await connect(0, 1, 2), await connect(1, 2, 0), await connect(2, 0, 1)];
  const only = nats({ servers: urls[0]!, ignoreClusterUpdates: true });
  const bound = stack.use(await SlotBus.connect({ name: "cluster", via: only }));
  for (const bus of [...buses, bound]) await bus.ready({ workers: 3, timeout: 20_000 });
  await using feed = new Feed();
  await feed.open(at);
  await using tenures = new Tenures(urls.join(), "crew", ["one", "two"], 3);

  let isOver = false;
  const all = [...buses, bound];
  const callers = all.flatMap((bus) => Array.from({ length: CALLERS }, () => call(bus, books, () => isOver)));
  /** All go on: answers, events and leases. Returns the times of the first answers and of the first leases, in ms. */
  const goOn = async (): Promise<string> => {
    const [before, start] = [books.answered, performance.now()];
    const passed = (): string => (performance.now() - start).toFixed(0);
    await until(() => books.answered > before + 200, "200 more answers");
    const answers = passed();
    await feed.more(50);
    await tenures.more(2, "leases change hands", 20_000);
    return `${answers} and ${passed()}`;
  };
  const times = [await goOn()];
  await servers[0]!.kill();
  times.push(await goOn());
  await until(() => buses.every(({ workers }) => workers.length === 3), "each other client has all workers again");
  for (let n = 0; n < 20; n++) await refuse(bound, books);
  await servers[0]!.startAgain();
  await until(() => bound.workers.length === 3, "the client of the server that came back has all workers, at others");
  times.push(await goOn());
  note(`200 answers and 3 leases after ${times.join(", ")} ms: before, after the death and after the return`);
  const token = await untilElected(async () => (await contest.holder(subject))?.token);
  expect(token === first.token && !first.signal.aborted, `the lease has the token ${token}, not ${first.token}`);
  await first.release();
  const next = await contest.claim(subject, { ttl: 60_000 });
  expect(next.token > first.token, `after ${first.token} comes ${next.token}`);
  isOver = true;
  await Promise.all(callers);
  books.audit();
  await feed.audit();
  await tenures.end();
  tenures.audit(4);
  note(`${tenures.held.length} tenures`);
}

/** Three servers with the file of docs/many-machines.md, with other addresses and paths. A user for claims is added. */
export async function documentedCluster(): Promise<void> {
  using place = new Place();
  const [certificate, secret] = [join(place.folder, "cert.pem"), join(place.folder, "key.pem")];
  writeFileSync(certificate, cert);
  writeFileSync(secret, key);
  const text = blocksOf("docs/many-machines.md").find(({ language }) => language === "conf")!.code;
  await using stack = new AsyncDisposableStack();
  const servers = await startServers((n, ports) => {
    const here: Record<string, string> = {
      n1: `n${n + 1}`,
      "0.0.0.0:6222": `127.0.0.1:${ports[n]}`,
      "/etc/nats/cert.pem": certificate,
      "/etc/nats/key.pem": secret,
      "/data": join(place.folder, `data ${n}`),
      "users: [": 'users: [ { user: leases, password: "secret" }',
    };
    let config = text.replaceAll(/\/\/n(\d):6222/g, (_, other: string) => `//127.0.0.1:${ports[Number(other) - 1]}`);
    for (const [is, becomes] of Object.entries(here)) {
      expect(config.includes(is), `the file has ${is}`);
      config = config.replace(is, becomes);
    }
    return { config: config.replaceAll(/\$[A-Z]+_PASSWORD/g, '"secret"') };
  });
  for (const server of servers) stack.use(server);
  const as = (user: string, n: number): NatsVia => {
    const urls = [0, 1, 2].map((k) => `tls://localhost:${servers[(n + k) % 3]!.port}`);
    return nats({ servers: urls, noRandomize: true, tls: { ca: cert }, user, pass: "secret" });
  };
  const bus = stack.use(await SlotBus.connect({ name: "shop", via: as("client", 0) }));
  const worker = stack.use(await SlotWorker.open({ name: "shop", via: as("worker", 1) }));
  worker.serve((request) => `hello ${request.text()}`);
  const answer = (await bus.request({ path: "/", body: "Ada" })).text();
  expect(answer === "hello Ada", `it answered ${answer}`);
  const denied = await rejection<SlotbusError>(SlotWorker.open({ name: "shop", via: as("client", 2) }));
  expect(denied.code === "PERMISSION_DENIED", `a client that opens a worker gets ${denied.code}: ${denied.message}`);
  const foreign = stack.use(await SlotBus.connect({ name: "shop", via: as("admin", 2) }));
  const alone = await rejection<SlotbusError>(foreign.ready({ timeout: 300 }));
  expect(foreign.workers.length === 0, `a client of another account finds no worker: ${alone.code}`);
  const link = as("leases", 2);
  const fleet = stack.use(await untilElected(() => Fleet.join({ name: "crew", via: link })));
  const contest = stack.use(await untilElected(() => Contest.open({ fleet })));
  await contest.claim({ kind: "leader", label: "mailer" }, { ttl: 10_000 });
  const { replicas } = await streamOf(link);
  expect(replicas === 3, `the stream of the leases has ${replicas} replicas`);
}

/** Number of replicas of the leases' stream, and of the server that leads it. */
async function streamOf({ link }: NatsVia): Promise<{ replicas: number; leader: number }> {
  const answer = await link.connection.request("$JS.API.STREAM.INFO.KV_slotbus-crew");
  const { config, cluster } = answer.json<{ config: { num_replicas: number }; cluster: { leader: string } }>();
  return { replicas: config.num_replicas, leader: Number(cluster.leader.slice(1)) };
}

/** A cluster accepts connections before it has elected the leader that keeps leases. */
async function untilElected<T>(open: () => Promise<T>): Promise<T> {
  for (let tries = 0; ; tries++) {
    try {
      return await open();
    } catch (error) {
      if (tries === 50) throw error;
      await Bun.sleep(200);
    }
  }
}
