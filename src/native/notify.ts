/** Reports to the process that started this one: to systemd, and from a worker to `slotbus run`. */

import { basename, dirname } from "node:path";
import { SlotbusError } from "../errors.ts";
import { closeDirectory, openDirectory } from "./directory.ts";
import { runSocket } from "../runner.ts";
import { cString, errorText, native } from "./library.ts";

/** Tells `slotbus run` that this worker is ready; without it does nothing. @throws `RESOURCE` */
export function reportReady(): void {
  if (runSocket === null) return;
  const dir = openDirectory(dirname(runSocket)) ?? -1;
  try {
    // Through the descriptor, because the address of a socket has at most 107 bytes.
    const result = native.sb_notify(
      cString(`/proc/self/fd/${dir}/${basename(runSocket)}`),
      cString(`${process.pid}\n`),
    );
    if (result < 0)
      throw new SlotbusError("RESOURCE", `Cannot report to slotbus run at ${runSocket}: ${errorText(result)}.`);
  } finally {
    closeDirectory(dir);
  }
}

/**
 * Sends a state such as `READY=1` to the service manager in `$NOTIFY_SOCKET`; without it does nothing. A failure is ignored,
 * because the service works without it. `RELOADING=1` gets the time that systemd requires.
 */
export function notifyManager(state: "READY=1" | "RELOADING=1" | "STOPPING=1"): void {
  const address = process.env["NOTIFY_SOCKET"];
  if (!address) return;
  // Rounded up: systemd ignores a time before its own SIGHUP.
  const time = state === "RELOADING=1" ? `\nMONOTONIC_USEC=${Math.ceil(native.sb_now_ms() + 1) * 1_000}` : "";
  native.sb_notify(cString(address), cString(state + time));
}
