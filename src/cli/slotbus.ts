#!/usr/bin/env bun
/** The `slotbus` command. */

import { SlotbusError } from "../errors.ts";
import { UsageError } from "./usage.ts";

const commands: Record<string, { summary: string; load: () => Promise<{ run(args: string[]): Promise<number> }> }> = {
  bench: {
    summary: "latency and throughput on this machine, beside the alternatives",
    load: () => import("./bench.ts"),
  },
};

function help(): string {
  const lines = Object.entries(commands).map(([name, { summary }]) => `  ${name.padEnd(8)} ${summary}`);
  return `slotbus <command> [options]\n\n${lines.join("\n")}\n\nslotbus <command> --help says more.`;
}

async function main([name, ...args]: string[]): Promise<number> {
  if (name === undefined || name === "--help" || name === "help") {
    console.log(help());
    return 0;
  }
  const command = commands[name];
  if (!command) throw new UsageError(`there is no command "${name}"; there is: ${Object.keys(commands).join(", ")}.`);
  const { run } = await command.load();
  return run(args);
}

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  const known = error instanceof UsageError || error instanceof SlotbusError;
  console.error(known ? `slotbus: ${error.message}` : error);
  process.exitCode = error instanceof UsageError ? 2 : 1;
}
