/** `slotbus hub`: a hub as a program of its own. */

import { parseArgs } from "node:util";
import { createHub, type HubOptions } from "../hub/index.ts";
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
  --admin-token TOKEN    opens /_slotbus/ to other machines; better given as
                         SLOTBUS_ADMIN_TOKEN, which no process list shows
  --directory DIR        runtime directory
  --help

SIGTERM and SIGINT: it answers what runs, then it ends. Its status page is
http://127.0.0.1:3200/_slotbus/.`;

function number(flag: string, text: string | undefined, scale = 1): number | undefined {
  if (text === undefined) return undefined;
  const [, digits, unit = ""] = /^(\d+(?:\.\d+)?)([km]?)$/i.exec(text) ?? [];
  if (digits === undefined) throw new UsageError(`--${flag} is ${JSON.stringify(text)}; it must be a number.`);
  return Math.round(Number(digits) * { "": 1, k: 1_024, m: 1_048_576 }[unit.toLowerCase()]! * scale);
}

function parse(args: string[]): { help: boolean; options: HubOptions } {
  const text = { type: "string" } as const;
  let values: Record<string, string | boolean | undefined>;
  try {
    ({ values } = parseArgs({
      args,
      options: {
        port: text,
        hostname: text,
        name: text,
        timeout: text,
        "payload-limit": text,
        slots: text,
        spin: text,
        "sweep-interval": text,
        "admin-token": text,
        directory: text,
        help: { type: "boolean" },
      },
    }));
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
  const given = (flag: string): string | undefined => values[flag] as string | undefined;
  const heartbeat = number("sweep-interval", given("sweep-interval"), 1_000);
  const all = {
    port: number("port", given("port")) ?? 3_200,
    hostname: given("hostname"),
    name: given("name"),
    timeout: number("timeout", given("timeout"), 1_000),
    payloadLimit: number("payload-limit", given("payload-limit")),
    slots: number("slots", given("slots")),
    spin: number("spin", given("spin")),
    adminToken: given("admin-token") ?? process.env["SLOTBUS_ADMIN_TOKEN"],
    directory: given("directory"),
    sse: heartbeat === undefined ? undefined : { heartbeat },
  };
  const options = Object.fromEntries(Object.entries(all).filter(([, value]) => value !== undefined));
  return { help: values["help"] === true, options };
}

export async function run(args: string[]): Promise<number> {
  const { help, options } = parse(args);
  if (help) {
    console.log(HELP);
    return 0;
  }
  const hub = await createHub(options);
  console.log(`hub "${hub.name}" listens on ${hub.url}; its status page is ${hub.url}_slotbus/`);
  const { promise, resolve } = Promise.withResolvers<void>();
  for (const signal of ["SIGTERM", "SIGINT"] as const) process.once(signal, resolve);
  await promise;
  await hub.close();
  return 0;
}
