/** `slotbus hub` as its user runs it. */

import { expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Command } from "commander";
import { addFlags, optionsOf } from "../src/cli/flags.ts";
import { hubOptions } from "../src/hub/options.ts";
import { linesOf } from "./option-lines.ts";
import { Child, until, Workspace } from "./support.ts";

const COMMAND = "../../src/cli/slotbus.ts";
const TOKEN = "a-token-of-24-characters";
/** Without the user's own variables. */
const CLEAN = { SLOTBUS_ADMIN_TOKEN: "", SLOTBUS_CONTROL_TOKEN: "" };

function slotbus(args: readonly string[], env: Record<string, string | undefined> = {}) {
  const { exitCode, stdout, stderr } = Bun.spawnSync(
    [process.execPath, join(import.meta.dir, "fixtures", COMMAND), "hub", ...args],
    { stdin: "ignore", env: { ...process.env, ...CLEAN, ...env }, timeout: 20_000 },
  );
  return { code: exitCode, out: stdout.toString(), err: stderr.toString() };
}

/** A hub that runs until it gets a signal. */
async function running(
  directory: string,
  args: readonly string[] = [],
  env: Record<string, string> = {},
): Promise<Child & { url: URL }> {
  const all = ["hub", "--port", "0", "--directory", directory, "--log", "off", ...args];
  const child = new Child(COMMAND, all, { ...CLEAN, ...env });
  const line = await child.line("hub ", 20_000);
  return Object.assign(child, { url: new URL(/http:\S+/.exec(line)![0].replace(/;$/, "")) });
}

test("--help names every flag, with examples", () => {
  const { code, out, err } = slotbus(["--help"]);
  expect([code, err]).toEqual([0, ""]);
  const otherwise = ["adminToken", "control.token", "via"]; // in files or in the environment; --nats
  for (const { name, fallback } of linesOf(hubOptions.rows)) {
    if (otherwise.includes(name)) continue;
    const flag = `--${name.replace(".", "-").replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
    const [, help] = out.split(` ${flag} `);
    expect([flag, help === undefined]).toEqual([flag, false]);
    const own = help!.split(" --")[0]!.replaceAll(/\s+/g, " ");
    if (name !== "directory" && !["—", "none", "false"].includes(fallback)) expect(own).toContain("(default: ");
  }
  for (const shown of ["(default: 30s)", "(default: 10m)", "(default: 1024)", "(default: hub)", "(default: reject)"])
    expect(out.replaceAll(/\s+/g, " ")).toContain(shown);
  for (const flag of ["admin-token-file", "control-token-file", "no-ping"]) expect(out).toContain(`--${flag} `);
  expect(out.match(/^ {2}.*slotbus hub/gm)!.length).toBeGreaterThanOrEqual(3);
  for (const line of out.split("\n")) expect(line.length).toBeLessThanOrEqual(80);
});

test("flags become the options of the table: times and sizes with units, groups, and only what was given", () => {
  const given = (...args: string[]): object => {
    const flags = addFlags(new Command(), hubOptions.rows).parse(args, { from: "user" }).opts();
    return optionsOf(hubOptions.rows, flags);
  };
  expect(given()).toEqual({});
  expect(given("--name", "x", "--port", "0", "--trust-proxy")).toEqual({ name: "x", port: 0, trustProxy: true });
  expect(given("--trust-proxy", "10.0.0.0/8, ::1")).toEqual({ trustProxy: ["10.0.0.0/8", "::1"] });
  expect(() => given("--trust-proxy", "10.0.0")).toThrow("--trust-proxy[0]");
  expect(given("--drain-delay", "10s", "--per-client-rate", "5", "--per-client-concurrency", "2")).toEqual({
    drainDelay: 10_000,
    perClient: { rate: 5, concurrency: 2 },
  });
  for (const [text, ms] of [
    ["250", 250],
    ["500ms", 500],
    ["1.5s", 1_500],
    ["5m", 300_000],
    ["2h", 7_200_000],
    ["Infinity", Infinity],
  ] as const)
    expect(given("--timeout", text)).toEqual({ timeout: ms });
  for (const [text, bytes] of [
    ["100", 100],
    ["4k", 4_096],
    ["1.5M", 1_572_864],
    ["1g", 2 ** 30],
  ] as const)
    expect(given("--payload-bytes", text)).toEqual({ payloadBytes: bytes });
  const queue = ["--queue-limit", "5", "--queue-policy", "wait"];
  expect(given(...queue, "--sse-max-replay", "7", "--ping-interval", "2s", "--control-port", "0")).toEqual({
    queue: { limit: 5, policy: "wait" },
    sse: { maxReplay: 7 },
    ping: { interval: 2_000 },
    control: { port: 0 },
  });
  expect(given("--no-ping", "--ping-timeout", "1s")).toEqual({ ping: false });
  const origins = ["https://a.example", "http://localhost:5173"];
  expect(given("--cors-origins", "https://a.example, http://localhost:5173", "--cors-max-age", "1h")).toEqual({
    cors: { origins, maxAge: 3_600_000 },
  });
  expect(given("--cors-origins", "*")).toEqual({ cors: { origins: "*" } });
});

test("invalid usage is one line on stderr and exit code 2, and leaves no files", () => {
  const directory = mkdtempSync(join(tmpdir(), "slotbus-cli-hub-"));
  const short = join(directory, "short");
  const run = join(directory, "run");
  mkdirSync(run, { mode: 0o700 });
  writeFileSync(short, "short\n");
  const wrong: [args: string[], said: string][] = [
    [["--prot", "1"], "--prot"],
    [["left", "over"], "too many arguments"],
    [["--port"], "--port"],
    [["--port", "x"], "--port"],
    [["--port", "-1"], "--port"],
    [["--port", "1k"], "--port"],
    [["--port", ""], "--port"],
    [["--port", "70000"], "--port is 70000"],
    [["--port", "false"], "--port"],
    [["--hostname", ""], "hostname"],
    [["--name", "a.b"], "a.b"],
    [["--name", "../x"], "../x"],
    [["--timeout", "1x"], "--timeout"],
    [["--timeout", "-1"], "--timeout"],
    [["--timeout", "0"], "--timeout is 0; it must be 1 to 4294967295 ms, or Infinity."],
    [["--timeout", "100d"], "--timeout"],
    [["--payload-bytes", "2g"], "--payload-bytes is 2147483648"],
    [["--payload-bytes", "1s"], "--payload-bytes"],
    [["--payload-bytes", "0"], "--payload-bytes"],
    [["--queue-policy", "drop"], "--queue-policy"],
    [["--slots", "0"], "slots"],
    [["--slots", "257"], "slots"],
    [["--slots", "1.5"], "--slots"],
    [["--spin", "999999"], "spin"],
    [["--sse-heartbeat", "0"], "--sse-heartbeat"],
    [["--sse-heartbeat", "5m"], "--sse-heartbeat is 300000"],
    [["--cors-origins", "a.example"], "--cors-origins[0] is"],
    [["--cors-origins", "https://a.example,"], "--cors-origins[1] is"],
    [["--cors-origins", "*", "--cors-credentials"], "cors.credentials"],
    [["--cors-credentials"], "need --cors-origins."],
    [["--cors-max-age", "1h"], "need --cors-origins."],
    [["--admin-token", TOKEN], "--admin-token"],
    [["--admin-token-file", short], "adminToken"],
    [["--admin-token-file", join(directory, "none")], "token"],
    [["--control-port", "0"], "give --control-token-file"],
    [["--control-token-file", short], "go together"],
    [["--control-hostname", "127.0.0.1"], "give --control-token-file"],
    [["--control-port", "0", "--control-token-file", short], "control.token"],
    [["--control-token", TOKEN], "--control-token"],
    [["--directory", ""], "directory"],
    [["--help=1"], "--help"],
  ];
  for (const [args, said] of wrong) {
    const { code, out, err } = slotbus(["--port", "0", "--directory", run, ...args]);
    expect([args, code, out]).toEqual([args, 2, ""]);
    expect(err).toMatch(/^slotbus: [^\n]+\n$/);
    expect(err).toContain(said);
    expect(readdirSync(run)).toEqual([]);
  }
  expect(slotbus(["--directory", run], { SLOTBUS_ADMIN_TOKEN: "short" }).code).toBe(2);
  rmSync(directory, { recursive: true });
}, 60_000);

test("it prints its URL and serves; SIGTERM or SIGINT ends it after its requests are answered, and no file is left", async () => {
  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    await using workspace = new Workspace();
    await using hub = await running(workspace.directory, ["--name", "site", "--sse-heartbeat", "50ms"]);
    expect(hub.lines[0]).toBe(`hub "site" listens on ${hub.url}; its status page is ${hub.url}_slotbus/`);
    await using worker = new Child("hub-worker.ts", ["site", "w", workspace.directory], {});
    await worker.line("connected");
    expect((await fetch(new URL("/w/users/1", hub.url))).status).toBe(200);
    const events = await fetch(new URL("/events", hub.url));
    const slow = fetch(new URL("/w/slow?ms=500", hub.url));
    await worker.line("slow begins");
    const began = performance.now();
    hub.process.kill(signal);
    expect((await slow).status).toBe(200);
    expect(await events.text()).toMatch(/^(:\n\n)+$/);
    expect(await hub.process.exited).toBe(0);
    expect(performance.now() - began).toBeLessThan(4_000); // it would wait 5 s for a request that hangs
    await worker.kill();
  }
}, 30_000);

test("a second hub with a name or port in use names its owner in one line; exit codes 1 and 4", async () => {
  await using workspace = new Workspace();
  await using hub = await running(workspace.directory);
  const same = slotbus(["--port", "0", "--directory", workspace.directory]);
  expect([same.code, same.out]).toEqual([1, ""]);
  expect(same.err).toMatch(/^slotbus: A bus, hub or pool named "hub" is already running \(pid \d+\)[^\n]*\n$/);
  expect(same.err).toContain(String(hub.pid));
  const port = slotbus(["--name", "other", "--port", hub.url.port, "--directory", workspace.directory]);
  expect([port.code, port.out]).toEqual([4, ""]);
  expect(port.err).toMatch(/^slotbus: [^\n]+\n$/);
  expect(port.err).toContain(`127.0.0.1:${hub.url.port}`);
  expect((await fetch(new URL("/health", hub.url))).status).toBe(200);
  hub.process.kill("SIGTERM");
  expect(await hub.process.exited).toBe(0);
}, 30_000);

test("tokens come from a file or the environment; with a port, the control plane opens on TCP", async () => {
  await using workspace = new Workspace();
  const folder = mkdtempSync(join(tmpdir(), "slotbus-cli-token-"));
  const file = join(folder, "token");
  writeFileSync(file, `${TOKEN}\n`);
  for (const [args, env] of [
    [["--control-token-file", file], {}],
    [[], { SLOTBUS_CONTROL_TOKEN: TOKEN }],
  ] as [string[], Record<string, string>][]) {
    await using hub = await running(workspace.directory, ["--control-port", "0", ...args], env);
    const line = await hub.line("its control plane is ");
    const health = new URL("/health", /http:\S+/.exec(line)![0]);
    expect((await fetch(health)).status).toBe(401);
    expect((await fetch(health, { headers: { authorization: `Bearer ${TOKEN}` } })).status).toBe(200);
    expect(await Bun.file(`/proc/${hub.pid}/cmdline`).text()).not.toContain(TOKEN);
    hub.process.kill("SIGTERM");
    await until(() => hub.process.exitCode === 0, "it ends");
  }
  rmSync(folder, { recursive: true });
}, 30_000);
