/** What a worker says to its hub: JSON over HTTP on the hub's control socket. */

import { join } from "node:path";
import { checkDirectory } from "../native/directory.ts";
import { HubError } from "../errors.ts";
import { CONTROL_LIMIT, controlSocketOf } from "./names.ts";

const REGISTER_PATH = "/internal/register";
const TIMEOUT_MS = 5_000;
/** Codes of errors of who asks where nobody listens. */
const NOBODY: ReadonlySet<unknown> = new Set(["ENOENT", "ECONNREFUSED"]);

export class HubClient {
  readonly hub: string;
  readonly #directory: string;
  readonly #shared: boolean;
  readonly #socket: string;

  /** `shared`: the directory was named, so it may belong to another user. */
  constructor(hub: string, directory: string, shared: boolean) {
    this.hub = hub;
    this.#directory = directory;
    this.#shared = shared;
    this.#socket = join(directory, controlSocketOf(hub));
  }

  /**
   * Sends a request to the control socket.
   *
   * @throws (rejects) {HubError} with the hub's status and code, or without when it does not answer. A body above the limit of the
   * hub is not sent: status 413, code `PAYLOAD_TOO_LARGE`. `PERMISSION_DENIED`, `RESOURCE`: the runtime directory cannot
   * be used; nothing is sent.
   */
  async call<T>(path: string, body?: object): Promise<T> {
    const json = body ? JSON.stringify(body) : null;
    const bytes = json === null ? 0 : Buffer.byteLength(json);
    if (bytes > CONTROL_LIMIT) {
      const what = path === REGISTER_PATH ? "registration" : "event";
      throw new HubError(`the ${what} is ${bytes} bytes as JSON; hub "${this.hub}" takes at most ${CONTROL_LIMIT}.`, {
        status: 413,
        reason: "PAYLOAD_TOO_LARGE",
        hint:
          what === "event"
            ? "Send a smaller event, or a URL to the data."
            : "Register fewer routes, or split the worker.",
      });
    }
    // Another user's program could listen there, if that user had made the directory first.
    checkDirectory(this.#directory, { shared: this.#shared });
    let response: Response;
    try {
      response = await fetch(`http://hub${path}`, {
        unix: this.#socket,
        method: body ? "POST" : "GET",
        body: json,
        headers: body ? { "content-type": "application/json" } : {},
        signal: AbortSignal.timeout(TIMEOUT_MS),
      });
    } catch (cause) {
      const hint = `Its socket is ${this.#socket}: is a hub of that name running there?`;
      const mayHaveExecuted = !NOBODY.has((cause as { code?: unknown }).code);
      throw new HubError(`hub "${this.hub}" does not answer.`, { cause, hint, retryable: true, mayHaveExecuted });
    }
    const answer = ((await response.json().catch(() => null)) ?? {}) as { error?: string; code?: string };
    if (response.ok) return answer as T;
    const { status } = response;
    throw new HubError(answer.error ?? `hub "${this.hub}" answered ${status}.`, {
      status,
      reason: answer.code ?? "",
      retryable: status >= 500,
    });
  }
}
