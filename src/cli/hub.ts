/** `slotbus hub`: a hub as a program of its own. */

import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { InvalidConfigError, InvalidNameError } from "../errors.ts";
import { createHub, type Hub, type HubOptions } from "../hub/index.ts";
import { UsageError } from "./usage.ts";

const HELP = `slotbus hub [options]

  --port 3200            where it listens; 0: any that is free
  --hostname 127.0.0.1   0.0.0.0 for all addresses of the machine
  --name hub             by which workers find it
  --timeout 30           seconds from a request to the head of its answer
  --payload-limit 10m    largest body of a request, in bytes (k, m: times 1024)
  --slots 32             requests with one worker process at once
  --spin 50              microseconds of spinning before sleep; 0: none
  --sweep-interval 15    seconds between the comments that keep event streams
                         alive and show which clients have gone
  --admin-token-file F   a token that opens /_slotbus/ to other machines;
                         or SLOTBUS_ADMIN_TOKEN, or --admin-token TOKEN,
                         which every process list shows
  --control-port PORT    what workers say to the hub's socket, on a port too
  --control-token-file F the token asked for there; or SLOTBUS_CONTROL_TOKEN
  --directory DIR        runtime directory
  --help

  slotbus hub
  slotbus hub --port 80 --hostname 0.0.0.0 --admin-token-file /run/secrets/hub
  SLOTBUS_CONTROL_TOKEN=... slotbus hub --name site --port 0 --control-port 3201

SIGTERM and SIGINT: it answers what runs, then it ends. Its status page is
http://127.0.0.1:3200/_slotbus/.`;

const text = { type: "string" } as const;
const FLAGS = {
  port: text,
  hostname: text,
  name: text,
  timeout: text,
  "payload-limit": text,
  slots: text,
  spin: text,
  "sweep-interval": text,
  "admin-token": text,
  "admin-token-file": text,
  "control-port": text,
  "control-token-file": text,
  directory: text,
  help: { type: "boolean" },
} as const;

const UNITS: Readonly<Record<string, number>> = { k: 1_024, m: 1_048_576 };

type Values = { readonly [flag in keyof typeof FLAGS]?: string | boolean };

function parse(args: string[]): Values {
  try {
    return parseArgs({ args, options: FLAGS }).values;
  } catch (error) {
    throw new UsageError((error as Error).message.replaceAll("\n", " "));
  }
}

/** What was given, with nothing for what was not. */
function optionsOf(values: Values): HubOptions {
  const textOf = (flag: keyof typeof FLAGS): string | undefined => values[flag] as string | undefined;
  const number = (flag: keyof typeof FLAGS, form = /^\d+$/): number | undefined => {
    const given = textOf(flag);
    if (given === undefined) return undefined;
    if (!form.test(given)) throw new UsageError(`--${flag} is ${JSON.stringify(given)}; it must be a number.`);
    return Number.parseFloat(given) * (UNITS[given.at(-1)!.toLowerCase()] ?? 1);
  };
  const seconds = (flag: keyof typeof FLAGS): number | undefined => {
    const given = number(flag, /^\d+(?:\.\d+)?$/);
    return given === undefined ? undefined : Math.round(given * 1_000);
  };
  const heartbeat = seconds("sweep-interval");
  const controlPort = number("control-port");
  const controlToken = token(textOf("control-token-file"), "SLOTBUS_CONTROL_TOKEN");
  if ((controlPort === undefined) !== (controlToken === undefined))
    throw new UsageError(
      "--control-port and its token go together: give --control-token-file or SLOTBUS_CONTROL_TOKEN, or neither.",
    );
  const all = {
    port: number("port") ?? 3_200,
    hostname: textOf("hostname"),
    name: textOf("name"),
    timeout: seconds("timeout"),
    payloadLimit: number("payload-limit", /^\d+[km]?$/i),
    slots: number("slots"),
    spin: number("spin"),
    adminToken: textOf("admin-token") ?? token(textOf("admin-token-file"), "SLOTBUS_ADMIN_TOKEN"),
    controlPort,
    controlToken,
    directory: textOf("directory"),
    sse: heartbeat === undefined ? undefined : { heartbeat },
  };
  return Object.fromEntries(Object.entries(all).filter(([, value]) => value !== undefined));
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

export async function run(args: string[]): Promise<number> {
  const values = parse(args);
  if (values.help) {
    console.log(HELP);
    return 0;
  }
  const hub = await start(optionsOf(values));
  const { promise, resolve } = Promise.withResolvers<void>();
  for (const signal of ["SIGTERM", "SIGINT"] as const) process.once(signal, resolve);
  console.log(`hub "${hub.name}" listens on ${hub.url}; its status page is ${hub.url}_slotbus/`);
  if (hub.controlUrl) console.log(`its control plane is ${hub.controlUrl}`);
  await promise;
  await hub.close();
  return 0;
}
