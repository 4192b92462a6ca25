/** What a worker says to its hub: JSON over HTTP on the hub's control socket. */

import { join } from "node:path";
import { HubError } from "../errors.ts";
import { controlSocketOf } from "./names.ts";

const TIMEOUT_MS = 5_000;
/** Codes of errors of who asks where nobody listens. */
const NOBODY: ReadonlySet<unknown> = new Set(["ENOENT", "ECONNREFUSED"]);

export class HubClient {
  readonly hub: string;
  readonly #socket: string;

  constructor(hub: string, directory: string) {
    this.hub = hub;
    this.#socket = join(directory, controlSocketOf(hub));
  }

  /** @throws (rejects) {HubError} with the hub's status and code, or without when it does not answer. */
  async call<T>(path: string, body?: object): Promise<T> {
    let response: Response;
    try {
      response = await fetch(`http://hub${path}`, {
        unix: this.#socket,
        method: body ? "POST" : "GET",
        body: body ? JSON.stringify(body) : null,
        headers: body ? { "content-type": "application/json" } : {},
        signal: AbortSignal.timeout(TIMEOUT_MS),
      });
    } catch (cause) {
      const hint = `Its socket is ${this.#socket}: is a hub of that name running there?`;
      const mayHaveExecuted = !NOBODY.has((cause as { code?: unknown }).code);
      throw new HubError(`hub "${this.hub}" does not answer.`, { cause, hint, retryable: true, mayHaveExecuted });
    }
    const answer = (await response.json().catch(() => ({}))) as { error?: string; code?: string };
    if (response.ok) return answer as T;
    const { status } = response;
    throw new HubError(answer.error ?? `hub "${this.hub}" answered ${status}.`, {
      status,
      reason: answer.code ?? "",
      retryable: status >= 500,
    });
  }
}
