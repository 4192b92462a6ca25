/** `slotbus hub`: a hub as a program of its own. */

import { readFileSync } from "node:fs";
import { type Command, Option } from "commander";
import { InvalidConfigError } from "../errors.ts";
import { Hub, type HubOptions } from "../hub/index.ts";
import { hubOptions } from "../hub/options.ts";
import { addFlags, optionsOf } from "./flags.ts";
import { HubLog, type Level, LEVELS } from "./hub-log.ts";
import { print } from "./terminal.ts";
import { type CommonFlags, EXIT, newCommand, UsageError, withDirectory, withJson } from "./usage.ts";

/** Flags beside those of the table of options: a token is not for a command line, which every user can read. */
interface Flags extends CommonFlags {
  adminTokenFile?: string;
  controlTokenFile?: string;
  log: Level;
}

/** How long a hub that ends waits for whoever reads its log, in ms. */
const LOG_MS = 1_000;

export function command(): Command {
  const hub = newCommand("hub", "serve HTTP in front of workers in other processes", [
    "slotbus hub",
    "slotbus hub --log requests",
    "slotbus hub --port 80 --hostname 0.0.0.0 --admin-token-file /run/secrets/hub",
    "SLOTBUS_CONTROL_TOKEN=... slotbus hub --name site --control-port 3201",
  ]);
  return addFlags(withDirectory(withJson(hub)), hubOptions.rows)
    .option("--admin-token-file <file>", "the token of /_slotbus/, from everywhere; or SLOTBUS_ADMIN_TOKEN")
    .option("--control-token-file <file>", "the token of the control port; or SLOTBUS_CONTROL_TOKEN")
    .addOption(new Option("--log <level>", "what to say on standard error").choices(LEVELS).default("info"))
    .addHelpText(
      "after",
      "\nA time is in ms or has a unit: 500ms, 30s, 5m; a size may end in k, m or g." +
        "\nSIGTERM and SIGINT: it answers what runs, then it ends. Its status page is\nhttp://127.0.0.1:3200/_slotbus/.",
    )
    .action(run);
}

/** What was given, for {@link Hub.start}. */
function asOptions(flags: Flags): HubOptions {
  const { control, ...options } = optionsOf(hubOptions.rows, { ...flags }) as HubOptions;
  const controlToken = tokenOf(flags.controlTokenFile, "SLOTBUS_CONTROL_TOKEN");
  if ((control === undefined) !== (controlToken === undefined))
    throw new UsageError(
      "--control-port and its token go together: give --control-token-file or SLOTBUS_CONTROL_TOKEN, or neither.",
    );
  if (options.cors && options.cors.origins === undefined)
    throw new UsageError("--cors-credentials and --cors-max-age need --cors-origins: say which pages they are for.");
  return {
    ...options,
    directory: flags.directory,
    adminToken: tokenOf(flags.adminTokenFile, "SLOTBUS_ADMIN_TOKEN"),
    control: control && controlToken !== undefined ? { ...control, token: controlToken } : undefined,
  };
}

/** Without the line break that editors end a file with. */
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
  const hub = await start(asOptions(flags));
  const log = new HubLog(hub, flags.log, flags.json === true || !process.stderr.isTTY);
  const { promise, resolve } = Promise.withResolvers<void>();
  for (const signal of ["SIGTERM", "SIGINT"] as const) process.once(signal, resolve);
  const status = `${hub.url}_slotbus/`;
  const control = hub.controlUrl;
  if (flags.json) print(JSON.stringify({ name: hub.name, pid: process.pid, url: hub.url, status, control }));
  else {
    print(`hub "${hub.name}" listens on ${hub.url}; its status page is ${status}`);
    if (control) print(`its control plane is ${control}`);
  }
  await promise;
  await hub.close();
  if (!(await log.close(LOG_MS))) process.exit(EXIT.done);
}
