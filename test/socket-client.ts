/** A WebSocket client of the tests: keeps what it received, and how it was closed. */

import { until } from "./support.ts";

export class SocketClient {
  readonly ws: WebSocket;
  readonly messages: (string | Uint8Array)[] = [];
  closed: { code: number; reason: string } | null = null;

  private constructor(url: URL | string, options: Bun.WebSocketOptions) {
    this.ws = new WebSocket(url, options);
    this.ws.binaryType = "nodebuffer";
    this.ws.addEventListener("message", ({ data }) => void this.messages.push(data as string));
    this.ws.addEventListener("close", ({ code, reason }) => (this.closed = { code, reason }));
  }

  /** Resolves when the connection is open. @throws (rejects) when it was refused, with the status in the message. */
  static async open(hub: { readonly url: URL | null }, path: string, options: Bun.WebSocketOptions = {}) {
    const url = new URL(path, hub.url!);
    url.protocol = "ws:";
    const client = new SocketClient(url, options);
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    client.ws.addEventListener("open", () => resolve());
    client.ws.addEventListener("error", (event) => reject(new Error((event as ErrorEvent).message)));
    await promise;
    return client;
  }

  send(message: string | Uint8Array<ArrayBuffer>): void {
    this.ws.send(message);
  }

  /** Resolves when this many messages have arrived. */
  async received(count: number, ms = 10_000): Promise<(string | Uint8Array)[]> {
    await until(() => this.messages.length >= count, `${count} messages`, ms);
    return this.messages;
  }

  async end(): Promise<{ code: number; reason: string }> {
    await until(() => this.closed !== null, "the connection is closed");
    return this.closed!;
  }

  close(): void {
    this.ws.close(1_000);
  }
}
