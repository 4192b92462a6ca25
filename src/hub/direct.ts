/** What the control plane can do to a hub that is one process. The processes of a shared hub do the same through their group. */

import type { StreamEvent } from "./event-log.ts";
import type { Registrant, RouteRequest } from "./names.ts";
import type { Registry } from "./registry.ts";
import type { Sockets } from "./sockets.ts";
import type { EventStreams } from "./sse.ts";

/** Actions of the control plane. Each throws, or rejects, with a `Failure` or an `InvalidConfigError`. */
export interface Actions {
  /** `again`: the worker was registered before. */
  register(
    name: string,
    routes: readonly RouteRequest[],
    process: Registrant,
    again: boolean,
  ): Promise<{ readonly id: string; readonly bus: string }>;
  unregister(id: string): Promise<boolean>;
  /** The methods that send an event return the number of its clients. */
  emit(source: string, type: string, data: string): Promise<number>;
  push(path: string, event: StreamEvent): Promise<number>;
  pushByPattern(pattern: string, params: Readonly<Record<string, string>>, event: StreamEvent): Promise<number>;
  /** Carries out commands for the WebSockets of a worker name. */
  command(worker: string, commands: Uint8Array): Promise<void>;
}

export class Direct implements Actions {
  readonly #registry: Registry;
  readonly #streams: EventStreams;
  readonly #sockets: Sockets;

  constructor(registry: Registry, streams: EventStreams, sockets: Sockets) {
    this.#registry = registry;
    this.#streams = streams;
    this.#sockets = sockets;
  }

  async register(name: string, routes: readonly RouteRequest[], process: Registrant, again: boolean) {
    const registered = await this.#registry.register(name, routes, process);
    if (again) this.#registry.someReturned = true;
    return registered;
  }

  async unregister(id: string): Promise<boolean> {
    return this.#registry.unregister(id);
  }

  async emit(source: string, type: string, data: string): Promise<number> {
    return this.#streams.emit(source, type, data);
  }

  async push(path: string, event: StreamEvent): Promise<number> {
    return this.#streams.push(path, event);
  }

  async pushByPattern(pattern: string, params: Readonly<Record<string, string>>, event: StreamEvent): Promise<number> {
    return this.#streams.pushByPattern(pattern, params, event);
  }

  async command(worker: string, commands: Uint8Array): Promise<void> {
    this.#sockets.command(worker, commands);
  }
}
