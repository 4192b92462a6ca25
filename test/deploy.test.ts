/** The units and the compose file of docs/deployment.md: they are valid, and their commands run as systemd and Docker run them. */

import { afterAll, beforeAll, expect, test } from "bun:test";
import {
  chmodSync,
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  readlinkSync,
} from "node:fs";
import { readSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import manifest from "../package.json";
import { checkVersion } from "../src/contest/nats/bucket.ts";
import { closeDirectory, openDirectory } from "../src/native/directory.ts";
import { Door } from "../src/native/door.ts";
import { findLauncher, findLibrary } from "../src/native/find.ts";
import { blocksOf, fileOf, pages, root } from "./docs-blocks.ts";
import { Program } from "./program.ts";
import { until } from "./wait.ts";

/** Longest wait for a state, in ms: other tests may use the processors. */
const PATIENCE_MS = 60_000;

const blocks = pages.flatMap(blocksOf);

// ---- systemd -----------------------------------------------------------------------------------------------------------

/** Directives of the pages, with the form of their values. A misspelled name would be ignored by systemd, with a warning. */
const DIRECTIVES: Readonly<Record<string, Readonly<Record<string, RegExp>>>> = {
  Unit: { Description: /./, After: /^[\w@.-]+\.(service|target)$/ },
  Service: {
    Type: /^(notify|exec|simple)$/,
    User: /^(\w+|%i)$/,
    Environment: /^(\w+=\S+ ?)+$/,
    EnvironmentFile: /^-?\/\S+$/,
    LoadCredential: /^\w+:\/\S+$/,
    RuntimeDirectory: /^\w+$/,
    ExecStartPre: /^\//,
    ExecStart: /^\//,
    ExecReload: /^\/bin\/kill -HUP \$MAINPID$/,
    Restart: /^on-failure$/,
    KillMode: /^mixed$/,
    TimeoutStopSec: /^\d+$/,
    OOMPolicy: /^continue$/,
    MemoryMax: /^\d+[MG]$/,
    LimitNOFILE: /^\d+$/,
  },
  Install: { WantedBy: /^multi-user\.target$/ },
};

type Unit = Readonly<Record<string, string>>;

/** The directives of a unit. */
function parseUnit(text: string): Unit {
  const unit: Record<string, string> = {};
  let section = "";
  for (const line of text.split("\n").filter((one) => one !== "" && !one.startsWith("#"))) {
    const [, name] = /^\[(\w+)\]$/.exec(line) ?? [];
    if (name !== undefined) {
      section = name;
      continue;
    }
    const [, key = "", value = ""] = /^(\w+)=(.*)$/.exec(line) ?? [];
    if (!DIRECTIVES[section]?.[key]?.test(value)) throw new Error(`[${section}] does not take this line: ${line}`);
    if (key in unit) throw new Error(`${key} is repeated`);
    unit[key] = value;
  }
  return unit;
}

const units = new Map(
  blocks
    .filter((block) => fileOf(block)?.endsWith(".service"))
    .map((block) => [fileOf(block)!.replace("/etc/systemd/system/", ""), block.code]),
);

test("a line that systemd does not know is an error, and so is a repeated one", () => {
  expect(parseUnit("[Service]\nRestart=on-failure\n")).toEqual({ Restart: "on-failure" });
  for (const text of [
    "Restart=on-failure",
    "[Service]\nRestartt=on-failure",
    "[Service]\nRestart=on-failure \\",
    "[X]\nA=1",
  ])
    expect(() => parseUnit(text)).toThrow("does not take");
  expect(() => parseUnit("[Service]\nUser=a\nUser=b")).toThrow("repeated");
});

test("units that stop workers leave time for it, share the directory, and notify systemd only if their command does", () => {
  expect([...units.keys()].sort()).toEqual([
    "agents.service",
    "shop-server@.service",
    "shop.service",
    "site.service",
    "workers@.service",
  ]);
  const [, directory] = /^d (\S+) 0700 shop shop$/m.exec(
    blocks.find((one) => fileOf(one)?.endsWith("shop.conf"))!.code,
  )!;
  for (const [name, text] of units) {
    const unit = parseUnit(text);
    const command = unit["ExecStart"]!;
    const [, drain] = / --drain (\d+)s\b/.exec(command) ?? [];
    expect([name, Number(unit["TimeoutStopSec"]) > Number(drain ?? 0)]).toEqual([name, true]);
    const notifies = / run /.test(command) || / --processes /.test(command);
    expect([name, unit["Type"]]).toEqual([name, notifies ? "notify" : undefined]);
    const [, own = ""] = /SLOTBUS_DIR=(\S+)/.exec(unit["Environment"] ?? "") ?? [];
    if (name !== "agents.service") expect([name, own.replace("%i", "shop")]).toEqual([name, directory!]);
    // A unit that other pages order themselves after exists.
    const after = unit["After"]?.replace(/@\w*\./, "@.");
    if (after?.endsWith(".service")) expect([...units.keys()]).toContain(after);
  }
});

// ---- the programs ------------------------------------------------------------------------------------------------------

/** Has all programs of the pages, as in the image and in /srv/shop. */
let app = "";
let folder = "";

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "d-"));
  chmodSync(folder, 0o755); // containers run as another user
  app = join(folder, "shop");
  mkdirSync(join(app, "node_modules/.bin"), { recursive: true });
  symlinkSync("../../slotbus", join(app, "node_modules/slotbus"));
  symlinkSync("slotbus/node_modules/hono", join(app, "node_modules/hono"));
  symlinkSync(join("../slotbus", manifest.bin.slotbus), join(app, "node_modules/.bin/slotbus"));
  symlinkSync("../slotbus/node_modules/.bin/bun", join(app, "node_modules/.bin/bun"));
  // A user who may not write to a checkout cannot build them.
  copyFileSync(findLibrary(), join(app, "libslotbus.so"));
  copyFileSync(findLauncher()!, join(app, "slotbus-launcher"));
  for (const page of ["docs/many-servers.md", "docs/hub.md", "docs/deployment.md"])
    for (const block of blocksOf(page).filter(({ language }) => language === "ts"))
      if (fileOf(block) !== null && !existsSync(join(app, fileOf(block)!)))
        writeFileSync(join(app, fileOf(block)!), block.code);
});
afterAll(() => rmSync(folder, { recursive: true }));

function freePort(): string {
  using server = Bun.serve({ port: 0, fetch: () => new Response() });
  return `${server.port}`;
}

/** The process that `unshare --fork` waits for. */
function childOf({ process: { pid } }: Program): number {
  const [child] = readFileSync(`/proc/${pid}/task/${pid}/children`, "latin1").split(" ");
  return Number(child);
}

/** A reason why this machine cannot start namespaces and mount in them; `null` if it can. */
const refused = ((): string | null => {
  if (!["unshare", "nsenter", "setpriv", "mount"].every((tool) => Bun.which(tool) !== null)) return "no util-linux";
  const flags = ["--mount", "--pid", "--fork", "--mount-proc", "--ipc", "--uts", "--net"];
  const { exitCode, stderr } = Bun.spawnSync(["unshare", ...flags, "mount", "-t", "tmpfs", "tmpfs", "/srv"]);
  return exitCode === 0 ? null : stderr.toString().trim();
})();
if (refused !== null) console.warn(`The tests with namespaces are skipped: ${refused}`);

/** Environment of a container. */
const INSIDE = {
  PATH: `/srv/shop/node_modules/.bin:${process.env["PATH"]}`,
  HOME: "/nowhere",
  SLOTBUS_LIB: "/srv/shop/libslotbus.so",
  SLOTBUS_LAUNCHER: "/srv/shop/slotbus-launcher",
};

/** A host with its own mounts: /srv/shop has the programs, /srv/slotbus the package, /run/shop is a tmpfs. */
class Host implements AsyncDisposable {
  readonly #program: Program;
  readonly #containers: Program[] = [];

  private constructor(options: string) {
    const script = `set -e
      mount -t tmpfs tmpfs /srv && mkdir /srv/shop && mount --bind "$1" /srv/shop
      mkdir /srv/slotbus && mount --bind "$2" /srv/slotbus
      mount -t tmpfs tmpfs /run && mkdir /run/shop && mkdir -m 700 /run/empty && chown 1000:1000 /run/empty
      mount -t tmpfs -o "$3" tmpfs /run/shop
      echo mounted && exec cat`;
    this.#program = new Program(["unshare", "--mount", "sh", "-c", script, "sh", app, root, options]);
  }

  /** Starts it, with these mount options for /run/shop. */
  static async start(options: string): Promise<Host> {
    const host = new Host(options);
    await host.#program.line("mounted", PATIENCE_MS);
    return host;
  }

  /** Runs a command as a user with only /srv/shop and a volume, in namespaces as Docker makes them. */
  container(
    command: string,
    { user = 1000, volume = "/run/shop", env = {}, isolated = true }: Container = {},
  ): Program {
    const namespaces = ["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--ipc", "--uts"];
    if (isolated) namespaces.push("--net");
    const script = `set -e
      mount -t tmpfs -o mode=1777 tmpfs /dev/shm
      mount --bind "$1" /mnt
      mount -t tmpfs -o mode=1777 tmpfs /run && mkdir /run/shop && mount --bind /mnt /run/shop
      cd /srv/shop && exec setpriv --pdeathsig KILL --reuid ${user} --regid ${user} --clear-groups sh -c "exec $2"`;
    const all = { ...INSIDE, ...env, TMPDIR: "/dev/shm" };
    const inside = ["nsenter", `--mount=/proc/${this.#program.process.pid}/ns/mnt`, "unshare", ...namespaces];
    const program = new Program([...inside, "sh", "-c", script, "sh", volume, command], all);
    this.#containers.push(program);
    return program;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const container of this.#containers) {
      const { process: unshare } = container;
      const child = unshare.exitCode === null && unshare.signalCode === null ? childOf(container) : 0;
      if (child > 0) process.kill(child, "SIGKILL"); // and with it all processes of its pid namespace
      if (child > 0) await unshare.exited;
      await container[Symbol.asyncDispose]();
    }
    await this.#program[Symbol.asyncDispose]();
  }
}

interface Container {
  readonly user?: number;
  readonly volume?: string;
  readonly env?: Record<string, string>;
  /** Whether it has its own network; Docker publishes the ports of a container instead. */
  readonly isolated?: boolean;
}

// ---- Docker ------------------------------------------------------------------------------------------------------------

interface Service {
  readonly build: string;
  readonly init: boolean;
  readonly command: string;
  readonly environment: Record<string, string>;
  readonly volumes: string[];
  readonly ports?: string[];
  readonly stop_grace_period: string;
  readonly healthcheck?: { readonly test?: string[]; readonly disable?: boolean };
}

interface Compose {
  readonly services: Record<string, Service>;
  readonly volumes: Record<string, { driver_opts: { type: string; device: string; o: string } }>;
}

const compose = Bun.YAML.parse(
  blocks.find(({ page, language }) => page === "docs/deployment.md" && language === "yaml")!.code,
) as Compose;
const dockerfile = blocks.find(({ language }) => language === "dockerfile")!.code;
const { services } = compose;

test("the services of the compose file have a command and time to stop, and share the volume that it declares", () => {
  const known = ["build", "init", "command", "environment", "volumes", "ports", "restart", "stop_grace_period"];
  const [volume] = Object.keys(compose.volumes);
  expect(Object.keys(services)).toEqual(["server", "workers", "hub", "users"]);
  for (const [name, service] of Object.entries(services)) {
    const others = Object.keys(service).filter((key) => !known.includes(key));
    expect([name, others.filter((key) => !["mem_limit", "healthcheck"].includes(key))]).toEqual([name, []]);
    expect(service.volumes).toEqual([`${volume}:${service.environment["SLOTBUS_DIR"]}`]);
    const [, drain = "0"] = / --drain (\d+)s/.exec(service.command) ?? [];
    expect(Number.parseInt(service.stop_grace_period, 10)).toBeGreaterThan(Number(drain));
    const [host, port] = service.ports?.[0]!.split(":") ?? [];
    expect(host).toBe(port!);
  }
  expect(compose.volumes[volume!]!.driver_opts).toMatchObject({ type: "tmpfs", device: "tmpfs" });
  expect(dockerfile).toContain("\nUSER bun\n");
});

test("the compose file for several machines starts programs of its page, with a NATS server that can keep leases", () => {
  const page = blocks.filter((block) => block.page === "docs/many-machines.md");
  const files = page.map(fileOf);
  const { services: all, volumes } = Bun.YAML.parse(page.find(({ language }) => language === "yaml")!.code) as Compose;
  const { nats, ...programs } = all as typeof all & { nats: Service & { image: string } };
  expect(Object.keys(programs)).toEqual(["worker", "server"]);
  for (const { command, environment, stop_grace_period: grace } of Object.values(programs)) {
    expect(files).toContain(command.replace("bun ", ""));
    expect(new URL(environment["NATS_URL"]!).hostname).toBe("nats");
    expect(Number.parseInt(grace, 10)).toBeGreaterThan(30); // the default of `drainOnSigterm`
  }
  expect(() => checkVersion(`${nats.image.split(":")[1]}.0`)).not.toThrow();
  expect(nats.volumes).toEqual([`${Object.keys(volumes)[0]}:${nats.command.at(-1)}`]);
});

test.skipIf(refused !== null)(
  "the services of the compose file work in namespaces of their own",
  async () => {
    await using host = await Host.start(Object.values(compose.volumes)[0]!.driver_opts.o);
    const ports = new Map<string, string>();
    const start = (name: string): Program => {
      const { command, environment, ports: [published] = [] } = services[name]!;
      const env: Record<string, string> = { ...environment };
      if (published === undefined) return host.container(command, { env });
      const port = freePort();
      ports.set(name, port);
      const own = command.replace(/(?<=--port )\d+/, port);
      return host.container(own, { env: { ...env, PORT: port }, isolated: false });
    };
    const get = async (name: string, path: string): Promise<unknown> =>
      (await fetch(`http://127.0.0.1:${ports.get(name)}${path}`, { keepalive: false })).json();
    // In the opposite order of the file, each before anything that it needs.
    const users = start("users");
    const hub = start("hub");
    const workers = start("workers");
    await workers.line("4 workers", PATIENCE_MS);
    const server = start("server");
    await Promise.all([server.line("server", PATIENCE_MS), hub.line('hub "hub"', PATIENCE_MS)]);
    expect(await get("server", "/prices/tea")).toMatchObject({ price: 3 });
    await until(async () => Bun.deepEquals(await get("hub", "/users/7"), { id: "7" }), "the users", PATIENCE_MS);

    // Each has its own view: the first process of its own, no mount of another one.
    const views = [users, hub, workers, server].map((one) =>
      ["pid", "mnt", "ipc", "uts"].map((kind) => readlinkSync(`/proc/${childOf(one)}/ns/${kind}`)),
    );
    for (const index of views[0]!.keys()) expect(new Set(views.map((view) => view[index])).size).toBe(4);

    const [, check] = /^HEALTHCHECK CMD (.*)$/m.exec(dockerfile)!;
    const health = (container: Program, words: readonly string[]): number => {
      const inside = ["nsenter", "--target", `${childOf(container)}`, "--mount", "--pid", "--ipc", "--uts", "--net"];
      const run = `cd /srv/shop && exec setpriv --reuid 1000 --regid 1000 --clear-groups ${words.join(" ")}`;
      return Bun.spawnSync([...inside, "sh", "-c", run], { env: { ...INSIDE, SLOTBUS_DIR: "/run/shop" } }).exitCode;
    };
    const ofImage = JSON.parse(check!) as string[];
    expect(health(server, ofImage)).toBe(0);
    expect(health(hub, services["hub"]!.healthcheck!.test!.slice(1))).toBe(0);
    process.kill(childOf(server), "SIGSTOP");
    expect(health(hub, ofImage)).toBe(4); // the same bus, seen from another container
    process.kill(childOf(server), "SIGCONT");
    await until(() => health(hub, ofImage) === 0, "the server continues", PATIENCE_MS);

    for (const container of [server, users, hub, workers]) process.kill(childOf(container), "SIGTERM");
    for (const container of [server, users, hub, workers])
      expect([container.errors, await container.process.exited]).toEqual([container.errors, 0]);
  },
  180_000,
);

test.skipIf(refused !== null)(
  "a container needs the same directory and the same user",
  async () => {
    await using host = await Host.start("size=256m,mode=0700,uid=1000,gid=1000");
    const env = { SLOTBUS_DIR: "/run/shop" };
    writeFileSync(
      join(app, "try.ts"),
      `import { SlotWorker } from "slotbus";
      const end = (text) => { console.log("end " + text); process.exit(); };
      await SlotWorker.open({ name: "shop", timeout: 1_000 }).then(() => end("attached"), ({ code }) => end(code));`,
    );
    await host.container("bun service.ts", { env }).line("shop is ready", PATIENCE_MS);
    const outcome = async (options: Container): Promise<string> =>
      host.container("bun try.ts", { env, ...options }).line("end", PATIENCE_MS);
    expect(await outcome({})).toBe("end attached");
    expect(await outcome({ volume: "/run/empty" })).toBe("end BUS_NOT_FOUND");
    expect(await outcome({ user: 1001 })).toBe("end PERMISSION_DENIED");
  },
  180_000,
);

test.skipIf(refused !== null)(
  "the end of a container kills the containers that share its pid namespace",
  async () => {
    await using host = await Host.start("size=64m");
    const first = host.container("sh -c 'echo runs; exec sleep 600'");
    await first.line("runs", PATIENCE_MS);
    const target = `${childOf(first)}`;
    await using second = new Program(["nsenter", "--target", target, "--pid", "sh", "-c", "echo runs; exec sleep 600"]);
    await second.line("runs", PATIENCE_MS);
    process.kill(Number(target), "SIGKILL");
    await second.process.exited;
    expect(second.process.signalCode ?? second.process.exitCode).toBe("SIGKILL");
  },
  60_000,
);

// ---- the commands of the units -----------------------------------------------------------------------------------------

test.each(["workers@.service", "site.service", "shop.service"])(
  "%s: its command becomes ready, reloads, and ends in order",
  async (name) => {
    const place = mkdtempSync(join(folder, "u-"));
    const run = join(place, "run");
    mkdirSync(run, { mode: 0o700 });
    writeFileSync(join(place, "token"), "a-token-of-more-than-16-characters");
    const installed = join(place, "shop");
    cpSync(app, installed, { recursive: true, verbatimSymlinks: true });
    rmSync(join(installed, "node_modules/slotbus"), { recursive: true });
    symlinkSync(root, join(installed, "node_modules/slotbus"));
    const unit = parseUnit(units.get(name)!.replaceAll("%i", "shop").replaceAll("%d", place));
    const given = Object.fromEntries(unit["Environment"]!.split(" ").map((pair) => pair.split("=")));
    const command = unit["ExecStart"]!.replaceAll("/srv/shop", installed)
      .replaceAll(/\$\{(\w+)\}/g, (_all, variable: string) => given[variable] ?? "")
      .replace(/(?<=--port )\d+/, freePort());
    const dir = openDirectory(place)!;
    const door = Door.open(dir, "systemd", false)!;
    const take = (): string => {
      const bytes = Buffer.alloc(256);
      try {
        return bytes.toString("latin1", 0, readSync(door.fd, bytes));
      } catch {
        return ""; // EAGAIN
      }
    };
    const next = async (): Promise<string> => {
      let text = "";
      await until(() => (text = take()) !== "", "a notification", PATIENCE_MS);
      return text.split("\n")[0]!;
    };
    try {
      const PATH = `${join(installed, "node_modules/.bin")}:${process.env["PATH"]}`;
      const env = { PATH, SLOTBUS_DIR: run, NOTIFY_SOCKET: door.pathIn(place) };
      await using program = new Program(command.split(" "), env);
      if (unit["Type"] === "notify") {
        expect(await next()).toBe("READY=1");
        expect(unit["ExecReload"]).toBe("/bin/kill -HUP $MAINPID");
        program.process.kill("SIGHUP");
        expect([await next(), await next()]).toEqual(["RELOADING=1", "READY=1"]);
      } else {
        await program.line("shop is ready", PATIENCE_MS);
      }
      program.process.kill("SIGTERM"); // KillMode=mixed: only this process
      // `drainOnSigterm` ends its process by SIGTERM at last, which systemd counts as success too.
      const code = unit["Type"] === "notify" ? 0 : 143;
      expect([program.errors, await program.process.exited]).toEqual([program.errors, code]);
      if (unit["Type"] === "notify") expect(await next()).toBe("STOPPING=1");
      else expect(readdirSync(run)).toEqual([]); // it closed its bus
    } finally {
      door.close();
      closeDirectory(dir);
      rmSync(place, { recursive: true });
    }
  },
  180_000,
);
