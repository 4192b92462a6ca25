/** The programs of docs/many-servers.md under load, while each worker and each server is replaced once. */

import { expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import manifest from "../package.json";
import { blocksOf, commandsOf, fileOf, root } from "./docs-blocks.ts";
import { Program } from "./program.ts";
import { until } from "./wait.ts";

const SERVERS = 4;
const WORKERS = 8;
/** Number of requests at a time. */
const LOAD = 2;
/** Longest wait for a state, in ms: other tests may use the processors. */
const PATIENCE_MS = 60_000;

const blocks = blocksOf("docs/many-servers.md");
const [runWorkers = "", runServer = ""] = blocks.filter(({ language }) => language === "sh").flatMap(commandsOf);

/** A folder with the programs of the page, the packages that they import, and their runtime directory. */
function stage(): { start(command: string): Program; url: string } & Disposable {
  const folder = mkdtempSync(join(tmpdir(), "slotbus-many-"));
  const directory = join(folder, "run");
  const modules = join(folder, "node_modules");
  mkdirSync(directory, { mode: 0o700 });
  mkdirSync(join(modules, ".bin"), { recursive: true });
  symlinkSync(root, join(modules, "slotbus"));
  symlinkSync(join(root, "node_modules/hono"), join(modules, "hono"));
  symlinkSync(join(root, manifest.bin.slotbus), join(modules, ".bin/slotbus"));
  for (const block of blocks.filter(({ language }) => language === "ts"))
    writeFileSync(join(folder, fileOf(block)!), block.code);
  using free = Bun.serve({ port: 0, fetch: () => new Response() });
  const env = {
    PATH: [join(modules, ".bin"), join(root, "node_modules/.bin"), process.env["PATH"]].join(":"),
    PORT: `${free.port}`,
    SLOTBUS_DIR: directory,
  };
  return {
    url: `http://localhost:${free.port}/prices/tea`,
    start: (command) => new Program(["sh", "-c", `cd ${folder} && exec ${command}`], env),
    [Symbol.dispose]: () => rmSync(folder, { recursive: true }),
  };
}

/** Who answered, and what failed. */
interface Seen {
  readonly workers: Set<number>;
  readonly servers: Set<number>;
  readonly failures: unknown[];
  requests: number;
}

/** Sends a request on a connection of its own. As the page says, sends it again if the connection was reset, at most twice. */
async function get(url: string, again = 2): Promise<{ price: number; worker: number; server: number }> {
  let response: Response;
  try {
    response = await fetch(url, { keepalive: false });
  } catch (error) {
    if ((error as { code?: string }).code === "ECONNRESET" && again > 0) return get(url, again - 1);
    throw error;
  }
  if (!response.ok) throw new Error(`${response.status} ${await response.text()}`);
  return (await response.json()) as Awaited<ReturnType<typeof get>>;
}

async function load(url: string, seen: Seen, isOver: () => boolean): Promise<void> {
  while (!isOver()) {
    seen.requests++;
    try {
      const { price, worker, server } = await get(url);
      if (price !== 3) throw new Error(`the price is ${price}`);
      seen.workers.add(worker);
      seen.servers.add(server);
    } catch (error) {
      seen.failures.push(error);
    }
  }
}

test("no request fails while each worker and each server is replaced once", async () => {
  using place = stage();
  await using all = new AsyncDisposableStack();
  const workers = all.use(place.start(runWorkers));
  await workers.line(`${WORKERS} workers`, PATIENCE_MS);
  const startServer = async (): Promise<Program> => {
    const server = all.use(place.start(runServer));
    await server.line("server", PATIENCE_MS);
    return server;
  };
  const servers = await Promise.all(Array.from({ length: SERVERS }, startServer));
  const seen: Seen = { workers: new Set(), servers: new Set(), failures: [], requests: 0 };
  let isOver = false;
  all.defer(() => void (isOver = true));
  const loads = Array.from({ length: LOAD }, () => load(place.url, seen, () => isOver));
  // Fast workers get all requests of the servers near them, so some workers get none.
  await until(() => seen.servers.size === SERVERS, "each server has answered", PATIENCE_MS);
  const before = new Set(seen.workers);

  workers.process.kill("SIGHUP");
  await workers.logged("replaced", 1, PATIENCE_MS);
  for (const [index, server] of servers.entries()) {
    server.process.kill("SIGTERM");
    expect(await server.process.exited).toBe(0);
    servers[index] = await startServer();
  }
  const now = (): number[] => servers.map(({ process: { pid } }) => pid);
  await until(() => now().every((pid) => seen.servers.has(pid)), "each new server has answered", PATIENCE_MS);
  await until(() => seen.workers.difference(before).size > 0, "a new worker has answered", PATIENCE_MS);
  isOver = true;
  await Promise.all(loads);

  expect(seen.failures).toEqual([]);
  expect(seen.servers.size).toBe(2 * SERVERS);
  expect(workers.log.filter(({ event }) => event === "left")).toHaveLength(WORKERS);
  for (const program of [...servers, workers]) {
    program.process.kill("SIGTERM");
    expect(await program.process.exited).toBe(0);
  }
}, 240_000);
