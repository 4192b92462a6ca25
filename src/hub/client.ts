/** A worker's connection to the control plane of its hub: JSON over HTTP on the control socket, or as requests over NATS. */

import { readdirSync } from "node:fs";
import { join } from "node:path";
import { checkDirectory } from "../native/directory.ts";
import { HubError, SlotbusError } from "../errors.ts";
import type { RemoteVia } from "../bus/via.ts";
import { CONTROL_LIMIT, type ControlChannel, controlSocketOf, isMemberSocket, REGISTER_PATH } from "./names.ts";
import { RemoteChannel } from "./remote.ts";

const TIMEOUT_MS = 5_000;
/** Error codes of a socket on which no process listens. */
const NOT_LISTENING: ReadonlySet<unknown> = new Set(["ENOENT", "ECONNREFUSED"]);

/** The control socket of a hub on this machine. */
class SocketChannel implements ControlChannel {
  readonly hint: string;
  readonly #hub: string;
  readonly #directory: string;
  readonly #shared: boolean;
  readonly #socket: string;

  constructor(hub: string, directory: string, shared: boolean) {
    this.#hub = hub;
    this.#directory = directory;
    this.#shared = shared;
    this.#socket = join(directory, controlSocketOf(hub));
    this.hint = `Start the hub, or correct the hub's name or directory; its socket is ${this.#socket}.`;
  }

  /**
   * Sends a request to the hub's socket. If no process listens there, or the process is closing, sends it to the other processes
   * of a shared hub, one after another.
   */
  async send(path: string, body: string | Uint8Array | null, type: string): Promise<Response> {
    // If another user had created the directory first, that user's program could listen on the socket.
    checkDirectory(this.#directory, { shared: this.#shared });
    let last: { response: Response } | { error: unknown } | null = null;
    for (const unix of this.#sockets()) {
      try {
        const response = await fetch(`http://hub${path}`, {
          unix,
          method: body === null ? "GET" : "POST",
          body: body as Uint8Array<ArrayBuffer> | string | null,
          headers: body === null ? {} : { "content-type": type },
          signal: AbortSignal.timeout(TIMEOUT_MS),
          keepalive: false, // a kept connection may lead to a process that is closing
        });
        if (!(await isClosing(response))) return response;
        last = { response };
      } catch (error) {
        if (this.wasSent(error)) throw error;
        last ??= { error };
      }
    }
    if ("response" in last!) return last.response;
    throw last!.error;
  }

  wasSent(error: unknown): boolean {
    return !NOT_LISTENING.has((error as { code?: unknown }).code);
  }

  *#sockets(): Generator<string> {
    yield this.#socket;
    for (const file of readdirSync(this.#directory))
      if (isMemberSocket(this.#hub, file)) yield join(this.#directory, file);
  }

  async close(): Promise<void> {}
}

/** Calls the control plane. */
export class HubClient {
  readonly hub: string;
  readonly #channel: ControlChannel;

  /** `shared`: the directory was configured, so it may belong to another user. With `via`, the directory is not used. */
  constructor(hub: string, directory: string, shared: boolean, via?: RemoteVia) {
    this.hub = hub;
    this.#channel = via ? new RemoteChannel(hub, via) : new SocketChannel(hub, directory, shared);
  }

  /**
   * Sends a request to the control plane: an object as JSON, or bytes.
   *
   * @throws (rejects) {HubError} with the hub's status and code, or without them when the hub does not respond. A body above the
   * hub's limit is not sent: status 413, code `PAYLOAD_TOO_LARGE`. `PERMISSION_DENIED`, `RESOURCE`: the runtime directory cannot
   * be used; nothing was sent.
   */
  async call<T>(path: string, body?: object): Promise<T> {
    const sent = body instanceof Uint8Array || body === undefined ? (body ?? null) : JSON.stringify(body);
    const bytes = sent === null ? 0 : Buffer.byteLength(sent);
    if (bytes > CONTROL_LIMIT) {
      const what = path === REGISTER_PATH ? "registration" : "event";
      throw new HubError(`The ${what} is ${bytes} bytes as JSON; hub "${this.hub}" accepts at most ${CONTROL_LIMIT}.`, {
        status: 413,
        reason: "PAYLOAD_TOO_LARGE",
        hint:
          what === "event"
            ? "Send a smaller event, or a URL of the data."
            : "Register fewer routes, or split them between two workers.",
      });
    }
    const type = typeof sent === "string" ? "application/json" : "application/octet-stream";
    let response: Response;
    try {
      response = await this.#channel.send(path, sent, type);
    } catch (cause) {
      if (cause instanceof SlotbusError && !cause.retryable) throw cause; // nothing was sent
      const { hint } = this.#channel;
      const mayHaveExecuted = this.#channel.wasSent(cause);
      throw new HubError(`Hub "${this.hub}" does not respond.`, { cause, hint, retryable: true, mayHaveExecuted });
    }
    const answer = ((await response.json().catch(() => null)) ?? {}) as { error?: string; code?: string };
    if (response.ok) return answer as T;
    const { status } = response;
    throw new HubError(answer.error ?? `Hub "${this.hub}" responded with status ${status}.`, {
      status,
      reason: answer.code ?? "",
      retryable: status >= 500,
    });
  }

  close(): Promise<void> {
    return this.#channel.close();
  }
}

/** Whether a hub process that is closing has refused the request. Another process of the hub may accept it. */
async function isClosing(response: Response): Promise<boolean> {
  if (response.status !== 503) return false;
  const { code } = (await response
    .clone()
    .json()
    .catch(() => ({}))) as { code?: unknown };
  return code === "CLOSING";
}
