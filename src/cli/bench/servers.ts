/** Rivals that are servers: started for the run when they are installed, on a socket or a loopback port of their own. */

import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { CommandError } from "../usage.ts";
import type { Workspace } from "./systems.ts";

export type ServerName = "redis" | "nats";

export interface Server {
  /** What its client connects to. */
  readonly address: string;
  stop(): Promise<void>;
}

const START_LIMIT_MS = 10_000;
/** Debian keeps nats-server where only root looks. */
const PATH = `${process.env.PATH ?? ""}:/usr/sbin`;

/** Why a server cannot take part; `null` when it can. */
export function missing(name: ServerName): string | null {
  if (!Bun.which(`${name}-server`, { PATH })) {
    return `${name} is left out: there is no ${name}-server (Debian package ${name}-server).`;
  }
  if (name === "redis") return null;
  try {
    import.meta.resolve("@nats-io/transport-node");
    return null;
  } catch {
    return "nats is left out: its client is not installed (npm package @nats-io/transport-node).";
  }
}

async function waitFor<T>(name: ServerName, workspace: Workspace, look: () => T | null): Promise<T> {
  const limit = performance.now() + START_LIMIT_MS;
  for (let found = look(); ; found = look()) {
    if (found !== null) return found;
    if (performance.now() > limit) throw new CommandError(`${name}-server did not start`);
    await Promise.race([Bun.sleep(5), workspace.failed]);
  }
}

/** Redis on a unix socket, which is its fastest way; nothing is saved. */
async function startRedis(program: string, workspace: Workspace): Promise<Server> {
  const socket = join(workspace.path, "redis.sock");
  const memoryOnly = ["--save", "", "--appendonly", "no"];
  const { stop } = workspace.run("redis-server", [program, "--port", "0", "--unixsocket", socket, ...memoryOnly]);
  await waitFor("redis", workspace, () => (existsSync(socket) ? true : null));
  return { address: `redis+unix://${socket}`, stop };
}

/** NATS knows no unix sockets; it chooses a port and writes it to a file. */
async function startNats(program: string, workspace: Workspace): Promise<Server> {
  const options = ["--addr", "127.0.0.1", "--port", "-1", "--ports_file_dir", workspace.path];
  const { stop } = workspace.run("nats-server", [program, ...options]);
  const address = await waitFor("nats", workspace, () => {
    const file = readdirSync(workspace.path).find((entry) => entry.endsWith(".ports"));
    const text = file === undefined ? "" : readFileSync(join(workspace.path, file), "utf8");
    return /nats:\/\/[\d.:]+/.exec(text)?.[0] ?? null;
  });
  return { address, stop };
}

/** Starts a server that is not {@link missing}. */
export function startServer(name: ServerName, workspace: Workspace): Promise<Server> {
  const program = Bun.which(`${name}-server`, { PATH })!;
  return name === "redis" ? startRedis(program, workspace) : startNats(program, workspace);
}
