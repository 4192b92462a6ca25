/** The bus in Node: with workers of Bun, the reverse, and between Node and Node; the code for macOS; a system without shared memory. */

import { expect, test } from "bun:test";
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { findLauncher } from "../src/native/find.ts";
import { nodes, versionOf } from "./nodes.ts";
import { Workspace } from "./support.ts";

/** Needs shared memory, or plays macOS. */
const onLinux = test.skipIf(process.platform !== "linux");

const fixtures = join(import.meta.dir, "fixtures");

/** A way to run a program, and the wire that it gets. */
interface Runtime {
  readonly what: string;
  readonly command: readonly string[];
  readonly env?: Record<string, string>;
}

const bun: Runtime = { what: "Bun", command: [process.execPath] };
const bunBySocket: Runtime = { ...bun, what: "Bun by socket", env: { SLOTBUS_WIRE: "socket" } };
const allNodes: Runtime[] = nodes.map((path) => ({
  what: `Node ${versionOf(path)}`,
  command: [path, "--no-warnings"],
}));

/** What the client prints in each runtime. */
const EXPECTED = [
  "wire: socket",
  "text: hello Ada",
  "large: 9000000",
  "fetch: 200 hello Bob",
  "stream: 100000",
  "contract: 5",
  "items: 1 2 3 4",
  "failure: REMOTE",
  "timeout: TIMEOUT",
  "metrics: true",
  "closed",
];

/** Runs a client and a worker. Returns what the client printed, and what either printed as an error. */
async function talk(client: Runtime, worker: Runtime, directory: string): Promise<{ lines: string[]; errors: string }> {
  const start = ({ command, env }: Runtime, file: string) =>
    Bun.spawn([...command, join(fixtures, file), "talk"], {
      env: { ...process.env, SLOTBUS_LAUNCHER: findLauncher()!, SLOTBUS_DIR: directory, ...env },
      stdio: ["ignore", "pipe", "pipe"],
      timeout: 30_000,
    });
  const [asks, answers] = [start(client, "portable-client.ts"), start(worker, "portable-worker.ts")];
  const [text, ...errors] = await Promise.all([asks.stdout.text(), asks.stderr.text(), answers.stderr.text()]);
  await asks.exited;
  answers.kill();
  await answers.exited;
  return { lines: text.trim().split("\n"), errors: errors.join("") };
}

const couples: [Runtime, Runtime][] = [
  [bunBySocket, bunBySocket],
  ...allNodes.flatMap((node): [Runtime, Runtime][] => [
    [node, bunBySocket], // the memory wire of a worker does not go on by frames
    [bun, node],
    [node, node],
  ]),
];

for (const [client, worker] of couples) {
  test(`requests, streams, fetch and contracts work: client ${client.what}, worker ${worker.what}`, async () => {
    await using space = new Workspace();
    expect(await talk(client, worker, space.directory)).toEqual({ lines: EXPECTED, errors: "" });
    expect(readdirSync(space.directory)).toEqual([]);
  }, 60_000);
}

for (const { what, command } of allNodes) {
  onLinux(
    `nothing that the bus does on macOS exists on Linux only: ${what}`,
    async () => {
      const mac: Runtime = { what, command: [...command, "--import", join(fixtures, "as-macos.mjs")] };
      const directory = mkdtempSync("/tmp/sb-mac-");
      try {
        expect(await talk(mac, mac, directory)).toEqual({ lines: EXPECTED, errors: "" });
        expect(readdirSync(directory)).toEqual([]);
        // The poison works: on Linux the name needs the launcher, or the list of locks.
        const source = `Object.defineProperty(process, "platform", { value: "linux" });
        const { SlotBus } = await import(${JSON.stringify(join(import.meta.dir, "../src/index.ts"))});
        await SlotBus.create({ name: "x", directory: ${JSON.stringify(directory)} }).catch((e) => console.log(String(e.message)));`;
        const child = Bun.spawnSync([...mac.command, "--input-type=module", "-e", source]);
        expect(child.stdout.toString()).toContain("poisoned: ");
      } finally {
        rmSync(directory, { recursive: true });
      }
    },
    60_000,
  );

  test(`the bus can be loaded by require: ${what}`, () => {
    const source = `console.log(typeof require(${JSON.stringify(join(import.meta.dir, "../src/index.ts"))}).SlotBus.create)`;
    const child = Bun.spawnSync([...command, "--input-type=commonjs", "-e", source]);
    expect(child.stdout.toString() + child.stderr.toString()).toBe("function\n");
  });

  test(`what needs Bun is one clear error, and serve works over a bus: ${what}`, async () => {
    await using space = new Workspace();
    const source = `const { SlotBus } = await import(${JSON.stringify(join(import.meta.dir, "../src/index.ts"))});
      const say = (error) => console.log(error.code, error.message);
      await SlotBus.create({ name: "x", workers: { entry: "/x.ts" } }).catch(say);
      const { memory } = await import(${JSON.stringify(join(import.meta.dir, "../src/index.ts"))});
      await SlotBus.create({ name: "x", via: memory() }).catch(say);
      const { callBus, serve } = await import(${JSON.stringify(join(import.meta.dir, "../src/serve.ts"))});
      await serve({ add: ([a, b]) => a + b }).catch(say);
      const bus = await SlotBus.create({ name: "served" });
      const served = await serve({ add: ([a, b]) => a + b }, { name: "served" });
      await bus.ready();
      console.log("sum", await callBus(bus, "add", [1, 2]));
      process.exit();`;
    const env = { ...process.env, SLOTBUS_DIR: space.directory, SLOTBUS_LAUNCHER: findLauncher()! };
    const child = Bun.spawnSync([...command, "--input-type=module", "-e", source], { env });
    const said = child.stdout.toString() + child.stderr.toString();
    expect(said).toMatch(/^UNSUPPORTED .*`workers`.* Bun.*slotbus run/);
    expect(said).toMatch(/^UNSUPPORTED slotbus cannot share memory here: Node has no access/m);
    expect(said).toMatch(/^UNSUPPORTED serve\(\) reads standard input only in Bun, .*Pass the name of a bus/m);
    expect(said).toEndWith("sum 3\n");
  });
}

/** Runs a program without the system call memfd_create, as some sandboxes do. */
const DENY = `#include <errno.h>
#include <stddef.h>
#include <unistd.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
int main(int count, char **arguments)
{
	struct sock_filter rules[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_memfd_create, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { 4, rules };
	if (count < 2 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return 2;
	if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) return 3;
	execvp(arguments[1], arguments + 1);
	return 4;
}
`;

onLinux(
  "where the system refuses shared memory, the bus warns once and uses a socket, and doctor says why and what to do",
  async () => {
    await using space = new Workspace();
    space.leftovers = ["deny", "deny.c", "bus"];
    writeFileSync(join(space.directory, "deny.c"), DENY);
    const deny = join(space.directory, "deny");
    expect(Bun.spawnSync(["gcc", "-o", deny, `${deny}.c`]).stderr.toString()).toBe("");
    const denied: Runtime = { what: "Bun in a sandbox", command: [deny, process.execPath] };
    const directory = join(space.directory, "bus");
    const { lines, errors } = await talk(denied, denied, directory);
    expect(lines).toEqual(EXPECTED);
    const warnings = errors.match(/SlotbusWarning: .*/g) ?? [];
    expect(warnings.length).toBe(2); // one in each process
    for (const warning of warnings)
      expect(warning).toMatch(/The system refuses shared memory: .*EPERM.*uses a socket.*SLOTBUS_WIRE=socket/);

    const command = [deny, process.execPath, join(import.meta.dir, "../src/cli/slotbus.ts"), "doctor"];
    const doctor = Bun.spawnSync(command, { env: { ...process.env, SLOTBUS_DIR: directory } });
    expect(doctor.stdout.toString()).toMatch(
      /! wire +socket: The system refuses shared memory: .*\n +→ Allow shared memory/,
    );
    expect(doctor.exitCode).toBe(0);
  },
  60_000,
);
