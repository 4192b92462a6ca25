/** Rivals in Rust: a server process and a client process that measures, both of the program in `rust/`, built by cargo. */

import { readdirSync, rmSync } from "node:fs";
import { join, resolve } from "node:path";
import type { Order, Round } from "../measure.ts";
import { type Contestant, type RivalName, Workspace } from "../systems.ts";

const root = resolve(import.meta.dir, "../..");
const target = join(root, "zig-out/rivals");

/** Whether there is a cargo that runs: rustup's does not without a toolchain. */
export function hasCargo(PATH = process.env["PATH"]): boolean {
  const cargo = Bun.which("cargo", { PATH });
  return cargo !== null && Bun.spawnSync([cargo, "--version"], { stdio: ["ignore", "ignore", "ignore"] }).success;
}

/** Builds the program. Returns its path, or why it cannot be built. */
export function buildRust(): { program: string } | { missing: string } {
  if (!hasCargo()) return { missing: "cargo is not installed" };
  const build = Bun.spawnSync(["cargo", "build", "--release", "--locked", "--quiet"], {
    cwd: join(import.meta.dir, "rust"),
    env: { ...process.env, CARGO_TARGET_DIR: target },
    stdio: ["ignore", "ignore", "pipe"],
  });
  if (build.exitCode === 0) return { program: join(target, "release/rivals") };
  return { missing: `cargo build failed: ${build.stderr.toString().trim().split("\n")[0]}` };
}

/** Reads exact numbers of bytes of a stream. */
class Bytes {
  readonly #chunks: AsyncIterator<Uint8Array>;
  #rest = Buffer.alloc(0);

  constructor(stream: ReadableStream<Uint8Array>) {
    this.#chunks = stream[Symbol.asyncIterator]();
  }

  async take(count: number): Promise<Buffer> {
    const parts = [this.#rest];
    for (let have = this.#rest.length; have < count;) {
      const { done, value } = await this.#chunks.next();
      if (done) throw new Error("the client ended within a round");
      parts.push(Buffer.from(value));
      have += value.length;
    }
    const all = Buffer.concat(parts);
    this.#rest = all.subarray(count);
    return all.subarray(0, count);
  }
}

/** Removes what the libraries leave: they have names of their own in /dev/shm, and iceoryx2 a folder in /tmp. */
function removeLeft(name: string): void {
  const isOwn = (file: string): boolean => file.startsWith(`${name}_`) || file.includes(`slotbus-${name}`);
  for (const file of readdirSync("/dev/shm").filter(isOwn)) rmSync(join("/dev/shm", file), { force: true });
  rmSync(join("/tmp", name), { recursive: true, force: true });
}

let count = 0;

/** Starts a rival of the Rust program. */
export async function startRust(program: string, system: RivalName, workspace: Workspace): Promise<Contestant> {
  const name = `rivals-${process.pid}-${++count}`;
  let isStopped = false;
  const spawn = (role: "server" | "client") =>
    Bun.spawn([program, role, system, name], {
      stdio: ["pipe", "pipe", "ignore"],
      onExit: (_, code, signal) => {
        if (!isStopped) workspace.fail(`the ${role} of ${system} ended with ${signal ?? `code ${code}`}`);
      },
    });
  const [server, client] = [spawn("server"), spawn("client")];
  const bytes = new Bytes(client.stdout);
  const tell = async (wish: "rest" | "go"): Promise<void> => {
    server.stdin.write(`${wish}\n`);
    await server.stdin.flush();
  };
  /** Sends an order to the client and reads its result. */
  const order = async ({ bytes: size, inFlight, leadInMs = 0, ms, minimum, sparse }: Order): Promise<Round> => {
    client.stdin.write(`${[size, inFlight, leadInMs, ms, minimum, sparse].join(" ")}\n`);
    await client.stdin.flush();
    const head = await bytes.take(16);
    const body = await bytes.take(head.readDoubleLE(0) * 8);
    return { latencies: new Float64Array(Uint8Array.from(body).buffer), seconds: head.readDoubleLE(8) };
  };
  /** The server rests between its rounds: one that polls would take a processor from the other systems. */
  const round = async (one: Order): Promise<Round> => {
    await tell("go");
    const result = await order(one);
    await tell("rest");
    return result;
  };
  await round({ bytes: 64, inFlight: 1, ms: 0, minimum: 1, sparse: 0 }); // both have started, and then rest
  return {
    name: system,
    answerer: { pid: server.pid, isMainThread: true, address: "" },
    call: () => Promise.reject(new Error(`${system} measures in its own client`)),
    measure: round,
    // Its `dispatch` publishes a request before it registers the caller, so with several in flight it loses responses.
    mostInFlight: system === "slotbus-rust" ? 1 : 32,
    stop: async () => {
      isStopped = true;
      await Promise.all([client.stdin.end(), server.stdin.end()]); // both end in order
      await Promise.all([client.exited, server.exited]);
      removeLeft(name);
    },
  };
}
