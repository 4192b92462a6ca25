/** SIGTERM in threads to which Bun does not report it: a thread that blocks, and a thread that is not the main one. */

import type { Socket, UnixSocketOptions } from "bun";
import { SlotbusError } from "../errors.ts";
import { errorText, native, type Pointer, view } from "./library.ts";

const asked = new Uint32Array(view(native.sb_stop_word() as Pointer, 4));

/** Whether SIGTERM has come since a thread of this process waits for it. */
export function isStopping(): boolean {
  return asked[0] !== 0;
}

function failed(code: number): SlotbusError {
  return new SlotbusError("RESOURCE", `Cannot wait for SIGTERM: ${errorText(code)}.`);
}

/**
 * Calls `done` once from the event loop at the end of a descriptor, without keeping the process alive. Returns a function that
 * undoes this.
 */
function atEnd(which: 0 | 1, done: () => void): () => void {
  const fd = native.sb_stop_fd(which);
  if (fd < 0) throw failed(fd);
  let socket: Socket | null = null;
  let isOver = false;
  const over = (): void => {
    if (!isOver) done();
    isOver = true;
  };
  const handlers = {
    open: (opened: Socket): void => {
      socket = opened;
      opened.unref();
      if (isOver) opened.terminate();
    },
    data: (): void => {},
    close: over,
    error: (): void => {},
  };
  // Bun takes over a descriptor and closes it, but its types only have addresses.
  Bun.connect({ fd, socket: handlers } as unknown as UnixSocketOptions<undefined>).catch(() => native.sb_fd_close(fd));
  return () => {
    isOver = true;
    socket?.terminate();
  };
}

/**
 * From now on SIGTERM does not end this process until the returned function is called. When that is done for all calls, the
 * process ends by SIGTERM, unless it has listeners. `close` is called at SIGTERM, from the event loop; `null`: the thread
 * blocks and calls {@link isStopping}.
 *
 * @throws `RESOURCE`
 */
export function holdStop(close: (() => Promise<unknown>) | null): () => void {
  const code = native.sb_stop_hold();
  if (code < 0) throw failed(code);
  let undo: () => void = () => {};
  let isReleased = false;
  const release = (): void => {
    if (isReleased) return;
    isReleased = true;
    undo();
    native.sb_stop_release();
  };
  try {
    if (close) undo = atEnd(0, () => void close().then(release, release));
  } catch (error) {
    release();
    throw error;
  }
  return release;
}

/**
 * Makes all that hold the process finish. Resolves when they have, and SIGTERM ends the process at once again. For a listener of
 * SIGTERM: with one, the last holder does not end the process.
 */
export async function stopHolders(): Promise<void> {
  if (native.sb_stop_ask() > 0) {
    const { promise, resolve } = Promise.withResolvers<void>();
    atEnd(1, resolve);
    await promise;
  }
  native.sb_stop_reset();
}
