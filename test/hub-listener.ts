/** A client of event streams, for tests of the hub. */

import { expect } from "bun:test";
import { until } from "./support.ts";

interface Event {
  id: string;
  event: string;
  data: string;
}

/** A client of an event stream that records its events. */
export class Listener {
  readonly events: Event[] = [];
  comments = 0;
  ended = false;
  readonly #controller = new AbortController();

  static async open(hub: { readonly url: URL | null }, path: string, lastId?: string): Promise<Listener> {
    const listener = new Listener();
    const headers: Record<string, string> = lastId === undefined ? {} : { "last-event-id": lastId };
    const response = await fetch(new URL(path, hub.url!), { headers, signal: listener.#controller.signal });
    expect(response.headers.get("content-type")).toBe("text/event-stream; charset=utf-8");
    void listener.#read(response);
    await until(() => listener.comments > 0 || listener.events.length > 0, "the stream begins");
    return listener;
  }

  get data(): string[] {
    return this.events.map(({ data }) => data);
  }

  close(): void {
    this.#controller.abort();
  }

  async #read(response: Response): Promise<void> {
    let text = "";
    try {
      for await (const chunk of response.body!.pipeThrough(new TextDecoderStream())) {
        text += chunk;
        for (let end = text.indexOf("\n\n"); end >= 0; end = text.indexOf("\n\n")) {
          this.#take(text.slice(0, end));
          text = text.slice(end + 2);
        }
      }
    } catch {}
    this.ended = true;
  }

  #take(block: string): void {
    if (block.startsWith(":")) {
      this.comments++;
      return;
    }
    const field = (name: string): string =>
      block
        .split("\n")
        .filter((line) => line.startsWith(`${name}: `))
        .map((line) => line.slice(name.length + 2))
        .join("\n");
    this.events.push({ id: field("id"), event: field("event"), data: field("data") });
  }
}
