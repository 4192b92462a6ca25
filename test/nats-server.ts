/**
 * A real NATS server of its own for a check: on a loopback port that the server chooses, and keeps when it is started again. The
 * server comes from `test/system/install.sh`, or from `NATS_SERVER`, or from the path.
 */

import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { until } from "./wait.ts";

const installed = resolve(import.meta.dir, "../zig-out/nats/bin/nats-server");

/** Returns the path of the server; `null` if none is installed. */
export function findNatsServer(): string | null {
  const given = process.env["NATS_SERVER"];
  if (given) return given;
  return existsSync(installed) ? installed : Bun.which("nats-server");
}

/** Options of a server. */
export interface NatsServerOptions {
  /** Text of a configuration file, without the port. */
  config?: string;
  /** Whether the server stores messages (JetStream), in its own folder. */
  jetstream?: boolean;
}

/** A server in a process of its own. */
export class NatsServer implements AsyncDisposable {
  readonly folder = mkdtempSync(join(tmpdir(), "slotbus-nats-"));
  readonly #options: NatsServerOptions;
  #process: Bun.Subprocess<"ignore", "ignore", "ignore"> | null = null;
  /** Port of the first start; -1 before it. */
  port = -1;

  private constructor(options: NatsServerOptions) {
    this.#options = options;
  }

  static async start(options: NatsServerOptions = {}): Promise<NatsServer> {
    const server = new NatsServer(options);
    try {
      await server.startAgain();
    } catch (error) {
      await server[Symbol.asyncDispose]();
      throw error;
    }
    return server;
  }

  get url(): string {
    return `nats://127.0.0.1:${this.port}`;
  }

  get pid(): number {
    return this.#process!.pid;
  }

  /** Starts the server, after {@link kill} on the same port and with the same files. Resolves when it accepts connections. */
  async startAgain(): Promise<void> {
    const program = findNatsServer();
    if (!program) throw new Error("nats-server is not installed: run `sh test/system/install.sh`, or set NATS_SERVER");
    for (const file of this.#portFiles) rmSync(join(this.folder, file));
    const config = join(this.folder, "server.conf");
    const store = this.#options.jetstream
      ? `jetstream { store_dir: ${JSON.stringify(join(this.folder, "store"))} }\n`
      : "";
    const head = `listen: "127.0.0.1:${this.port}"\nports_file_dir: ${JSON.stringify(this.folder)}\n`;
    writeFileSync(config, `${head}${store}${this.#options.config ?? ""}\n`);
    const log = join(this.folder, "server.log");
    const child = Bun.spawn([program, "--config", config, "--log", log], { stdio: ["ignore", "ignore", "ignore"] });
    this.#process = child;
    const port = (): string | undefined => {
      const [file] = this.#portFiles;
      const text = file === undefined ? "" : readFileSync(join(this.folder, file), "utf8");
      return /(?:nats|tls):\/\/[\d.]+:(\d+)/.exec(text)?.[1];
    };
    await until(() => port() !== undefined || child.exitCode !== null, "a NATS server that accepts connections");
    if (child.exitCode !== null)
      throw new Error(`nats-server ended: ${existsSync(log) ? readFileSync(log, "utf8") : ""}`);
    this.port = Number(port());
  }

  get #portFiles(): string[] {
    return readdirSync(this.folder).filter((file) => file.endsWith(".ports"));
  }

  /** What the server has written to its log. */
  get log(): string {
    return readFileSync(join(this.folder, "server.log"), "utf8");
  }

  /** Sends a signal: SIGSTOP and SIGCONT pause the server. */
  signal(signal: NodeJS.Signals): void {
    this.#process?.kill(signal);
  }

  /** Kills the server and waits until it is gone. Its files stay. */
  async kill(): Promise<void> {
    const child = this.#process;
    this.#process = null;
    child?.kill("SIGKILL");
    await child?.exited;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
    rmSync(this.folder, { recursive: true, force: true });
  }
}
