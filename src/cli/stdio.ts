/** `slotbus stdio`: a stdio bus as a program of its own. */

import { readFileSync } from "node:fs";
import type { Command } from "commander";
import { SlotbusError } from "../errors.ts";
import { flag } from "../options.ts";
import { StdioBus } from "../stdio/bus.ts";
import { type ServeOptions, stdioServeOptions } from "../stdio/options.ts";
import { planOf } from "../stdio/pools.ts";
import type { StdioServer } from "../stdio/server.ts";
import { addFlags, optionsOf } from "./flags.ts";
import { log } from "./log.ts";
import { parseConfig, type StdioConfig, textOf } from "./stdio/config.ts";
import { count, print } from "./terminal.ts";
import { EXIT, newCommand, UsageError, withJson } from "./usage.ts";

const { rows } = stdioServeOptions;
const serveFlags = {
  unix: flag(rows.unix, "serve clients on a unix socket of mode 0600"),
  tcp: flag(rows.tcp.rows!["port"]!, "serve clients on a tcp port; it needs a token"),
  hostname: flag(rows.tcp.rows!["hostname"]!, "where that port is"),
  stdio: flag(rows.stdio, "serve one client on standard input and output; end with it"),
  pool: flag(rows.pool, "the pool that those clients ask, if there are several"),
  framing: { ...flag(rows.framing, "ndjson, length or content-length"), range: "a framing" },
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
  const stdio = newCommand("stdio", "a pool of programs that clients in any language share", [
    "slotbus stdio --config bus.json --unix /run/user/1000/bus.sock",
    "SLOTBUS_STDIO_TOKEN=... slotbus stdio --config bus.json --tcp 4000",
    "slotbus stdio --config bus.json --stdio",
    "slotbus stdio --config bus.json --check",
  ])
    .requiredOption("--config <file>", "JSON: what StdioBus.start takes, and `serve`; - is standard input")
    .option("--check", "check the config, say what would run, and start nothing");
  return addFlags(withJson(stdio), serveFlags)
    .option("--token-file <file>", "the token of tcp ports; or SLOTBUS_STDIO_TOKEN")
    .option("--no-token", "let every program that reaches a tcp port ask")
    .addHelpText(
      "after",
      "\nA token is not an argument: every user can read those. SIGHUP reads the config\n" +
        "again and loses no request. SIGTERM and SIGINT: it answers what it has, then it\n" +
        "ends; a second one ends it at once. The log is on standard error.",
    )
    .action(run);
}

/** The token for ports whose config has none; `false`: none is needed, `undefined`: there is none. */
function tokenOf({ token, tokenFile }: Flags): string | false | undefined {
  if (!token && tokenFile !== undefined) throw new UsageError("--token-file and --no-token exclude each other.");
  if (!token) return false;
  if (tokenFile === undefined) return process.env["SLOTBUS_STDIO_TOKEN"] || undefined;
  try {
    return readFileSync(tokenFile, "utf8").trimEnd();
  } catch (error) {
    throw new UsageError(`Cannot read the token: ${(error as Error).message}.`);
  }
}

/** Where clients are served: the flags, then what the config says. */
function serversOf(flags: Flags, { serve }: StdioConfig): ServeOptions[] {
  const given = optionsOf(serveFlags, { ...flags }) as {
    [K in keyof typeof serveFlags]?: never;
  };
  const { unix, tcp, hostname, stdio, ...more } = given;
  const own: ServeOptions[] = [];
  if (unix !== undefined) own.push({ unix, ...more });
  if (tcp !== undefined) own.push({ tcp: { port: tcp, hostname }, ...more });
  else if (hostname !== undefined) throw new UsageError("--hostname belongs to --tcp: give both.");
  if (stdio) own.push({ stdio: true, ...more });
  const [lonely] = own.length === 0 ? Object.keys(more) : [];
  if (lonely !== undefined) throw new UsageError(`--${lonely} belongs to --unix, --tcp or --stdio.`);
  const all = [...own, ...serve];
  const usesStdio = all.filter((one) => one.stdio).length;
  if (usesStdio > 1) throw new UsageError("Standard input serves one client: `serve` of the config has it already.");
  if (usesStdio > 0 && flags.config === "-")
    throw new UsageError("Standard input is either the config (--config -) or the client (--stdio): give a file.");
  const token = tokenOf(flags);
  return all.map(({ tcp: port, ...one }) => {
    if (!port) return one;
    if (port.token === undefined && token === undefined)
      throw new UsageError("A tcp port needs a token: give --token-file or SLOTBUS_STDIO_TOKEN, or --no-token.");
    return { ...one, tcp: { ...port, token: port.token ?? token } };
  });
}

/** An address, as people read it. */
function addressOf({ unix, tcp }: ServeOptions): string {
  return unix ?? (tcp ? `${tcp.hostname ?? "127.0.0.1"}:${tcp.port}` : "standard input");
}

/** Says what would run. */
function check(flags: Flags, { options }: StdioConfig, servers: readonly ServeOptions[]): void {
  const pools = planOf(options).map(({ id, instances, path, args }) => ({ id, instances, command: path, args }));
  const serve = servers.map(addressOf);
  if (flags.json) return print(JSON.stringify({ config: flags.config, pools, serve }));
  print(`${flags.config === "-" ? "the config" : flags.config} is valid. It would run:`);
  for (const { id, instances, command: program, args } of pools)
    print(`  pool "${id}": ${count(instances, "worker")} of ${[program, ...args].join(" ")}`);
  print(serve.length > 0 ? `and serve ${serve.join(", ")}` : "and serve nobody, unless a flag says where");
}

async function configOf({ config, pool }: Flags): Promise<StdioConfig> {
  return parseConfig(await textOf(config), config, pool ?? null);
}

async function run(flags: Flags): Promise<void> {
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
    throw new UsageError("Nobody could ask: give --unix, --tcp or --stdio, or `serve` in the config.");
  const serving = Promise.withResolvers<void>();
  let reloading = serving.promise;
  let isDue = false;
  process.on("SIGHUP", () => {
    if (isDue) return; // the one that has not begun reads the same
    isDue = true;
    reloading = reloading.then(() => {
      isDue = false;
      return reload(flags, config.serve, bus);
    });
  });
  const bus = await StdioBus.start(config.options);
  logEvents(bus);
  try {
    const servers: StdioServer[] = [];
    for (const one of wanted) servers.push(await bus.serve(one));
    announce(flags, bus, wanted, servers);
    serving.resolve();
    const standard = servers[wanted.findIndex(({ stdio }) => stdio)];
    log("info", "ending", { why: await untilEnd(standard) });
    await bus.drain();
  } finally {
    await bus.close();
    process.removeAllListeners("SIGHUP");
  }
}

/** Says where clients are served: on standard output, unless that belongs to one of them. */
function announce(flags: Flags, bus: StdioBus, wanted: readonly ServeOptions[], servers: readonly StdioServer[]): void {
  const at = wanted.map(({ tcp, ...one }, index) =>
    addressOf(tcp ? { tcp: { ...tcp, port: servers[index]!.port } } : one),
  );
  const pools: Record<string, number> = {};
  for (const { pool } of bus.workers) pools[pool] = (pools[pool] ?? 0) + 1;
  if (wanted.some(({ stdio }) => stdio)) log("info", "serving", { pid: process.pid, serve: at, pools });
  else if (flags.json) print(JSON.stringify({ pid: process.pid, serve: at, pools }));
  else {
    const workers = Object.entries(pools).map(([id, instances]) => `"${id}" (${count(instances, "worker")})`);
    print(`stdio bus serves ${at.join(", ")}; pools: ${workers.join(", ")}`);
  }
}

/** Resolves to why the program is to end. After that, the next signal ends it at once. */
function untilEnd(standard: StdioServer | undefined): Promise<string> {
  const { promise, resolve } = Promise.withResolvers<string>();
  let isEnding = false;
  const end = (why: string): void => {
    isEnding = true;
    resolve(why);
  };
  for (const signal of ["SIGTERM", "SIGINT"] as const)
    process.on(signal, () => (isEnding ? process.exit(EXIT.failed) : end(signal)));
  void standard?.done.then(() => end("the client of standard input is gone"));
  return promise;
}

/** Reads the config again. When anything is wrong nothing changes, and the log says why. */
async function reload(flags: Flags, serve: readonly ServeOptions[], bus: StdioBus): Promise<void> {
  try {
    if (flags.config === "-") throw new UsageError("The config came from standard input, which cannot be read again.");
    const config = await configOf(flags);
    if (!Bun.deepEquals(config.serve, serve, true))
      throw new UsageError(
        `${flags.config}: \`serve\` has changed, which takes a restart. Nothing else was changed either.`,
      );
    log("info", "reloaded", { ...(await bus.reload(config.options)) });
  } catch (error) {
    log("error", "not reloaded", { message: (error as Error).message });
  }
}

function logEvents(bus: StdioBus): void {
  bus.on("joined", (worker) => log("info", "joined", { ...worker }));
  bus.on("left", (worker, { exitCode, signal, how }) => log("info", "left", { ...worker, exitCode, signal, how }));
  bus.on("died", (worker, { exitCode, signal }) => log("warn", "died", { ...worker, exitCode, signal }));
  bus.on("log", (worker, line) => log("info", "log", { ...worker, line }));
  bus.on("failed", ({ message }, pool) => log("error", "failed", { pool, message }));
  bus.on("paused", ({ message }, pool) => log("error", "paused", { pool, message }));
  bus.on("resumed", (pool) => log("info", "resumed", { pool }));
  bus.on("fault", ({ message }, worker) => log("warn", "fault", { ...worker, message }));
  bus.on("refused", (message) => log("warn", "refused", { message }));
}
