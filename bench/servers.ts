/** Redis and NATS: started for the run if installed, on a private socket or a loopback port. */

import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { CommandError } from "../src/cli/usage.ts";
import type { Workspace } from "./systems.ts";

export type ServerName = "redis" | "nats";

export interface Server {
  /** Address for the client. */
  readonly address: string;
  readonly pid: number;
  /** Sends a signal, by default SIGTERM, and waits for the end of the process. */
  stop(signal?: NodeJS.Signals): Promise<void>;
}

/** Options of a NATS server. */
export interface NatsOptions {
  /** Default: a free one. */
  port?: number;
  /** Whether it has JetStream, with files in the workspace. Default `false`. */
  jetstream?: boolean;
}

const START_LIMIT_MS = 10_000;
/** `test/system/install.sh` installs nats-server in the checkout; Debian in /usr/sbin, which is not in every user's PATH. */
const PATH = `${resolve(import.meta.dir, "../zig-out/nats/bin")}:${process.env.PATH ?? ""}:/usr/sbin`;

/** Says why a server cannot take part; `null` if it can. */
export function missing(name: ServerName): string | null {
  if (!Bun.which(`${name}-server`, { PATH })) {
    return `${name} is skipped: ${name}-server is not installed (Debian package ${name}-server).`;
  }
  return name === "redis" ? null : missingPackage("@nats-io/transport-node");
}

/** Says that a package of the NATS client is not installed; `null` if it is. */
export function missingPackage(name: string): string | null {
  try {
    import.meta.resolve(name);
    return null;
  } catch {
    return `nats is skipped: its client is not installed (npm package ${name}).`;
  }
}

async function waitFor<T>(name: ServerName, workspace: Workspace, look: () => T | null): Promise<T> {
  const limit = performance.now() + START_LIMIT_MS;
  for (let found = look(); ; found = look()) {
    if (found !== null) return found;
    if (performance.now() > limit)
      throw new CommandError(`${name}-server did not start within ${START_LIMIT_MS / 1000} s`);
    await Promise.race([Bun.sleep(5), workspace.failed]);
  }
}

/** Starts Redis on a unix socket, its fastest transport, without persistence. */
async function startRedis(program: string, workspace: Workspace): Promise<Server> {
  const socket = join(workspace.path, "redis.sock");
  const memoryOnly = ["--save", "", "--appendonly", "no"];
  const { pid, stop } = workspace.run("redis-server", [program, "--port", "0", "--unixsocket", socket, ...memoryOnly]);
  await waitFor("redis", workspace, () => (existsSync(socket) ? true : null));
  return { address: `redis+unix://${socket}`, pid, stop };
}

/** Starts NATS on TCP, because it has no unix sockets. It writes its port to a file. */
async function startNats(
  program: string,
  workspace: Workspace,
  { port = -1, jetstream = false }: NatsOptions,
): Promise<Server> {
  const options = ["--addr", "127.0.0.1", "--port", `${port}`, "--ports_file_dir", workspace.path];
  if (jetstream) options.push("--jetstream", "--store_dir", join(workspace.path, "jetstream"));
  const { pid, stop } = workspace.run("nats-server", [program, ...options]);
  const address = await waitFor("nats", workspace, () => {
    const file = readdirSync(workspace.path).find((entry) => entry.endsWith(`_${pid}.ports`));
    const text = file === undefined ? "" : readFileSync(join(workspace.path, file), "utf8");
    return /nats:\/\/[\d.:]+/.exec(text)?.[0] ?? null;
  });
  return { address, pid, stop };
}

/** Starts a server that is installed, see {@link missing}. */
export function startServer(name: ServerName, workspace: Workspace, options: NatsOptions = {}): Promise<Server> {
  const program = Bun.which(`${name}-server`, { PATH })!;
  return name === "redis" ? startRedis(program, workspace) : startNats(program, workspace, options);
}
