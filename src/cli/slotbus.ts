#!/usr/bin/env bun
/** The `slotbus` command. */

import { SlotbusError } from "../errors.ts";
import { CommandError, UsageError } from "./usage.ts";

const commands: Record<string, { summary: string; load: () => Promise<{ run(args: string[]): Promise<number> }> }> = {
  bench: {
    summary: "latency and throughput on this machine, beside the alternatives",
    load: () => import("./bench.ts"),
  },
  hub: {
    summary: "HTTP in front of workers in other processes",
    load: () => import("./hub.ts"),
  },
};

function help(): string {
  const lines = Object.entries(commands).map(([name, { summary }]) => `  ${name.padEnd(8)} ${summary}`);
  return `slotbus <command> [options]\n\n${lines.join("\n")}\n\nslotbus <command> --help says more; slotbus --version.`;
}

async function version(): Promise<string> {
  const manifest = (await Bun.file(`${import.meta.dir}/../../package.json`).json()) as { version: string };
  return manifest.version;
}

async function main([name, ...args]: string[]): Promise<number> {
  if (name === undefined || name === "--help" || name === "help") {
    console.log(help());
    return 0;
  }
  if (name === "--version") {
    console.log(await version());
    return 0;
  }
  if (!Object.hasOwn(commands, name))
    throw new UsageError(`there is no command "${name}"; there is: ${Object.keys(commands).join(", ")}.`);
  const { run } = await commands[name]!.load();
  return run(args);
}

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  const explained = error instanceof CommandError || error instanceof SlotbusError;
  console.error(explained ? `slotbus: ${error.message}` : error);
  process.exitCode = error instanceof UsageError ? 2 : 1;
}
