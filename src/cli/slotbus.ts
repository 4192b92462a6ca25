#!/usr/bin/env bun
/** The `slotbus` command. */

import { addLazily, EXIT, EXIT_HELP, explain, type Lazy, newCommand } from "./usage.ts";

const COMMANDS: readonly Lazy[] = [
  {
    name: "doctor",
    summary: "check whether slotbus works here, and say how to fix faults",
    load: () => import("./doctor.ts"),
  },
  { name: "ls", summary: "list the buses, fleets and hubs of the runtime directory", load: () => import("./ls.ts") },
  { name: "top", summary: "show live rates, latencies and workers", load: () => import("./top.ts") },
  { name: "stats", summary: "print the counters and percentiles of a bus", load: () => import("./stats.ts") },
  { name: "events", summary: "print the events of a fleet as they are published", load: () => import("./events.ts") },
  { name: "claims", summary: "list or release the leases of a fleet", load: () => import("./claims.ts") },
  { name: "clean", summary: "remove files of processes that have died", load: () => import("./clean.ts") },
  {
    name: "bench",
    summary: "measure latency and throughput, next to the alternatives",
    load: () => import("./bench.ts"),
  },
  {
    name: "run",
    summary: "start the workers of a bus that several processes share",
    load: () => import("./run.ts"),
  },
  { name: "hub", summary: "serve HTTP in front of workers in other processes", load: () => import("./hub.ts") },
  {
    name: "stdio",
    summary: "run a pool of programs that clients in any language share",
    load: () => import("./stdio.ts"),
  },
];

/** Whether the reader has closed our output: `slotbus events tail | head`. */
function isClosedPipe(error: unknown): boolean {
  return (error as { code?: unknown } | null)?.code === "EPIPE";
}

process.stdout.on("error", (error) => {
  if (isClosedPipe(error)) process.exit(EXIT.done);
  throw error;
});
process.stderr.on("error", () => {}); // without a reader of the log the program continues and ends with its own code

try {
  const { version } = (await Bun.file(`${import.meta.dir}/../../package.json`).json()) as { version: string };
  const [first, ...rest] = process.argv.slice(2);
  const args = first === "help" ? [...rest, "--help"] : process.argv.slice(2);
  const program = newCommand("slotbus", "communication between Bun processes on one machine")
    .version(version, "--version", "print the version")
    .addHelpText("after", `\nRun slotbus COMMAND --help for details. Every command has --json.\n\n${EXIT_HELP}`);
  await addLazily(program, COMMANDS, args);
  await program.parseAsync(args, { from: "user" });
} catch (error) {
  const explained = isClosedPipe(error) ? { message: "", exitCode: EXIT.done } : explain(error);
  if (!explained) console.error(error);
  else if (explained.message !== "") console.error(`slotbus: ${explained.message}`);
  process.exitCode = explained?.exitCode ?? EXIT.failed;
}
