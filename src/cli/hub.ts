/** `slotbus hub`: runs a hub as a program. */

import { readFileSync } from "node:fs";
import { type Command, Option } from "commander";
import { InvalidConfigError } from "../errors.ts";
import { Hub, type HubOptions } from "../hub/index.ts";
import { hubOptions } from "../hub/options.ts";
import { reportReady } from "../native/notify.ts";
import { isRun } from "../runner.ts";
import { addFlags, optionsOf } from "./flags.ts";
import { type HubLogLevel, LEVELS, logHub } from "./hub-log.ts";
import { runProcesses } from "./hub-processes.ts";
import { Log } from "./log.ts";
import { print } from "./terminal.ts";
import { type CommonFlags, EXIT, newCommand, UsageError, withDirectory, withJson } from "./usage.ts";

/** Flags besides the table of options. Tokens are read from files, because every user can read a command line. */
interface Flags extends CommonFlags {
  adminTokenFile?: string;
  controlTokenFile?: string;
  log: HubLogLevel;
  processes?: number;
  nats?: string;
}

export function command(): Command {
  const hub = newCommand("hub", "serve HTTP in front of workers in other processes", [
    "slotbus hub",
    "slotbus hub --log requests",
    "slotbus hub --processes 4",
    "slotbus hub --port 80 --hostname 0.0.0.0 --admin-token-file /run/secrets/hub",
    "slotbus hub --nats nats://10.0.0.5",
    "SLOTBUS_CONTROL_TOKEN=... slotbus hub --name site --control-port 3201",
  ]);
  return addFlags(withDirectory(withJson(hub)), hubOptions.rows)
    .option(
      "--admin-token-file <file>",
      "file with the token that opens /_slotbus/ to any address; or set SLOTBUS_ADMIN_TOKEN",
    )
    .option("--control-token-file <file>", "file with the token of the control port; or set SLOTBUS_CONTROL_TOKEN")
    .option("--processes <number>", "start this many processes that share the port, and keep them running", readCount)
    .option("--nats <url>", "the workers come over this NATS server, from any machine; they need `via` too")
    .addOption(new Option("--log <level>", "what to log on standard error").choices(LEVELS).default("info"))
    .addHelpText(
      "after",
      "\nTimes are in ms or have a unit: 500ms, 30s, 5m. Sizes may end in k, m or g." +
        "\nAt SIGTERM or SIGINT the hub finishes running requests, then exits. With\n--processes, SIGHUP replaces one process after another. The status page is\nhttp://127.0.0.1:3200/_slotbus/.",
    )
    .action(run);
}

/** Most processes of a hub, as clients of one bus. */
const PROCESSES_MAX = 64;

function readCount(given: string): number {
  if (/^[1-9]\d?$/.test(given) && Number(given) <= PROCESSES_MAX) return Number(given);
  throw new UsageError(
    `--processes is ${JSON.stringify(given)}; it must be a whole number from 1 to ${PROCESSES_MAX}.`,
  );
}

/** Returns the options of {@link Hub.start}. */
async function asOptions(flags: Flags): Promise<HubOptions> {
  const { control, ...options } = optionsOf(hubOptions.rows, { ...flags }) as HubOptions;
  const controlToken = tokenOf(flags.controlTokenFile, "SLOTBUS_CONTROL_TOKEN");
  if ((control === undefined) !== (controlToken === undefined))
    throw new UsageError(
      "--control-port and its token go together: give --control-token-file or SLOTBUS_CONTROL_TOKEN, or omit both.",
    );
  if (options.cors && options.cors.origins === undefined)
    throw new UsageError("--cors-credentials and --cors-max-age need --cors-origins.");
  return {
    ...options,
    directory: flags.directory,
    via: flags.nats === undefined ? undefined : (await import("../nats/index.ts")).nats({ servers: flags.nats }),
    adminToken: tokenOf(flags.adminTokenFile, "SLOTBUS_ADMIN_TOKEN"),
    control: control && controlToken !== undefined ? { ...control, token: controlToken } : undefined,
  };
}

/** Reads a token without the line break at the end of the file. */
function tokenOf(file: string | undefined, variable: string): string | undefined {
  if (file === undefined) return process.env[variable] || undefined;
  try {
    return readFileSync(file, "utf8").trimEnd();
  } catch (error) {
    throw new UsageError(`Cannot read the token: ${(error as Error).message}.`);
  }
}

async function start(options: HubOptions): Promise<Hub> {
  try {
    return await Hub.start(options);
  } catch (error) {
    if (error instanceof InvalidConfigError) throw new UsageError(error.message);
    throw error;
  }
}

async function run(flags: Flags): Promise<void> {
  const options = await asOptions(flags);
  if (flags.processes !== undefined) return runProcesses(flags.processes, options, flags);
  const hub = await start(options);
  const log = new Log(flags.json === true || !process.stderr.isTTY);
  logHub(log, hub, flags.log);
  const { promise, resolve } = Promise.withResolvers<void>();
  for (const signal of ["SIGTERM", "SIGINT"] as const) process.once(signal, resolve);
  const status = `${hub.url}_slotbus/`;
  const control = hub.controlUrl;
  if (isRun) reportReady();
  else if (flags.json) print(JSON.stringify({ name: hub.name, pid: process.pid, url: hub.url, status, control }));
  else {
    print(`hub "${hub.name}" listens on ${hub.url}; its status page is ${status}`);
    if (control) print(`its control plane is ${control}`);
  }
  await promise;
  await hub.close();
  if (!(await log.close())) process.exit(EXIT.done);
}
