/** Errors of a handshake by frames. */

import { BusNotFoundError, SlotbusError, VersionMismatchError } from "../../errors.ts";
import { C } from "../../native/abi.ts";

/** Returns the error of a worker that was refused with `code` (`SB_E…`). */
export function refusedError(name: string, directory: string, code: number, versions: string): SlotbusError {
  const what = `The client of bus "${name}"`;
  if (code === C.SB_EVERSION) return new VersionMismatchError(what, C.SB_ABI, versions);
  if (code === C.SB_EPERM) {
    return new SlotbusError("PERMISSION_DENIED", `${what} does not allow uid ${process.geteuid?.() ?? 0}.`, {
      hint: `Run both as one user, or add ${process.geteuid?.() ?? 0} to \`allowedUids\` of SlotBus.create.`,
    });
  }
  if (code === C.SB_ECLOSED) return new BusNotFoundError(name, directory, 0);
  if (code === C.SB_EPROTO) return invalidHandshake(name);
  return new SlotbusError("RESOURCE", `${what} cannot take this worker now (error ${code}).`);
}

/** The peer at the socket of a bus does not speak the handshake. */
export function invalidHandshake(name: string): SlotbusError {
  return new SlotbusError("PROTOCOL", `The client of bus "${name}" did not send a valid slotbus handshake.`);
}

/** Returns the error of a failed connection. `code` is the system's, for example "ENOENT". */
export function connectError(name: string, directory: string, cause: unknown): SlotbusError {
  if (cause instanceof SlotbusError) return cause;
  const { code, message } = cause as NodeJS.ErrnoException;
  if (code === "ENOENT" || code === "ECONNREFUSED" || code === "ENOTDIR")
    return new BusNotFoundError(name, directory, 0);
  if (code === "EACCES" || code === "EPERM") {
    return new SlotbusError("PERMISSION_DENIED", `Cannot connect to bus "${name}" in ${directory}: ${message}.`, {
      cause,
    });
  }
  return new SlotbusError("RESOURCE", `Cannot connect to bus "${name}" in ${directory}: ${message}.`, { cause });
}

/** The body of a request was detached or resized before it was sent. */
export function detachedBody(id: string, mayHaveExecuted: boolean): SlotbusError {
  return new SlotbusError("BODY_RELEASED", `The body of request ${id} was detached or resized while it was sent.`, {
    hint: "Transfer or resize the memory of a body only after its request has settled.",
    mayHaveExecuted,
  });
}
