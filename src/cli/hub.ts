/** `slotbus hub`: a hub as a program of its own. */

import { readFileSync } from "node:fs";
import type { Command } from "commander";
import { InvalidConfigError, InvalidNameError } from "../errors.ts";
import { createHub, type Hub, type HubOptions } from "../hub/index.ts";
import { print } from "./terminal.ts";
import { type CommonFlags, newCommand, numberLike, UsageError, withDirectory, withJson } from "./usage.ts";

/** Options of the hub by their own names, and what else is given. */
interface Flags extends CommonFlags, HubOptions {
  sweepInterval?: number;
  adminTokenFile?: string;
  controlTokenFile?: string;
}

const whole = numberLike(/^\d+$/);
const seconds = numberLike(/^\d+(?:\.\d+)?$/);
const bytes = numberLike(/^\d+[km]?$/i);

export function command(): Command {
  const hub = newCommand("hub", "serve HTTP in front of workers in other processes", [
    "slotbus hub",
    "slotbus hub --port 80 --hostname 0.0.0.0 --admin-token-file /run/secrets/hub",
    "SLOTBUS_CONTROL_TOKEN=... slotbus hub --name site --control-port 3201",
  ]);
  return withDirectory(withJson(hub))
    .option("--port <port>", "where it listens; 0: any that is free", whole, 3_200)
    .option("--hostname <address>", "0.0.0.0 for all addresses of the machine (default: 127.0.0.1)")
    .option("--name <name>", "by which workers find it (default: hub)")
    .option("--timeout <seconds>", "from a request to the head of its answer (default: 30)", seconds)
    .option("--payload-limit <bytes>", "largest body of a request; k, m: times 1024 (default: 10m)", bytes)
    .option("--slots <count>", "requests with one worker process at once (default: 32)", whole)
    .option("--spin <us>", "microseconds of spinning before sleep; 0: none (default: 50)", whole)
    .option(
      "--sweep-interval <seconds>",
      "between the comments that keep event streams alive and show which clients have gone (default: 15)",
      seconds,
    )
    .option(
      "--admin-token-file <file>",
      "a token that opens /_slotbus/ to other machines; or SLOTBUS_ADMIN_TOKEN, or --admin-token",
    )
    .option("--admin-token <token>", "the same, for every process list to see")
    .option("--control-port <port>", "what workers say to the hub's socket, on a port too", whole)
    .option("--control-token-file <file>", "the token asked for there; or SLOTBUS_CONTROL_TOKEN")
    .addHelpText(
      "after",
      "\nSIGTERM and SIGINT: it answers what runs, then it ends. Its status page is\nhttp://127.0.0.1:3200/_slotbus/.",
    )
    .action(run);
}

function optionsOf({ sweepInterval, adminTokenFile, controlTokenFile, ...flags }: Flags): HubOptions {
  const inMs = (value: number | undefined): number | undefined =>
    value === undefined ? undefined : Math.round(value * 1_000);
  const controlToken = token(controlTokenFile, "SLOTBUS_CONTROL_TOKEN");
  if ((flags.controlPort === undefined) !== (controlToken === undefined))
    throw new UsageError(
      "--control-port and its token go together: give --control-token-file or SLOTBUS_CONTROL_TOKEN, or neither.",
    );
  return {
    ...flags,
    timeout: inMs(flags.timeout),
    adminToken: flags.adminToken ?? token(adminTokenFile, "SLOTBUS_ADMIN_TOKEN"),
    controlToken,
    sse: { heartbeat: inMs(sweepInterval) },
  };
}

/** Without the line break that editors end a file with. */
function token(file: string | undefined, variable: string): string | undefined {
  if (file === undefined) return process.env[variable] || undefined;
  try {
    return readFileSync(file, "utf8").trimEnd();
  } catch (error) {
    throw new UsageError(`the token cannot be read: ${(error as Error).message}.`);
  }
}

async function start(options: HubOptions): Promise<Hub> {
  try {
    return await createHub(options);
  } catch (error) {
    if (error instanceof InvalidConfigError || error instanceof InvalidNameError) throw new UsageError(error.message);
    throw error;
  }
}

async function run(flags: Flags): Promise<void> {
  const hub = await start(optionsOf(flags));
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
}
