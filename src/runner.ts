/** Whether `slotbus run` started this process, and where it waits for the report that the worker is ready. */

/** Path of the socket of `slotbus run`, in the environment of its workers. */
export const RUN_VARIABLE = "SLOTBUS_RUN";

/**
 * Returns the path of that socket. Adds the process id to the variable, so that threads of this process find it, and child
 * processes of the worker do not report for it.
 */
function takePath(): string | null {
  const [, pid, path] = /^(?:(\d+):)?(\/.*)$/.exec(process.env[RUN_VARIABLE] ?? "") ?? [];
  if (path === undefined || (pid !== undefined && Number(pid) !== process.pid)) return null;
  process.env[RUN_VARIABLE] = `${process.pid}:${path}`;
  return path;
}

/** Path of the socket; `null` if `slotbus run` did not start this process. */
export const runSocket = takePath();

/** Whether `slotbus run` started this process. */
export const isRun = runSocket !== null;
