#!/usr/bin/env bun
/** The `slotbus` command. */

import { addLazily, EXIT, EXIT_HELP, explain, type Lazy, newCommand } from "./usage.ts";

const COMMANDS: readonly Lazy[] = [
  {
    name: "doctor",
    summary: "whether slotbus works here, and what to do where it does not",
    load: () => import("./doctor.ts"),
  },
  { name: "ls", summary: "buses, fleets and hubs of the runtime directory", load: () => import("./ls.ts") },
  { name: "top", summary: "what they do, live", load: () => import("./top.ts") },
  { name: "stats", summary: "counters and percentiles of a bus", load: () => import("./stats.ts") },
  { name: "events", summary: "events of a fleet, as they come", load: () => import("./events.ts") },
  { name: "claims", summary: "leases of a fleet: list, release", load: () => import("./claims.ts") },
  { name: "clean", summary: "remove what processes that are dead have left", load: () => import("./clean.ts") },
  {
    name: "bench",
    summary: "latency and throughput on this machine, beside the alternatives",
    load: () => import("./bench.ts"),
  },
  { name: "hub", summary: "HTTP in front of workers in other processes", load: () => import("./hub.ts") },
  {
    name: "stdio",
    summary: "a pool of programs that clients in any language share",
    load: () => import("./stdio.ts"),
  },
];

/** The reader of our output has closed it: `slotbus events tail | head`. */
function isClosedPipe(error: unknown): boolean {
  return (error as { code?: unknown } | null)?.code === "EPIPE";
}

process.stdout.on("error", (error) => {
  if (isClosedPipe(error)) process.exit(EXIT.done);
  throw error;
});
process.stderr.on("error", () => {}); // nobody reads the log any more: the program goes on, and ends with its own code

try {
  const { version } = (await Bun.file(`${import.meta.dir}/../../package.json`).json()) as { version: string };
  const [first, ...rest] = process.argv.slice(2);
  const args = first === "help" ? [...rest, "--help"] : process.argv.slice(2);
  const program = newCommand("slotbus", "communication between Bun processes of one machine")
    .version(version, "--version", "say which version this is")
    .addHelpText("after", `\nslotbus COMMAND --help says more of each; each has --json.\n\n${EXIT_HELP}`);
  await addLazily(program, COMMANDS, args);
  await program.parseAsync(args, { from: "user" });
} catch (error) {
  const explained = isClosedPipe(error) ? { message: "", exitCode: EXIT.done } : explain(error);
  if (!explained) console.error(error);
  else if (explained.message !== "") console.error(`slotbus: ${explained.message}`);
  process.exitCode = explained?.exitCode ?? EXIT.failed;
}
