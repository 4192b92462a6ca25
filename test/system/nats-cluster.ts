/** A cluster of three NATS servers that loses one under load, and a server with TLS. */

import { writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { Contest, Fleet } from "../../src/contest/index.ts";
import { SlotBus, type SlotbusError, SlotWorker } from "../../src/index.ts";
import { nats } from "../../src/nats/index.ts";
import { cert, key } from "../fixtures/certificate.ts";
import { findNatsServer, NatsServer } from "../nats-server.ts";
import { rejection } from "../wait.ts";
import { expect, Lacking, note, Place, Program, until } from "./checks.ts";
import { Books, call } from "./nats-faults.ts";

const CALLERS = 8;

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

async function startCluster(): Promise<NatsServer[]> {
  if (!findNatsServer()) throw new Lacking("nats-server is not installed");
  const ports = await freePorts(3);
  const routes = ports.map((port) => `"nats://127.0.0.1:${port}"`).join(", ");
  return Promise.all(
    ports.map((port, n) => {
      const config = `server_name: s${n}\ncluster { name: three, listen: "127.0.0.1:${port}", routes: [${routes}] }`;
      return NatsServer.start({ jetstream: true, config });
    }),
  );
}

/** Requests, events of the connection and a lease while the server of client and holder is killed and comes back. */
export async function cluster(): Promise<void> {
  const servers = await startCluster();
  await using _ = { [Symbol.asyncDispose]: async () => void (await Promise.all(servers.map((one) => one.kill()))) };
  await using stack = new AsyncDisposableStack();
  for (const server of servers) stack.use(server);
  /** The servers in this order; the first that answers is taken. */
  const at = (...order: number[]) => ({ servers: order.map((n) => servers[n]!.url), noRandomize: true });
  using books = new Books();
  const worker = (n: number): Program => {
    const options = JSON.stringify(at(n, (n + 1) % 3, (n + 2) % 3));
    const command = [process.execPath, join(import.meta.dir, "nats-worker.ts"), "cluster", options];
    return stack.use(new Program(command, { NATS_URL: servers[n]!.url, LEDGER: books.ledger }));
  };
  const bus = stack.use(await SlotBus.connect({ name: "cluster", via: nats(at(0, 1, 2)) }));
  for (const n of [0, 1, 2]) worker(n);
  await bus.ready({ workers: 3, timeout: 20_000 });
  const fleet = stack.use(await untilElected(() => Fleet.join({ name: "crew", via: nats(at(0, 1, 2)) })));
  const contest = stack.use(await untilElected(() => Contest.open({ fleet, owner: "a" })));
  const subject = { kind: "leader", label: "cluster" };
  const first = await contest.claim(subject, { ttl: 60_000 });

  let isOver = false;
  const callers = Array.from({ length: CALLERS }, () => call(bus, books, () => isOver));
  const more = async (count: number): Promise<void> => {
    const before = books.answered;
    await until(() => books.answered > before + count, `${count} more answers`, 20_000);
  };
  await more(200);
  const start = performance.now();
  await servers[0]!.kill();
  await more(200);
  note(`200 answers within ${(performance.now() - start).toFixed(0)} ms after the death of the client's server`);
  await until(() => bus.workers.length === 3, "all workers are back, at other servers", 20_000);
  // The lease is in the two other servers.
  const token = await untilElected(async () => (await contest.holder(subject))?.token);
  expect(token === first.token && !first.signal.aborted, `the lease has the token ${token}, not ${first.token}`);
  await first.release();
  const next = await contest.claim(subject, { ttl: 60_000 });
  expect(next.token > first.token, `after ${first.token} comes ${next.token}`);
  await servers[0]!.startAgain();
  await servers[1]!.kill();
  await more(200);
  isOver = true;
  await Promise.all(callers);
  books.audit();
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

/** A server with TLS: a client that trusts its certificate, one that does not, and one without TLS. */
export async function tls(): Promise<void> {
  if (!findNatsServer()) throw new Lacking("nats-server is not installed");
  using place = new Place();
  const [certificate, secret] = [join(place.folder, "cert.pem"), join(place.folder, "key.pem")];
  writeFileSync(certificate, cert);
  writeFileSync(secret, key);
  const config = `tls { cert_file: ${JSON.stringify(certificate)}, key_file: ${JSON.stringify(secret)} }`;
  await using server = await NatsServer.start({ config });
  const servers = `tls://localhost:${server.port}`;
  const via = nats({ servers, tls: { ca: cert } });
  await using bus = await SlotBus.connect({ name: "shop", via });
  await using worker = await SlotWorker.open({ name: "shop", via });
  worker.serve((request) => request.body);
  const body = crypto.getRandomValues(new Uint8Array(65_536));
  const back = (await bus.request({ path: "/", body })).bytes();
  expect(Buffer.compare(back, body) === 0, "the body came back changed");
  const stranger = await rejection<SlotbusError>(SlotBus.connect({ name: "shop", via: nats({ servers, tls: {} }) }));
  expect(
    stranger.code === "DISCONNECTED" && /certificate/i.test(stranger.message),
    `without the CA: ${stranger.message}`,
  );
}
