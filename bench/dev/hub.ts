/**
 * Compares the hub with other ways to put HTTP in front of a worker process: `bun bench/dev/hub.ts [--quick] [--json]`.
 *
 * `wrk` loads a small JSON route with one parameter from one thread. Contestants alternate in each round; the program
 * prints medians. All contestants respond with the same bytes.
 *
 *   bare        Bun.serve with its own router, one process
 *   hub         the hub and one worker
 *   nginx       nginx as a proxy to Bun.serve on a unix socket
 *   bun-proxy   Bun.serve that fetches from Bun.serve on a unix socket
 *
 * Then a route that computes for about 2 ms: one worker process against two of the same name, each behind its own hub.
 */

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";

const { values } = parseArgs({ options: { quick: { type: "boolean" }, json: { type: "boolean" } } });
const ROUNDS = values.quick ? 5 : 11;
const SECONDS = values.quick ? 1 : 2;
const CONNECTIONS = [32, 1];
const PATH = "/users/42";
const BUSY_PATH = "/busy/42";
const BUSY_CONNECTIONS = 8;

const folder = mkdtempSync(join(tmpdir(), "slotbus-hub-bench-"));
const root = join(import.meta.dir, "../..");
const children: Bun.Subprocess[] = [];

function start(command: string[]): void {
  children.push(
    Bun.spawn(command, { stdio: ["ignore", "ignore", "inherit"], env: { ...process.env, SLOTBUS_DIR: folder } }),
  );
}

function startBun(name: string, source: string): void {
  const file = join(folder, `${name}.ts`);
  writeFileSync(file, source);
  start([process.execPath, file]);
}

function freePort(): number {
  const server = Bun.serve({ port: 0, fetch: () => new Response() });
  const { port } = server;
  void server.stop(true);
  return port!;
}

const route = `{ "/users/:id": (request) => Response.json({ id: request.params.id }) }`;
const socket = join(folder, "back.sock");

function startHub(name: string, port: number, workers: number): void {
  start([process.execPath, join(root, "src/cli/slotbus.ts"), "hub", "--port", String(port), "--name", name]);
  for (let i = 0; i < workers; i++)
    startBun(
      `worker-${name}`,
      `import { HubWorker } from ${JSON.stringify(join(root, "src/hub/index.ts"))};
       const worker = await HubWorker.start({
         hub: ${JSON.stringify(name)},
         name: "users",
         reconnect: { initial: 20 },
         routes: {
           "/users/:id": ({ params }) => ({ json: { id: params.id } }),
           "/busy/:id": ({ params }) => {
             let x = 1;
             for (let i = 0; i < 700_000; i++) x = Math.imul(x ^ (x >>> 15), 0x2c1b3c6d) + i;
             return { json: { id: x === 0.5 ? "never" : params.id } };
           },
         },
       });
       process.on("SIGTERM", () => void worker.close());`,
    );
}

type Contestants = Record<string, (port: number) => void>;

const contestants: Contestants = {
  bare: (port) => startBun("bare", `Bun.serve({ port: ${port}, routes: ${route} });`),
  hub: (port) => startHub("hub", port, 1),
  nginx: (port) => {
    const file = join(folder, "nginx.conf");
    writeFileSync(
      file,
      `daemon off; ${process.geteuid?.() === 0 ? "user root;" : ""} pid ${folder}/nginx.pid; error_log stderr error; worker_processes 1; events { worker_connections 1024; }
       http { access_log off; client_body_temp_path ${folder}/b; proxy_temp_path ${folder}/p; fastcgi_temp_path ${folder}/f;
         uwsgi_temp_path ${folder}/u; scgi_temp_path ${folder}/s;
         upstream back { server unix:${socket}; keepalive 64; }
         server { listen 127.0.0.1:${port}; keepalive_requests 1000000000;
           location / { proxy_pass http://back; proxy_http_version 1.1; proxy_set_header Connection ""; } } }`,
    );
    start(["nginx", "-c", file, "-p", folder]);
  },
  "bun-proxy": (port) =>
    startBun(
      "proxy",
      `Bun.serve({ port: ${port}, fetch: (request) => {
         const { pathname, search } = new URL(request.url);
         return fetch("http://back" + pathname + search, { unix: ${JSON.stringify(socket)}, method: request.method, headers: request.headers });
       } });`,
    ),
};

const teams: Contestants = {
  "1 worker": (port) => startHub("one", port, 1),
  "2 workers": (port) => startHub("two", port, 2),
};

async function untilItAnswers(port: number): Promise<void> {
  for (let attempt = 0; ; attempt++) {
    const response = await fetch(`http://127.0.0.1:${port}${PATH}`).catch(() => null);
    if (response?.status === 200 && (await response.text()) === '{"id":"42"}') return;
    if (attempt === 500) throw new Error(`nothing answers on port ${port}`);
    await Bun.sleep(20);
  }
}

type Ports = ReadonlyMap<string, number>;

async function startAll(systems: Contestants): Promise<Ports> {
  const ports = new Map<string, number>();
  for (const [name, begin] of Object.entries(systems)) {
    const port = freePort();
    begin(port);
    await untilItAnswers(port);
    ports.set(name, port);
  }
  return ports;
}

/** Requests per second, and the median duration of a request in µs. */
function load(port: number, connections: number, path = PATH): { rate: number; p50: number } {
  const command = ["wrk", "-t1", `-c${connections}`, `-d${SECONDS}s`, "--latency", `http://127.0.0.1:${port}${path}`];
  const { stdout } = Bun.spawnSync(command);
  const text = stdout.toString();
  if (/Non-2xx|Socket errors/.test(text)) throw new Error(text);
  const [, value, unit] = /50%\s+([\d.]+)(us|ms|s)/.exec(text)!;
  return {
    rate: Number(/Requests\/sec:\s+([\d.]+)/.exec(text)![1]),
    p50: Number(value) * { us: 1, ms: 1_000, s: 1_000_000 }[unit as "us"]!,
  };
}

const median = (numbers: number[]): number => numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)]!;

try {
  for (const tool of ["wrk", "nginx"])
    if (!Bun.which(tool)) throw new Error(`lacks ${tool}: apt-get install -y ${tool}`);
  startBun("back", `Bun.serve({ unix: ${JSON.stringify(socket)}, routes: ${route} });`);
  const rows: { system: string; connections: number; requests_per_second: number; p50_us: number }[] = [];
  const ratios = new Map<string, number[]>();
  const compare = (ports: Ports, subject: string, connections: number, path: string): void => {
    const rounds = new Map<string, { rate: number; p50: number }[]>([...ports.keys()].map((name) => [name, []]));
    for (const port of ports.values()) load(port, connections, path); // warm-up, until hot code is compiled
    for (let round = 0; round < ROUNDS; round++)
      for (const [name, port] of ports) rounds.get(name)!.push(load(port, connections, path));
    const own = rounds.get(subject)!;
    for (const [name, all] of rounds) {
      rows.push({
        system: name,
        connections,
        requests_per_second: Math.round(median(all.map(({ rate }) => rate))),
        p50_us: median(all.map(({ p50 }) => p50)),
      });
      ratios.set(
        `rate ${name} ${connections}`,
        all.map(({ rate }, round) => own[round]!.rate / rate),
      );
      ratios.set(
        `p50 ${name} ${connections}`,
        all.map(({ p50 }, round) => own[round]!.p50 / p50),
      );
    }
  };
  const ports = await startAll(contestants);
  for (const connections of CONNECTIONS) compare(ports, "hub", connections, PATH);
  compare(await startAll(teams), "2 workers", BUSY_CONNECTIONS, BUSY_PATH);
  const bar = (name: string, key: string, goal: { at_least: number } | { at_most: number }, aim: number) => {
    const measured = Number(median(ratios.get(key)!).toFixed(3));
    const met = "at_least" in goal ? measured >= goal.at_least : measured <= goal.at_most;
    return { name, measured, ...goal, aim, met };
  };
  const bars = [
    bar("hub ÷ bare, requests/s at 32 connections", "rate bare 32", { at_least: 0.5 }, 0.8),
    bar("hub ÷ nginx, requests/s at 32 connections", "rate nginx 32", { at_least: 1.1 }, 2),
    bar("hub ÷ bun-proxy, requests/s at 32 connections", "rate bun-proxy 32", { at_least: 2 }, 3),
    bar("hub ÷ bare, p50 at 1 connection", "p50 bare 1", { at_most: 1.5 }, 1.15),
    bar("2 workers ÷ 1, requests/s, 2 ms of CPU each", `rate 1 worker ${BUSY_CONNECTIONS}`, { at_least: 1.05 }, 1.8),
  ];
  if (values.json) console.log(JSON.stringify({ rows, bars }, null, 2));
  else {
    console.table(rows);
    console.table(bars);
  }
} finally {
  for (const child of children) child.kill("SIGTERM");
  for (const child of children) await child.exited;
  rmSync(folder, { recursive: true });
}
