/** `slotbus hub`: a hub as a program of its own. */

import type { Command } from "commander";
import { createHub, type HubOptions } from "../hub/index.ts";
import { print } from "./terminal.ts";
import { newCommand, numberFrom, withDirectory, withJson } from "./usage.ts";

interface Flags {
  json?: boolean;
  port: number;
  hostname?: string;
  name?: string;
  timeout?: number;
  payloadLimit?: number;
  slots?: number;
  spin?: number;
  sweepInterval?: number;
  adminToken?: string;
  directory?: string;
}

const anyNumber = numberFrom(0, Number.MAX_SAFE_INTEGER);

export function command(): Command {
  const hub = newCommand("hub", "serve HTTP in front of workers in other processes", [
    "slotbus hub --port 8080",
    "SLOTBUS_ADMIN_TOKEN=$(cat token) slotbus hub --hostname 0.0.0.0",
  ]);
  return withDirectory(withJson(hub))
    .option("--port <port>", "where it listens; 0: any that is free", anyNumber, 3_200)
    .option("--hostname <address>", "0.0.0.0 for all addresses of the machine (default: 127.0.0.1)")
    .option("--name <name>", "by which workers find it (default: hub)")
    .option("--timeout <seconds>", "from a request to the head of its answer (default: 30)", anyNumber)
    .option("--payload-limit <bytes>", "largest body of a request; k, m: times 1024 (default: 10m)", anyNumber)
    .option("--slots <count>", "requests with one worker process at once (default: 32)", anyNumber)
    .option("--spin <us>", "microseconds of spinning before sleep; 0: none (default: 50)", anyNumber)
    .option(
      "--sweep-interval <seconds>",
      "between the comments that keep event streams alive and show which clients have gone (default: 15)",
      anyNumber,
    )
    .option(
      "--admin-token <token>",
      "opens /_slotbus/ to other machines; better given as SLOTBUS_ADMIN_TOKEN, which no process list shows",
    )
    .addHelpText(
      "after",
      "\nSIGTERM and SIGINT: it answers what runs, then it ends. Its status page is\nhttp://127.0.0.1:3200/_slotbus/.",
    )
    .action(run);
}

function optionsOf(flags: Flags): HubOptions {
  const seconds = (value: number | undefined): number | undefined => value && Math.round(value * 1_000);
  const heartbeat = seconds(flags.sweepInterval);
  const all = {
    port: flags.port,
    hostname: flags.hostname,
    name: flags.name,
    timeout: seconds(flags.timeout),
    payloadLimit: flags.payloadLimit && Math.round(flags.payloadLimit),
    slots: flags.slots,
    spin: flags.spin,
    adminToken: flags.adminToken ?? process.env["SLOTBUS_ADMIN_TOKEN"],
    directory: flags.directory,
    sse: heartbeat === undefined ? undefined : { heartbeat },
  };
  return Object.fromEntries(Object.entries(all).filter(([, value]) => value !== undefined));
}

async function run(flags: Flags): Promise<void> {
  const hub = await createHub(optionsOf(flags));
  const status = `${hub.url}_slotbus/`;
  if (flags.json) print(JSON.stringify({ name: hub.name, pid: process.pid, url: hub.url, status }));
  else print(`hub "${hub.name}" listens on ${hub.url}; its status page is ${status}`);
  const { promise, resolve } = Promise.withResolvers<void>();
  for (const signal of ["SIGTERM", "SIGINT"] as const) process.once(signal, resolve);
  await promise;
  await hub.close();
}
