/** Sends events from a worker to clients of its hub. */

import type { HubClient } from "./client.ts";

/**
 * Sends events to clients of the hub. Each method resolves to the number of clients that the event was sent to, and rejects with
 * `HubError` when the hub refuses the event or does not respond.
 */
export class HubEmitter {
  /** Value of `source` in every event of {@link emit}. */
  readonly source: string;
  readonly #client: HubClient;

  /** @internal */
  constructor(client: HubClient, source: string) {
    this.#client = client;
    this.source = source;
  }

  /** Sends an event to all clients of `GET /events`. Data that is not a string is sent as JSON. */
  emit(type: string, data: unknown): Promise<number> {
    return this.#send("/internal/emit", { source: this.source, event_type: type, data: textOf(data) });
  }

  /** Sends an event to all clients of one path; its route must be an event stream (`sse()`). */
  ssePush(path: string, type: string, data: unknown): Promise<number> {
    return this.#send("/internal/sse-push", { path, event_type: type, data: textOf(data) });
  }

  /** Sends an event to the clients of a route whose parameters have these values. Parameters left out match any value. */
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
