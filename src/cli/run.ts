/** `slotbus run`: starts the workers of a bus and keeps them running. */

import { existsSync } from "node:fs";
import { availableParallelism } from "node:os";
import { resolve } from "node:path";
import type { Command } from "commander";
import { MAX_TIMER_MS, systemClock } from "../clock.ts";
import { ClosedError } from "../errors.ts";
import { describeExit, endOfOutput } from "../errors/exit.ts";
import { notifyManager } from "../native/notify.ts";
import { RUN_VARIABLE } from "../runner.ts";
import { flag, integer, optional } from "../options.ts";
import { checkName, resolveDirectory } from "../runtime-directory.ts";
import { resolvePool } from "../supervisor/options.ts";
import type { Transport, WorkerLink } from "../supervisor/process.ts";
import { Supervisor } from "../supervisor/supervisor.ts";
import { SourceWatch } from "../supervisor/watch.ts";
import { addFlags, optionsOf } from "./flags.ts";
import { Log } from "./log.ts";
import { link, logEvents, replace, Reports, untilEnd } from "./pool.ts";
import { count, print } from "./terminal.ts";
import { CommandError, type CommonFlags, EXIT, newCommand, UsageError, withDirectory, withJson } from "./usage.ts";

/** Maximum number of workers of a bus. */
const WORKERS_MAX = 64;

const runFlags = {
  instances: flag(optional(integer(undefined, 1, WORKERS_MAX), "one per processor"), "number of worker processes"),
  drain: flag(integer(10_000, 1, MAX_TIMER_MS, " ms"), "time for a worker to finish its requests"),
};

interface Flags extends CommonFlags {
  name?: string;
  watch?: boolean;
}

export function command(): Command {
  const run = newCommand("run", "start the workers of a bus that several processes share", [
    "slotbus run worker.ts --name shop --instances 4",
    "slotbus run worker.ts --name shop --watch",
    "slotbus run worker.ts --name shop -- --verbose",
  ])
    .argument("<program>", "file that Bun runs; it calls SlotWorker.open()")
    .argument("[args...]", "after --: arguments of the program")
    .option("--name <name>", "bus that SlotWorker.open() attaches to (default: $SLOTBUS_NAME)")
    .option("--watch", "replace the workers when a source file of the program changes");
  return addFlags(withDirectory(withJson(run)), runFlags)
    .addHelpText(
      "after",
      "\nThe workers wait for clients: SlotBus.connect in any number of processes. A\n" +
        "worker that ends is restarted after growing pauses. When all of them end too\n" +
        "often, the command ends with exit code 1, unless it watches the program.\n" +
        "SIGHUP replaces one worker after another. At SIGTERM or SIGINT the workers\n" +
        "finish their requests, then the command exits; a second signal exits at once.\n" +
        "The log is on standard error.",
    )
    .action(runWorkers);
}

function makePool(program: string, args: readonly string[], flags: Flags, directory: string, report: string) {
  const { instances = availableParallelism(), drain } = optionsOf(runFlags, { ...flags }) as {
    instances?: number;
    drain?: number;
  };
  const name = flags.name ?? process.env["SLOTBUS_NAME"];
  return resolvePool({
    name: name || program,
    command: process.execPath,
    args: [program, ...args],
    instances: Math.min(instances, WORKERS_MAX),
    env: {
      SLOTBUS_NAME: name ? checkName(name) : undefined,
      SLOTBUS_DIR: directory,
      SLOTBUS_STDIO: undefined,
      NOTIFY_SOCKET: undefined,
      [RUN_VARIABLE]: report,
      // Workers that this command replaces must not also reload themselves.
      BUN_OPTIONS: process.env["BUN_OPTIONS"]?.replaceAll(/--(hot|watch)\b/g, ""),
    },
    stop: { drain: 0, term: drain ?? runFlags.drain.resolve(undefined, "drain") },
  });
}

async function runWorkers(given: string, args: readonly string[], flags: Flags): Promise<void> {
  const program = resolve(given);
  if (!existsSync(program)) throw new UsageError(`Cannot find the program ${program}: give the path of a file.`);
  const directory = resolveDirectory(flags.directory);
  using reports = new Reports(directory);
  const pool = makePool(program, args, flags, directory, reports.path);
  const transport: Transport<WorkerLink> = {
    stdin: "ignore",
    stdout: "inherit",
    readiness: "Call `SlotWorker.open()` in the program.",
    open: async (process) => {
      await reports.of(process);
      return link;
    },
  };
  const supervisor = new Supervisor(pool, transport);
  const log = new Log(flags.json === true || !process.stderr.isTTY);
  logEvents(log, supervisor);
  const end = untilEnd(supervisor, flags.watch === true);
  let watch: SourceWatch | null = null;
  try {
    void end.then(() => supervisor.close());
    const starting = supervisor.start();
    const renew = (why: string): void =>
      void starting.then(
        () => replace(log, supervisor, pool.instances, why),
        () => {},
      );
    process.on("SIGHUP", () => renew("SIGHUP"));
    await starting.catch((error) => {
      if (!supervisor.closed || !(error instanceof ClosedError)) throw error;
    });
    if (!supervisor.closed) {
      if (flags.watch) watch = new SourceWatch(program, systemClock, () => renew("the program changed"));
      announce(flags, pool.name, program, pool.instances);
      notifyManager("READY=1");
    }
    const why = await end;
    notifyManager("STOPPING=1");
    if (why instanceof Error) {
      const last = describeExit(why.report);
      throw new CommandError(
        `All workers of ${pool.name} end too often. The last one ${last}.${endOfOutput(why.report)}`,
      );
    }
    log.write("info", "ending", { why });
  } catch (error) {
    process.exitCode = EXIT.failed;
    throw error;
  } finally {
    watch?.close();
    await supervisor.close();
    process.removeAllListeners("SIGHUP");
    if (!(await log.close())) process.exit(process.exitCode);
  }
}

function announce({ json }: Flags, name: string, program: string, instances: number): void {
  if (json) print(JSON.stringify({ pid: process.pid, name, program, instances }));
  else print(`${count(instances, "worker")} of ${program} serve bus "${name}"`);
}
