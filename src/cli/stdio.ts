/** `slotbus stdio`: runs a stdio bus as a program. */

import { readFileSync } from "node:fs";
import type { Command } from "commander";
import { SlotbusError } from "../errors.ts";
import { flag } from "../options.ts";
import { StdioBus } from "../stdio/bus.ts";
import { type ServeOptions, stdioServeOptions } from "../stdio/options.ts";
import { planOf } from "../stdio/pools.ts";
import type { StdioServer } from "../stdio/server.ts";
import { addFlags, optionsOf } from "./flags.ts";
import { Log } from "./log.ts";
import { parseConfig, type StdioConfig, textOf } from "./stdio/config.ts";
import { count, print } from "./terminal.ts";
import { EXIT, newCommand, UsageError, withJson } from "./usage.ts";

const { rows } = stdioServeOptions;
const serveFlags = {
  unix: flag(rows.unix, "path of a unix socket to serve clients on; its mode is 0600"),
  tcp: flag(rows.tcp.rows!["port"]!, "tcp port to serve clients on; they must send a token"),
  hostname: flag(rows.tcp.rows!["hostname"]!, "address to listen on with --tcp"),
  stdio: flag(rows.stdio, "serve one client on standard input and output; exit when it ends"),
  pool: flag(rows.pool, "pool that serves these clients; needed with several pools"),
  framing: {
    ...flag(rows.framing, "how messages are separated: ndjson, length or content-length"),
    range: "a framing",
  },
};

interface Flags {
  config: string;
  tokenFile?: string;
  /** `false`: `--no-token`. */
  token: boolean;
  pool?: string;
  check?: boolean;
  json?: boolean;
}

export function command(): Command {
  const stdio = newCommand("stdio", "run a pool of programs that clients in any language share", [
    "slotbus stdio --config bus.json --unix /run/user/1000/bus.sock",
    "SLOTBUS_STDIO_TOKEN=... slotbus stdio --config bus.json --tcp 4000",
    "slotbus stdio --config bus.json --stdio",
    "slotbus stdio --config bus.json --check",
  ])
    .requiredOption(
      "--config <file>",
      "JSON file with the options of StdioBus.start, and `serve`; - reads standard input",
    )
    .option("--check", "check the config, print what would run, and start nothing");
  return addFlags(withJson(stdio), serveFlags)
    .option("--token-file <file>", "file with the token of tcp ports; or set SLOTBUS_STDIO_TOKEN")
    .option("--no-token", "serve every program that can connect to a tcp port")
    .addHelpText(
      "after",
      "\nA token cannot be an argument, because every user can read arguments. SIGHUP\n" +
        "reloads the config and loses no request. At SIGTERM or SIGINT it finishes\n" +
        "running requests, then exits; a second signal exits at once. The log is on\n" +
        "standard error.",
    )
    .action(run);
}

/** Returns the token for ports without one in the config; `false`: no token is needed; `undefined`: there is none. */
function tokenOf({ token, tokenFile }: Flags): string | false | undefined {
  if (!token && tokenFile !== undefined)
    throw new UsageError("--token-file and --no-token exclude each other: give one of them.");
  if (!token) return false;
  if (tokenFile === undefined) return process.env["SLOTBUS_STDIO_TOKEN"] || undefined;
  try {
    return readFileSync(tokenFile, "utf8").trimEnd();
  } catch (error) {
    throw new UsageError(`Cannot read the token: ${(error as Error).message}.`);
  }
}

/** Returns the servers of the flags, then the servers of the config. */
function serversOf(flags: Flags, { serve }: StdioConfig): ServeOptions[] {
  const given = optionsOf(serveFlags, { ...flags }) as {
    [K in keyof typeof serveFlags]?: never;
  };
  const { unix, tcp, hostname, stdio, ...more } = given;
  const own: ServeOptions[] = [];
  if (unix !== undefined) own.push({ unix, ...more });
  if (tcp !== undefined) own.push({ tcp: { port: tcp, hostname }, ...more });
  else if (hostname !== undefined) throw new UsageError("--hostname needs --tcp.");
  if (stdio) own.push({ stdio: true, ...more });
  const [lonely] = own.length === 0 ? Object.keys(more) : [];
  if (lonely !== undefined) throw new UsageError(`--${lonely} needs --unix, --tcp or --stdio.`);
  const all = [...own, ...serve];
  const usesStdio = all.filter((one) => one.stdio).length;
  if (usesStdio > 1)
    throw new UsageError("Standard input can serve only one client, and `serve` of the config already uses it.");
  if (usesStdio > 0 && flags.config === "-")
    throw new UsageError(
      "Standard input cannot be both the config (--config -) and the client (--stdio): give the config as a file.",
    );
  const token = tokenOf(flags);
  return all.map(({ tcp: port, ...one }) => {
    if (!port) return one;
    if (port.token === undefined && token === undefined)
      throw new UsageError("A tcp port needs a token: give --token-file or SLOTBUS_STDIO_TOKEN, or --no-token.");
    return { ...one, tcp: { ...port, token: port.token ?? token } };
  });
}

/** Formats the address of a server. */
function addressOf({ unix, tcp }: ServeOptions): string {
  return unix ?? (tcp ? `${tcp.hostname ?? "127.0.0.1"}:${tcp.port}` : "standard input");
}

/** Prints what would run. */
function check(flags: Flags, { options }: StdioConfig, servers: readonly ServeOptions[]): void {
  const pools = planOf(options).map(({ id, instances, path, args }) => ({ id, instances, command: path, args }));
  const serve = servers.map(addressOf);
  if (flags.json) return print(JSON.stringify({ config: flags.config, pools, serve }));
  print(`${flags.config === "-" ? "the config" : flags.config} is valid. It would run:`);
  for (const { id, instances, command: program, args } of pools)
    print(`  pool "${id}": ${count(instances, "worker")} of ${[program, ...args].join(" ")}`);
  print(serve.length > 0 ? `and serve ${serve.join(", ")}` : "and serve no clients: give --unix, --tcp or --stdio");
}

async function configOf({ config, pool }: Flags): Promise<StdioConfig> {
  return parseConfig(await textOf(config), config, pool ?? null);
}

async function run(flags: Flags): Promise<void> {
  const log = new Log(!process.stderr.isTTY);
  const config = await configOf(flags);
  const wanted = serversOf(flags, config);
  if (flags.check) {
    try {
      return check(flags, config, wanted);
    } catch (error) {
      throw error instanceof SlotbusError ? new UsageError(error.message) : error;
    }
  }
  if (wanted.length === 0)
    throw new UsageError("There is nothing to serve: give --unix, --tcp or --stdio, or `serve` in the config.");
  const serving = Promise.withResolvers<void>();
  let reloading = serving.promise;
  let isDue = false;
  process.on("SIGHUP", () => {
    if (isDue) return; // the pending reload will read the same config
    isDue = true;
    reloading = reloading.then(() => {
      isDue = false;
      return reload(log, flags, config.serve, bus);
    });
  });
  const bus = await StdioBus.start(config.options);
  logEvents(log, bus);
  try {
    const servers: StdioServer[] = [];
    for (const one of wanted) servers.push(await bus.serve(one));
    announce(log, flags, bus, wanted, servers);
    serving.resolve();
    const standard = servers[wanted.findIndex(({ stdio }) => stdio)];
    log.write("info", "ending", { why: await untilEnd(standard) });
    await bus.drain();
  } finally {
    await bus.close();
    process.removeAllListeners("SIGHUP");
  }
  if (!(await log.close())) process.exit(EXIT.done);
}

/** Prints the addresses to standard output, or logs them if standard output belongs to a client. */
function announce(
  log: Log,
  flags: Flags,
  bus: StdioBus,
  wanted: readonly ServeOptions[],
  servers: readonly StdioServer[],
): void {
  const at = wanted.map(({ tcp, ...one }, index) =>
    addressOf(tcp ? { tcp: { ...tcp, port: servers[index]!.port } } : one),
  );
  const pools: Record<string, number> = {};
  for (const { pool } of bus.workers) pools[pool] = (pools[pool] ?? 0) + 1;
  if (wanted.some(({ stdio }) => stdio)) log.write("info", "serving", { pid: process.pid, serve: at, pools });
  else if (flags.json) print(JSON.stringify({ pid: process.pid, serve: at, pools }));
  else {
    const workers = Object.entries(pools).map(([id, instances]) => `"${id}" (${count(instances, "worker")})`);
    print(`stdio bus serves ${at.join(", ")}; pools: ${workers.join(", ")}`);
  }
}

/** Resolves to the reason for which the program ends. After that, the next signal ends it at once. */
function untilEnd(standard: StdioServer | undefined): Promise<string> {
  const { promise, resolve } = Promise.withResolvers<string>();
  let isEnding = false;
  const end = (why: string): void => {
    isEnding = true;
    resolve(why);
  };
  for (const signal of ["SIGTERM", "SIGINT"] as const)
    process.on(signal, () => (isEnding ? process.exit(EXIT.failed) : end(signal)));
  void standard?.done.then(() => end("the client on standard input has ended"));
  return promise;
}

/** Reloads the config. On any error it changes nothing and logs the error. */
async function reload(log: Log, flags: Flags, serve: readonly ServeOptions[], bus: StdioBus): Promise<void> {
  try {
    if (flags.config === "-") throw new UsageError("Cannot reload the config: it came from standard input.");
    const config = await configOf(flags);
    if (!Bun.deepEquals(config.serve, serve, true))
      throw new UsageError(`${flags.config}: \`serve\` has changed, which needs a restart. Nothing was reloaded.`);
    log.write("info", "reloaded", { ...(await bus.reload(config.options)) });
  } catch (error) {
    log.write("error", "not reloaded", { message: (error as Error).message });
  }
}

function logEvents(log: Log, bus: StdioBus): void {
  bus.on("joined", (worker) => log.write("info", "joined", { ...worker }));
  bus.on("left", (worker, { exitCode, signal, how }) =>
    log.write("info", "left", { ...worker, exitCode, signal, how }),
  );
  bus.on("died", (worker, { exitCode, signal }) => log.write("warn", "died", { ...worker, exitCode, signal }));
  bus.on("log", (worker, line) => log.write("info", "log", { ...worker, line }));
  bus.on("failed", ({ message }, pool) => log.write("error", "failed", { pool, message }));
  bus.on("paused", ({ message }, pool) => log.write("error", "paused", { pool, message }));
  bus.on("resumed", (pool) => log.write("info", "resumed", { pool }));
  bus.on("fault", ({ message }, worker) => log.write("warn", "fault", { ...worker, message }));
  bus.on("refused", (message) => log.write("warn", "refused", { message }));
}
