/** A hub and its workers over a NATS server, in processes of their own. */

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { Hub, type HubOptions, HubWorker, sse, ws } from "../../src/hub/index.ts";
import type { SlotbusError } from "../../src/index.ts";
import { nats, type NatsOptions } from "../../src/nats/index.ts";
import { findNatsServer, NatsServer } from "../nats-server.ts";
import { rejection } from "../wait.ts";
import { expect, Lacking, note, Place, Program, root, until } from "./checks.ts";

const worker = join(root, "test/fixtures/hub-worker.ts");
const HUB = "far";

/** A NATS server, and hubs whose workers come over it. */
class Stage implements AsyncDisposable {
  readonly place = new Place();
  readonly server: NatsServer;
  readonly #stack = new AsyncDisposableStack();

  static async open(config = ""): Promise<Stage> {
    if (!findNatsServer()) throw new Lacking("nats-server is not installed");
    return new Stage(await NatsServer.start({ config }));
  }

  private constructor(server: NatsServer) {
    this.server = server;
    this.#stack.use(server);
  }

  via(options: NatsOptions = {}) {
    return nats({ servers: this.server.url, ...options });
  }

  async hub(options: HubOptions = {}): Promise<Hub> {
    const given = { name: HUB, port: 0, directory: this.place.folder, via: this.via(), ...options };
    return this.#stack.use(await Hub.start(given));
  }

  /** Starts a worker that has no directory with its hub: only the server is common. */
  async worker(name: string): Promise<Program> {
    const place = this.#stack.use(new Place());
    const env = { SLOTBUS_WIRE: "nats", NATS_URL: this.server.url };
    const program = this.#stack.use(new Program(["bun", worker, HUB, name, place.folder], env));
    this.#stack.defer(() => program.kill("SIGKILL")); // its input does not end it
    await program.expectLine("connected");
    return program;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack.disposeAsync();
    this.place[Symbol.dispose]();
  }
}

const ask = (hub: Hub, path: string, init?: RequestInit): Promise<Response> => fetch(new URL(path, hub.url!), init);
/** Waits until `look` resolves to `true`. */
async function eventually(look: () => Promise<boolean>, what: string): Promise<void> {
  for (const over = performance.now() + 20_000; !(await look()); await Bun.sleep(5))
    expect(performance.now() < over, `not within 20 s: ${what}`);
}
const names = async (hub: Hub): Promise<string[]> => {
  const { workers } = (await (await ask(hub, "/health")).json()) as { workers: { name: string; transport: string }[] };
  return workers.map(({ transport }) => transport);
};

/** `slotbus hub --nats` has the worker, in each of its processes. */
async function asProgram({ server, place }: Stage): Promise<void> {
  const flags = ["--name", HUB, "--port", "0", "--nats", server.url, "--directory", place.folder, "--json"];
  const program = new Program(["bun", join(root, "src/cli/slotbus.ts"), "hub", ...flags, "--processes", "2"]);
  try {
    const { url } = JSON.parse(await program.lineFrom("{")) as { url: string };
    const asked = async (): Promise<boolean> => (await fetch(`${url}w/users/1`)).status === 200;
    await eventually(asked, "the program has the worker");
    for (let n = 0; n < 20; n++) expect(await asked(), "each process has the worker");
  } finally {
    program.kill("SIGTERM");
    await program.ended();
  }
}

/** Requests, bodies, event streams and WebSockets; workers that end, are killed and hang; a server that is killed. */
export async function hub(): Promise<void> {
  await using stage = await Stage.open();
  const hub = await stage.hub({ ping: { interval: 100, timeout: 200, maxMisses: 3 } });
  const first = await stage.worker("w");
  const second = await stage.worker("w");
  expect((await names(hub)).join() === "nats:far.w,nats:far.w", `registered: ${await names(hub)}`);
  const pidOf = async (n: number): Promise<number> =>
    ((await (await ask(hub, `/w/users/${n}`)).json()) as { pid: number }).pid;
  const pids = new Set(await Promise.all(Array.from({ length: 50 }, (_, n) => pidOf(n))));
  expect(pids.size === 2, "both processes answer");
  const body = crypto.getRandomValues(new Uint8Array(3 << 20));
  const back = await (await ask(hub, "/w/echo", { method: "POST", body })).bytes();
  expect(Buffer.compare(back, body) === 0, "a body of 3 MiB comes back");
  expect((await (await ask(hub, "/w/stream")).text()).split("\n").length === 6, "a streamed answer");

  second.kill("SIGTERM");
  await second.lineFrom("stopped");
  await eventually(async () => (await names(hub)).length === 1, "the process that ended is not registered");
  expect((await ask(hub, "/w/users/1")).status === 200, "the other process answers");
  const third = await stage.worker("w");
  third.kill("SIGKILL");
  await eventually(async () => (await names(hub)).length === 1, "the killed process is not registered");
  expect((await ask(hub, "/w/users/1")).status === 200, "the other process still answers");

  void ask(hub, "/w/block?ms=3000");
  await first.lineFrom("blocks");
  await first.lineFrom('disconnected Bus "far.w" evicted this worker: it missed 3 pings.');
  await first.lineFrom("connected");
  expect((await ask(hub, "/w/users/1")).status === 200, "the process that hung is back");

  await stage.server.kill();
  await first.lineFrom("disconnected");
  expect((await ask(hub, "/w/users/1")).status === 503, "no worker without the server");
  await stage.server.startAgain();
  const began = performance.now();
  await first.lineFrom("connected");
  await eventually(async () => (await ask(hub, "/w/users/1")).status === 200, "answers again");
  note(`answers again ${Math.round(performance.now() - began)} ms after the server is back`);
  await hub.close();
  await first.lineFrom("disconnected");
  await asProgram(stage);
  await first.lineFrom("connected");
  await first.lineFrom("disconnected");
  const successor = await stage.hub();
  await first.lineFrom("connected");
  expect((await ask(successor, "/w/users/1")).status === 200, "a worker finds the next hub");
}

/** Event streams and WebSockets, whose events come over the control plane; two hub processes; and refusals. */
export async function hubEvents(): Promise<void> {
  await using stage = await Stage.open();
  const hubs = [await stage.hub({ shared: true, port: false }), await stage.hub({ shared: true, port: false })];
  const servers = hubs.map(({ fetch, websocket }) => Bun.serve({ port: 0, idleTimeout: 255, fetch, websocket }));
  try {
    await using worker: HubWorker = await HubWorker.start({
      name: "chat",
      hub: HUB,
      via: stage.via(),
      routes: {
        "/news": sse(),
        "/a/:id": ({ params }) => params.id,
        "/room": ws({
          open: (socket) => socket.subscribe("all"),
          message: (_socket, message) => worker.sockets.publish("all", String(message)),
        }),
      },
    });
    const [one, two] = servers.map(({ url }) => url);
    for (const url of [one!, two!])
      await eventually(async () => (await fetch(new URL("/a/7", url))).status === 200, "each hub has the routes");
    const streams = await Promise.all([one!, two!].map((url) => fetch(new URL("/news", url))));
    expect((await worker.emitter().ssePush("/news", "x", { a: 1 })) === 2, "an event for the clients of both hubs");
    for (const { body } of streams) {
      let text = "";
      for await (const chunk of body!.pipeThrough(new TextDecoderStream()))
        if ((text += chunk).includes('data: {"a":1}')) break;
    }
    const heard: string[] = [];
    const sockets = [one!, two!].map((url) => new WebSocket(new URL("/room", url.href.replace("http", "ws"))));
    for (const socket of sockets) socket.onmessage = ({ data }) => heard.push(String(data));
    await until(() => sockets.every(({ readyState }) => readyState === WebSocket.OPEN), "both sockets are open");
    sockets[0]!.send("hello");
    await until(() => heard.join() === "hello,hello", `both sockets hear: ${heard}`);
    for (const socket of sockets) socket.close();

    const refused: [() => Promise<unknown>, string, RegExp][] = [
      [() => stage.hub({ directory: `${stage.place.folder}/other` }), "BUS_EXISTS", /far/],
      [
        () =>
          HubWorker.start({
            name: "x",
            hub: HUB,
            directory: stage.place.folder,
            timeout: 0,
            routes: { "/x": () => "" },
          }),
        "HUB",
        /over NATS: pass `via`/,
      ],
      [
        () => HubWorker.start({ name: "x", hub: "none", via: stage.via(), timeout: 0, routes: {} }),
        "HUB",
        /not respond/,
      ],
      [
        () => HubWorker.start({ name: "y", hub: HUB, via: stage.via(), routes: { "/a/:b": () => "" } }),
        "HUB",
        /"chat"/,
      ],
    ];
    for (const [starting, code, message] of refused) {
      const error = await rejection<SlotbusError>(starting());
      expect(error.code === code && message.test(error.message), `${error.code}: ${error.message}`);
    }
  } finally {
    for (const server of servers) await server.stop(true);
  }
}

/** The users of the table for hubs in docs/nats.md. */
function users(): string {
  const page = readFileSync(join(root, "docs/nats.md"), "utf8");
  const all = ["hub `far` with worker `users`", "worker `users` of hub `far`"].map((role, n) => {
    const row = page.split("\n").find((line) => line.startsWith(`| ${role} |`));
    if (row === undefined) throw new Error(`docs/nats.md has no row "${role}"`);
    const [publish, subscribe] = row.split(" | ").slice(1);
    const list = (cell: string): string => [...cell.matchAll(/`([^`]+)`/g)].map(([, one]) => `"${one}"`).join(", ");
    const permissions = `{ publish: [${list(publish!)}], subscribe: [${list(subscribe!)}] }`;
    return `{ user: "${["hub", "worker"][n]}", password: one, permissions: ${permissions} }`;
  });
  return `authorization { users = [${all.join("\n")}] }`;
}

/** A hub and a worker that may do what docs/nats.md lists, and no more. */
export async function hubPermissions(): Promise<void> {
  await using stage = await Stage.open(users());
  const [asHub, asWorker] = ["hub", "worker"].map((user) => stage.via({ user, pass: "one" }));
  const hub = await stage.hub({ via: asHub });
  const routes = { "/users/:id": () => "a user", "/news": sse() };
  await using worker = await HubWorker.start({ name: "users", hub: HUB, via: asWorker, routes });
  expect((await (await ask(hub, "/users/7")).text()) === "a user", "it answers");
  expect((await worker.emitter().ssePush("/news", "x", "")) === 0, "it emits");
  const other = await rejection<SlotbusError>(
    HubWorker.start({ name: "money", hub: HUB, via: asWorker, timeout: 0, routes: { "/money": () => "" } }),
  );
  expect(
    other.code === "HUB" && /far\.money/.test(other.message),
    `a worker of another name gets ${other.code}: ${other.message}`,
  );
  const twin = await rejection<SlotbusError>(stage.hub({ name: "far2", via: asWorker }));
  expect(twin.code === "PERMISSION_DENIED", `a worker that starts a hub gets ${twin.code}: ${twin.message}`);
}
