/**
 * Programs as users run them, for the checks: a bus that starts its workers (this file too), or a hub and a worker of it. Each
 * prints a line when it is ready, and carries out the commands of its input.
 *
 *     bun service.ts bus DIRECTORY [OPTIONS]           JSON, of `SlotBus.create`; `workers` needs no `entry`
 *     bun service.ts hub DIRECTORY [OPTIONS [TLS]]     JSON, of `Hub.start`; TLS: folder with `key` and `certificate`
 *     bun service.ts hub-worker DIRECTORY
 */

import { join } from "node:path";
import { Hub, HubWorker, sse } from "../../src/hub/index.ts";
import { SlotBus, type SlotbusError, SlotWorker, WorkerDiedError } from "../../src/index.ts";
import type { Books } from "./bus.ts";
import { chunksOf, hasher, hashOf } from "./bytes.ts";
import { until } from "./checks.ts";
import { obey, say } from "./orders.ts";

const name = "system";
const [role, directory = "", options = "{}", certificates] = process.argv.slice(2);

async function worker(): Promise<void> {
  const attached = await SlotWorker.open();
  attached.serve(async (request) => {
    const { path, query } = request;
    if (path === "/echo") return request.incoming.chunks();
    if (path === "/whole") return request.body;
    if (path === "/wait") await Bun.sleep(Number(query));
    if (path === "/eat") for (const taken = []; ;) taken.push(new Uint8Array(16 * 2 ** 20).fill(1));
    return String(process.pid);
  });
}

async function bus(): Promise<void> {
  const { workers, ...others } = JSON.parse(options) as { workers: object };
  const own: SlotBus = await SlotBus.create({
    name,
    directory,
    ...others,
    workers: { entry: import.meta.path, ...workers },
  });
  own.supervisor!.on("died", (_, { signal, oomKills }) => say(`died ${signal} ${oomKills}`));
  own.on("unresponsive", ({ pid }) => say(`unresponsive ${pid}`));
  say(`ready ${own.options.spin}`);

  const errorOf = (error: SlotbusError): string =>
    error instanceof WorkerDiedError
      ? `${error.code} ${error.signal} ${error.report?.oomKills} ${error.mayHaveExecuted}`
      : error.code;
  /** Sends `requests` requests, `atOnce` at a time. */
  const ask = async (
    requests: number,
    atOnce: number,
    path: string,
    during?: () => Promise<void>,
    worker?: number,
  ): Promise<void> => {
    const books: Books = { ok: 0, pids: [], errors: {} };
    const pids = new Set<number>();
    let left = requests;
    const [route = "", query = ""] = path.split("?");
    const caller = async (): Promise<void> => {
      while (left-- > 0)
        await own.request({ path: route, query }, { worker }).then(
          (response) => {
            books.ok++;
            pids.add(Number(response.text()));
          },
          (error: SlotbusError) => {
            const text = errorOf(error);
            books.errors[text] = (books.errors[text] ?? 0) + 1;
          },
        );
    };
    const callers = Array.from({ length: atOnce }, caller);
    await during?.();
    await Promise.all(callers);
    books.pids = [...pids];
    say(`asked ${JSON.stringify(books)}`);
  };

  /** Prints a line from time to time: on a busy machine a long body takes minutes. Its own time limit ends it. */
  const slowly = async (work: () => Promise<void>): Promise<void> => {
    const timer = setInterval(() => say("works"), 10_000);
    await work().finally(() => clearInterval(timer));
  };
  await obey({
    ask: (requests, atOnce, path = "/") => ask(Number(requests), Number(atOnce), path),
    /** Sends one request to each worker. */
    each: async () => {
      const answers = await Promise.all(own.workers.map(({ id }) => own.request({ path: "/" }, { worker: id })));
      say(`each ${new Set(answers.map((answer) => answer.text())).size}`);
    },
    /** Kills workers while each of them runs a request. */
    crash: (workers) =>
      ask(500, 200, "/wait?200", async () => {
        const victims = own.workers.slice(0, Number(workers));
        const isBusy = (pid: number): boolean =>
          own.diagnostics().slots.some(({ workerPid, state }) => workerPid === pid && state === "CLAIMED");
        await until(() => victims.every(({ pid }) => isBusy(pid)), "every victim runs a request");
        for (const { pid } of victims) process.kill(pid, "SIGKILL");
      }),
    /** Lets one worker allocate memory until the kernel kills it, while the other one has work. */
    eat: async () => {
      const [glutton, other] = own.workers;
      const eaten = own.request({ path: "/eat" }, { worker: glutton!.id }).catch((error: SlotbusError) => {
        say(`ate ${errorOf(error)} ${error.message}`);
      });
      await ask(200, 8, "/", undefined, other!.id);
      await eaten;
    },
    ready: async (workers) => own.ready({ workers: Number(workers) }),
    blocking: (requests) => {
      for (let n = 0; n < Number(requests); n++) own.requestSync({ path: "/" });
    },
    /** Sends a stream that the worker sends back. */
    echo: (bytes) =>
      slowly(async () => {
        const sent = hasher();
        const response = await own.stream(
          { path: "/echo", body: chunksOf(Number(bytes), sent) },
          { deadline: 300_000 },
        );
        const back = await hashOf(response.chunks({ into: new Uint8Array(65_536) }));
        say(`hashes ${sent.digest("hex")} ${bytes} ${back}`);
      }),
    /** Sends one whole body that the worker sends back. */
    whole: (bytes) =>
      slowly(async () => {
        const body = new Uint8Array(Number(bytes));
        const sent = hasher();
        let at = 0;
        for (const chunk of chunksOf(body.length, sent)) body.set(chunk, (at += chunk.length) - chunk.length);
        const response = await own.request({ path: "/whole", body });
        say(
          `hashes ${sent.digest("hex")} ${bytes} ${hasher().update(response.body).digest("hex")} ${response.body.length}`,
        );
      }),
    workers: () => say(`workers ${own.workers.map(({ pid }) => pid).join()}`),
  });
  await own.close();
}

async function hub(): Promise<void> {
  const given = JSON.parse(options) as object;
  if (certificates === undefined) {
    const own = await Hub.start({ name, directory, port: 0, ...given });
    say(`ready ${own.url!.port}`);
    await obey({});
    return own.close();
  }
  const own = await Hub.start({ name, directory, port: false, ...given });
  const server = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    idleTimeout: 255,
    maxRequestBodySize: own.options.payloadBytes,
    tls: {
      key: Bun.file(join(certificates, "key")),
      cert: Bun.file(join(certificates, "certificate")),
    },
    fetch: own.fetch,
  });
  say(`ready ${server.port}`);
  await obey({});
  await own.close();
  await server.stop(true);
}

async function hubWorker(): Promise<void> {
  const own: HubWorker = await HubWorker.start({
    hub: name,
    name: "worker",
    directory,
    routes: {
      "/hash": { POST: (request) => hashOf(request.chunks()) },
      "/echo": { POST: (request) => request.chunks() },
      "/bytes/:count": ({ params }) => chunksOf(Number(params.count), hasher()),
      "/origin": ({ headers }) => `${headers.get("x-forwarded-proto")} ${headers.get("x-forwarded-host")}`,
      "/url/*": { fetch: (request: Request) => new Response(request.url) },
      "/wait": async ({ signal }) => {
        say("waiting");
        await new Promise((done) => signal.addEventListener("abort", done));
        say("aborted");
        return null;
      },
      "/feed": sse(),
    },
  });
  own.on("handlerError", (error) => say(`failed ${(error as Error).name}`));
  own.on("disconnected", (reason) => say(`disconnected ${reason.message}`));
  say("ready");
  await obey({ push: async (text) => say(`pushed ${await own.emitter().ssePush("/feed", "message", text!)}`) });
  await own.close();
}

if (process.env["SLOTBUS_NAME"]) await worker();
else {
  await { bus, hub, "hub-worker": hubWorker }[role as "bus" | "hub" | "hub-worker"]();
  process.exit();
}
