/** A hub and a worker in their own processes, and raw bytes: for tests of what HTTP clients may do to them. */

import { readFileSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { HubClient } from "../src/hub/client.ts";
import type { HubOptions } from "../src/hub/index.ts";
import { Child, until, Workspace } from "./support.ts";
import { within } from "./wait.ts";

/** A connection that records the bytes it receives. */
export class Wire {
  readonly socket: Socket;
  text = "";
  /** Whether the other side has ended it. */
  ended = false;

  constructor(port: number) {
    this.socket = connect(port, "127.0.0.1");
    this.socket.on("data", (data) => (this.text += data.toString("latin1")));
    for (const event of ["end", "close", "error"]) this.socket.on(event, () => (this.ended = true));
  }

  send(text: string): this {
    if (!this.ended) this.socket.write(text, "latin1");
    return this;
  }

  /** Status of the first answer; 0 when there is none yet. */
  get status(): number {
    return Number(/^HTTP\/1\.1 (\d+) /.exec(this.text)?.[1] ?? 0);
  }

  /** Statuses of all answers, in order. */
  get statuses(): number[] {
    return [...this.text.matchAll(/HTTP\/1\.1 (\d{3}) /g)].map(([, status]) => Number(status));
  }

  async answered(ms?: number): Promise<number> {
    await until(() => this.status > 0 || this.ended, "an answer", ms);
    return this.status;
  }

  close(): void {
    this.socket.destroy();
  }
}

/** A correct `GET path`. */
export const get = (path: string): string => `GET ${path} HTTP/1.1\r\nHost: h\r\n\r\n`;

/** `POST path` with these header lines and this body. */
export const post = (path: string, headers: readonly string[], rest: string): string =>
  `POST ${path} HTTP/1.1\r\nHost: h\r\n${headers.map((line) => `${line}\r\n`).join("")}\r\n${rest}`;

export class Wires implements AsyncDisposable {
  readonly workspace = new Workspace();
  readonly #children: Child[] = [];
  readonly #wires: Wire[] = [];
  port = 0;
  hub!: Child;

  /** `shell` runs before the hub, in the same process. */
  static async open(options: HubOptions = {}, shell?: string): Promise<Wires> {
    const wires = new Wires();
    await wires.start(options, shell);
    return wires;
  }

  async start(options: HubOptions = {}, shell?: string): Promise<void> {
    const args = [this.workspace.directory, JSON.stringify(options)];
    this.hub = new Child("hub-server.ts", args, {}, shell);
    this.#children.push(this.hub);
    this.port = Number((await this.hub.line("listens")).split(" ")[1]);
  }

  async worker(): Promise<Child> {
    const worker = new Child("hub-witness.ts", [this.workspace.directory], {});
    this.#children.push(worker);
    await worker.line("connected");
    return worker;
  }

  /** Sends bytes on a new connection. */
  send(text: string): Wire {
    const wire = new Wire(this.port).send(text);
    this.#wires.push(wire);
    return wire;
  }

  /** Sends bytes on a new connection, returns the answer's status and closes the connection. */
  async status(text: string, ms?: number): Promise<number> {
    const wire = this.send(text);
    const status = await wire.answered(ms);
    wire.close();
    return status;
  }

  /** Resident memory that only the hub uses, in MiB. */
  get memory(): number {
    const status = readFileSync(`/proc/${this.hub.pid}/status`, "utf8");
    return Number(/RssAnon:\s+(\d+) kB/.exec(status)![1]) / 1_024;
  }

  client(): HubClient {
    return new HubClient("hub", this.workspace.directory, true);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const wire of this.#wires) wire.close();
    for (const child of this.#children.reverse()) {
      child.process.kill("SIGTERM");
      await within(child.process.exited, 8_000);
      await child.kill();
    }
    await this.workspace[Symbol.asyncDispose]();
  }
}
