/** Shared by the tests of the hub: a hub, its workers in their own processes, and ways to call it. */

import { connect } from "node:net";
import { HubClient } from "../src/hub/client.ts";
import {
  Hub,
  HubEmitter,
  type HubOptions,
  type HubRoutes,
  HubWorker,
  type HubWorkerOptions,
} from "../src/hub/index.ts";
import { Child, Workspace } from "./support.ts";

/** A hub on a free port, and workers that end with it. */
export class Stage implements AsyncDisposable {
  readonly workspace = new Workspace();
  readonly workers: Child[] = [];
  hub!: Hub;

  static async open(options: HubOptions = {}): Promise<Stage> {
    const stage = new Stage();
    await stage.start(options);
    return stage;
  }

  async start(options: HubOptions = {}): Promise<void> {
    this.hub = await Hub.start({ port: 0, directory: this.workspace.directory, ...options });
  }

  async worker(name = "w", routes: string[] = [], hub = "hub"): Promise<Child> {
    const args = [hub, name, this.workspace.directory, JSON.stringify(routes)];
    const child = new Child("hub-worker.ts", args, {});
    this.workers.push(child);
    await child.line("connected");
    return child;
  }

  fetch(path: string, init?: RequestInit): Promise<Response> {
    return fetch(new URL(path, this.hub.url!), init);
  }

  /** Starts a worker in this process. */
  serve<P extends string>(routes: HubRoutes<P>, options: Partial<HubWorkerOptions> = {}): Promise<HubWorker> {
    return HubWorker.start({ name: "w", directory: this.workspace.directory, ...options, routes });
  }

  /** Sends events, without a worker. */
  emitter(source = "test"): HubEmitter {
    return new HubEmitter(this.client(), source);
  }

  client(): HubClient {
    return new HubClient("hub", this.workspace.directory, true);
  }

  /** The server's answer to raw bytes. */
  raw(text: string, ms = 1_000): Promise<string> {
    const { promise, resolve } = Promise.withResolvers<string>();
    let answer = "";
    const socket = connect(Number(this.hub.url!.port), "127.0.0.1", () => socket.write(text));
    const timer = setTimeout(() => socket.destroy(), ms);
    socket.on("data", (data) => (answer += data.toString("latin1")));
    socket.on("close", () => {
      clearTimeout(timer);
      resolve(answer);
    });
    socket.on("error", () => {}); // `close` follows
    return promise;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.hub.close({ timeout: 0 });
    for (const worker of this.workers) await worker.kill();
    await this.workspace[Symbol.asyncDispose]();
  }
}
