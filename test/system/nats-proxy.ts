/** A network between a NATS client and its server that loses what a check says. */

import { connect as dial, createServer, type Server, type Socket } from "node:net";

/** A proxy to a server. `deafen`: bytes of the server are dropped, and the connection is cut at the first of them. */
export class Proxy implements AsyncDisposable {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  #isDeaf = false;
  cuts = 0;

  private constructor(port: number) {
    this.#server = createServer((client) => {
      const server = dial(port, "127.0.0.1");
      this.#sockets.add(client).add(server);
      client.on("data", (bytes) => server.write(bytes));
      server.on("data", (bytes) => {
        if (!this.#isDeaf) return void client.write(bytes);
        this.#isDeaf = false;
        this.cuts++;
        client.destroy();
      });
      const end = (): void => {
        client.destroy();
        server.destroy();
        this.#sockets.delete(client);
        this.#sockets.delete(server);
      };
      for (const socket of [client, server]) socket.on("close", end).on("error", end);
    });
  }

  static async to(port: number): Promise<Proxy> {
    const proxy = new Proxy(port);
    await new Promise<void>((resolve) => proxy.#server.listen(0, "127.0.0.1", resolve));
    return proxy;
  }

  get url(): string {
    return `nats://127.0.0.1:${(this.#server.address() as { port: number }).port}`;
  }

  /** Drops the next bytes of the server, and with them the connection. */
  deafen(): void {
    this.#isDeaf = true;
  }

  /** Cuts all connections. */
  cut(): void {
    this.cuts++;
    for (const socket of this.#sockets) socket.destroy();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}
