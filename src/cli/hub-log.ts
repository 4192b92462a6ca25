/** The log of `slotbus hub`. */

import type { Hub, HubRequestInfo } from "../hub/index.ts";
import type { Log } from "./log.ts";

/** Levels of the log; each includes the levels before it. */
export const LEVELS = ["off", "warn", "info", "requests"] as const;
export type HubLogLevel = (typeof LEVELS)[number];

/** Writes the events of a hub to its log. */
export function logHub(log: Log, hub: Hub, level: HubLogLevel): void {
  const shown = LEVELS.indexOf(level);
  if (shown >= LEVELS.indexOf("warn")) {
    hub.on("died", ({ name, pid }, reason) =>
      log.write("warn", "died", { worker: name, pid, reason }, `worker ${name} (pid ${pid}) ${reason}`),
    );
    hub.on("messageLost", ({ worker, connection, path, reason }) =>
      log.write(
        "warn",
        "messageLost",
        { worker, connection, path, reason },
        `worker ${worker} lost a message of ${path} (${connection}): ${reason}`,
      ),
    );
    hub.on("refused", ({ name, pid }, reason) =>
      log.write(
        "warn",
        "refused",
        { worker: name, pid, reason },
        `worker ${name} (pid ${pid ?? "-"}) refused: ${reason}`,
      ),
    );
  }
  if (shown >= LEVELS.indexOf("info"))
    for (const event of ["joined", "left"] as const)
      hub.on(event, ({ name, pid }) =>
        log.write("info", event, { worker: name, pid }, `worker ${name} (pid ${pid}) ${event}`),
      );
  if (shown >= LEVELS.indexOf("requests"))
    hub.on("request", (request) => log.write("info", "request", rounded(request), textOf(request)));
}

function rounded(request: HubRequestInfo): HubRequestInfo & Record<string, unknown> {
  return { ...request, ms: Math.round(request.ms * 1_000) / 1_000 };
}

/** Returns `GET /users/7 200 1.3 ms 27 B users 127.0.0.1 ID`, with `-` for unknown values. */
function textOf({ id, method, path, status, ms, bytes, worker, address }: HubRequestInfo): string {
  const size = bytes === null ? "-" : `${bytes} B`;
  return `${method} ${path || "-"} ${status} ${ms.toFixed(1)} ms ${size} ${worker ?? "-"} ${address ?? "-"} ${id}`;
}
