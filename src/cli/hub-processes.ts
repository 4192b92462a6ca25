/** `slotbus hub --processes`: starts hub processes that share a port, and keeps them running. */

import { ClosedError } from "../errors.ts";
import { describeExit, endOfOutput } from "../errors/exit.ts";
import type { HubOptions } from "../hub/index.ts";
import { hubOptions } from "../hub/options.ts";
import { notifyManager } from "../native/notify.ts";
import { RUN_VARIABLE } from "../runner.ts";
import { resolvePool } from "../supervisor/options.ts";
import type { Transport, WorkerLink } from "../supervisor/process.ts";
import { Supervisor } from "../supervisor/supervisor.ts";
import type { HubLogLevel } from "./hub-log.ts";
import { Log } from "./log.ts";
import { link, logEvents, replace, Reports, untilEnd } from "./pool.ts";
import { count, print } from "./terminal.ts";
import { CommandError, EXIT } from "./usage.ts";

/** Time of a hub process to end after its `drainDelay`, in ms: 5 s for its requests, and some to spare. */
const END_MS = 10_000;

/** Returns a port that is free now, so that all processes get the same one. */
async function freePort(hostname: string): Promise<number> {
  const server = Bun.serve({ port: 0, hostname, fetch: () => new Response() });
  const { port } = server;
  await server.stop(true);
  return port!;
}

/** The arguments of this command for one of its processes. */
function argumentsFor(port: number): string[] {
  const given = process.argv.slice(2);
  const own: string[] = [];
  for (let at = 0; at < given.length; at++) {
    if (/^--(?:processes|port)$/.test(given[at]!)) at++;
    else if (!/^--(?:processes|port)=/.test(given[at]!)) own.push(given[at]!);
  }
  return [process.argv[1]!, ...own, "--shared", "--port", String(port)];
}

/** Runs the processes until a signal ends them. */
export async function runProcesses(
  processes: number,
  options: HubOptions,
  { json, log: level }: { json?: boolean; log: HubLogLevel },
): Promise<void> {
  const { name, directory, hostname, port: wanted, drainDelay, control } = hubOptions.resolve(options);
  const port = wanted === 0 ? await freePort(hostname) : wanted!;
  using reports = new Reports(directory);
  const pool = resolvePool({
    name: `hub "${name}"`,
    command: process.execPath,
    args: argumentsFor(port),
    instances: processes,
    env: { SLOTBUS_DIR: directory, NOTIFY_SOCKET: undefined, [RUN_VARIABLE]: reports.path },
    stop: { drain: 0, term: drainDelay + END_MS },
    stderr: "inherit",
  });
  const transport: Transport<WorkerLink> = {
    stdin: "ignore",
    stdout: "inherit",
    readiness: "",
    open: async (process) => {
      await reports.of(process);
      return link;
    },
  };
  const supervisor = new Supervisor(pool, transport);
  const log = new Log(json === true || !process.stderr.isTTY);
  if (level !== "off") logEvents(log, supervisor);
  const end = untilEnd(supervisor, false);
  try {
    void end.then(() => supervisor.close());
    const starting = supervisor.start();
    process.on("SIGHUP", () =>
      starting.then(
        () => replace(log, supervisor, processes, "SIGHUP"),
        () => {}, // reported below
      ),
    );
    await starting.catch((error) => {
      if (!supervisor.closed || !(error instanceof ClosedError)) throw error;
    });
    if (!supervisor.closed) {
      const url = `http://${hostname.includes(":") && !hostname.startsWith("[") ? `[${hostname}]` : hostname}:${port}/`;
      const status = `${url}_slotbus/`;
      const plane = control && `http://${control.hostname}:${control.port}/`;
      if (json) print(JSON.stringify({ name, pid: process.pid, url, status, control: plane, processes }));
      else
        print(
          `hub "${name}" listens on ${url} with ${count(processes, "process", "processes")}; its status page is ${status}`,
        );
      notifyManager("READY=1");
    }
    const why = await end;
    notifyManager("STOPPING=1");
    if (why instanceof Error)
      throw new CommandError(
        `All processes of hub "${name}" end too often. The last one ${describeExit(why.report)}.${endOfOutput(why.report)}`,
      );
  } catch (error) {
    process.exitCode = EXIT.failed;
    throw error;
  } finally {
    await supervisor.close();
    process.removeAllListeners("SIGHUP");
    if (!(await log.close())) process.exit(process.exitCode);
  }
}
