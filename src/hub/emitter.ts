/** Events from a worker to the clients of its hub. */

import type { HubClient } from "./client.ts";

/** Each call rejects with `HubError` when the hub refuses it or does not answer; else it says how many clients were given it. */
export class HubEmitter {
  /** Named in every event of {@link emit}. */
  readonly source: string;
  readonly #client: HubClient;

  /** @internal */
  constructor(client: HubClient, source: string) {
    this.#client = client;
    this.source = source;
  }

  /** To all clients of `GET /events`. What is no text is sent as JSON. */
  emit(type: string, data: unknown): Promise<number> {
    return this.#send("/internal/emit", { source: this.source, event_type: type, data: textOf(data) });
  }

  /** To all clients of one path of a route of server-sent events. */
  ssePush(path: string, type: string, data: unknown): Promise<number> {
    return this.#send("/internal/sse-push", { path, event_type: type, data: textOf(data) });
  }

  /** To the clients of such a route whose parameters have these values; those that are not named may have any. */
  ssePushByPattern(
    pattern: string,
    params: Readonly<Record<string, string>>,
    type: string,
    data: unknown,
  ): Promise<number> {
    return this.#send("/internal/sse-push", { pattern, params, event_type: type, data: textOf(data) });
  }

  async #send(path: string, body: object): Promise<number> {
    const { delivered } = await this.#client.call<{ delivered: number }>(path, body);
    return delivered;
  }
}

function textOf(data: unknown): string {
  return typeof data === "string" ? data : (JSON.stringify(data) ?? "null");
}
