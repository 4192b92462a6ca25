/** The programs and the compose file of docs/many-machines.md, in two network namespaces: two machines with a cable between them. */

import { mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { blocksOf, fileOf } from "../docs-blocks.ts";
import { findNatsServer } from "../nats-server.ts";
import { expect, Lacking, needRoot, needTool, Place, Program, root, run } from "./checks.ts";

interface Compose {
  readonly services: Record<
    "nats" | "worker" | "server",
    { command: string | string[]; environment?: { NATS_URL: string } }
  >;
  readonly volumes: object;
}

/** Two namespaces with the addresses 192.0.2.1 and 192.0.2.2 (RFC 5737), each with a loopback of its own. */
class Cable implements AsyncDisposable {
  readonly #ip = needTool("ip");
  readonly #names = [`sb-${process.pid}-a`, `sb-${process.pid}-b`] as const;

  static async lay(): Promise<Cable> {
    const cable = new Cable();
    try {
      await cable.#lay();
    } catch (error) {
      await cable[Symbol.asyncDispose]();
      throw error;
    }
    return cable;
  }

  async #lay(): Promise<void> {
    const [one, other] = this.#names;
    for (const name of this.#names) {
      const made = Bun.spawnSync([this.#ip, "netns", "add", name], { stderr: "pipe" });
      if (!made.success) throw new Lacking(`network namespaces are refused: ${made.stderr.toString().trim()}`);
    }
    await run([this.#ip, "-n", one, "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", other]);
    for (const [n, name] of this.#names.entries()) {
      await run([this.#ip, "-n", name, "address", "add", `192.0.2.${n + 1}/24`, "dev", "cable"]);
      for (const device of ["lo", "cable"]) await run([this.#ip, "-n", name, "link", "set", device, "up"]);
    }
  }

  /** A command on machine 1 or 2. */
  on(machine: 1 | 2, command: string[]): string[] {
    return [this.#ip, "netns", "exec", this.#names[machine - 1]!, ...command];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const name of this.#names) Bun.spawnSync([this.#ip, "netns", "delete", name], { stderr: "ignore" });
  }
}

/** Writes the programs of the page, and the packages that they import, into a folder. */
function writePrograms(folder: string): Compose {
  const blocks = blocksOf("docs/many-machines.md");
  const modules = join(folder, "node_modules");
  mkdirSync(modules);
  symlinkSync(root, join(modules, "slotbus"));
  symlinkSync(join(root, "node_modules/@nats-io"), join(modules, "@nats-io"));
  for (const block of blocks.filter((one) => one.language === "ts" && fileOf(one)))
    writeFileSync(join(folder, fileOf(block)!), block.code);
  return Bun.YAML.parse(blocks.find(({ language }) => language === "yaml")!.code) as Compose;
}

/** The server and NATS run on machine 1, two workers on machine 2. */
export async function machines(): Promise<void> {
  needRoot();
  const natsServer = findNatsServer();
  if (!natsServer) throw new Lacking("nats-server is not installed");
  using place = new Place();
  const { services } = writePrograms(place.folder);
  expect(Object.keys(services).join() === "nats,worker,server", `the services are ${Object.keys(services)}`);
  await using cable = await Cable.lay();
  await using stack = new AsyncDisposableStack();
  const data = (services.nats.command as string[]).map((word) =>
    word === "/data" ? join(place.folder, "data") : word,
  );
  const NATS_URL = services.worker.environment!.NATS_URL.replace("//nats:", "//192.0.2.1:");
  expect(NATS_URL === "nats://192.0.2.1:4222", `the address of the server is ${NATS_URL}`);
  const start = (machine: 1 | 2, command: string[]): Program => {
    const inFolder = ["sh", "-c", 'cd "$0" && exec "$@"', place.folder, ...command];
    return stack.use(new Program(cable.on(machine, inFolder), { NATS_URL, PORT: "3000" }));
  };
  const program = ({ command }: { command: string | string[] }): string[] => {
    const [bun, ...rest] = String(command).split(" ");
    expect(bun === "bun", `a program is started by ${bun}`);
    return [process.execPath, ...rest];
  };
  const nats = start(1, [natsServer, ...data, "--log", join(place.folder, "log")]);
  const curl = async (machine: 1 | 2, url: string): Promise<string> => {
    const child = Bun.spawn(cable.on(machine, [needTool("curl"), "-sS", "--max-time", "10", url]), {
      stderr: "ignore",
    });
    return child.stdout.text();
  };
  const tried = Date.now();
  while (
    Bun.spawnSync(cable.on(2, ["bash", "-c", "exec 3<>/dev/tcp/192.0.2.1/4222"]), { stderr: "ignore" }).exitCode !== 0
  ) {
    expect(Date.now() - tried < 20_000, "the NATS server accepts no connection");
    await Bun.sleep(50);
  }
  const workers = [start(2, program(services.worker)), start(2, program(services.worker))];
  const server = start(1, program(services.server));
  await server.expectLine("server listens on");
  const hello = JSON.parse(await curl(2, "http://192.0.2.1:3000/hello/Ada")) as { hello: string };
  expect(hello.hello === "Ada", `it answered ${JSON.stringify(hello)}`);
  workers[0]!.kill("SIGTERM");
  expect((await workers[0]!.ended()) !== "SIGKILL", "a worker ends at SIGTERM");
  const again = JSON.parse(await curl(1, "http://127.0.0.1:3000/hello/Bob")) as { hello: string };
  expect(again.hello === "Bob", `without one worker: ${JSON.stringify(again)}`);
  for (const one of [server, workers[1]!, nats]) one.kill("SIGTERM");
  await server.ended();
}
