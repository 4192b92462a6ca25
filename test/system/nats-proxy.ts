/** A proxy in front of a server that cuts all connections, or lets no bytes through for a while. */

import { connect, createServer, type Server, type Socket } from "node:net";

export class Proxy implements AsyncDisposable {
  readonly #server: Server;
  readonly #pairs = new Set<[Socket, Socket]>();
  #isStuck = false;
  #isDeaf = false;
  /** Number of answers that {@link deafen} has lost. */
  lost = 0;

  private constructor(target: number) {
    this.#server = createServer((near) => {
      const far = connect(target, "127.0.0.1");
      const pair: [Socket, Socket] = [near, far];
      this.#pairs.add(pair);
      for (const [one, other] of [pair, [far, near]] as const) {
        one.setNoDelay(true);
        one.on("data", (bytes) => {
          if (one === far && this.#isDeaf) this.#cutDeaf();
          else other.write(bytes);
        });
        one.on("error", () => {});
        one.on("close", () => {
          this.#pairs.delete(pair);
          other.destroy();
        });
        if (this.#isStuck) one.pause();
      }
    });
  }

  static async start(target: number, host = "127.0.0.1"): Promise<Proxy> {
    const proxy = new Proxy(target);
    const { promise, resolve } = Promise.withResolvers<void>();
    proxy.#server.listen(0, host, resolve);
    await promise;
    return proxy;
  }

  get url(): string {
    return `nats://127.0.0.1:${(this.#server.address() as { port: number }).port}`;
  }

  /** Cuts all connections. */
  cut(): void {
    for (const pair of this.#pairs) for (const socket of pair) socket.destroy();
  }

  /** Loses the next bytes of the server, and with them all connections. */
  deafen(): void {
    this.#isDeaf = true;
  }

  #cutDeaf(): void {
    this.#isDeaf = false;
    this.lost++;
    this.cut();
  }

  /** Lets no bytes through until {@link flow}. */
  stick(): void {
    this.#isStuck = true;
    for (const pair of this.#pairs) for (const socket of pair) socket.pause();
  }

  flow(): void {
    this.#isStuck = false;
    for (const pair of this.#pairs) for (const socket of pair) socket.resume();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.cut();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}
