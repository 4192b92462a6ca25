/** The control plane over NATS: the hub is the worker of the bus that has its name, and its workers are the clients of that bus. */

import type { RemoteVia } from "../bus/via.ts";
import { BusExistsError, NotReadyError } from "../errors.ts";
import { type PortableBus, SlotBus } from "../slotbus.ts";
import { type PortableWorker, SlotWorker } from "../slot-worker.ts";
import { CONTROL_LIMIT, type ControlChannel } from "./names.ts";

/** Time in which another hub of the same name shows itself, in ms. */
const TWIN_MS = 300;
/** Time in which a worker finds its hub, in ms. */
const FIND_MS = 1_000;
/** Time for the requests that run when the hub closes, in ms. */
const GRACE_MS = 1_000;
const TIMEOUT_MS = 5_000;

/** The side of the hub. */
export class RemoteControl {
  readonly #bus: PortableBus;
  readonly #worker: PortableWorker;

  /**
   * Answers requests from now on. `shared`: other processes answer too.
   *
   * @throws (rejects) {BusExistsError}; `DISCONNECTED`; `PERMISSION_DENIED`
   */
  static async open(
    { name, shared }: { name: string; shared: boolean },
    via: RemoteVia,
    answer: (request: Request) => Promise<Response>,
  ): Promise<RemoteControl> {
    const bus = await SlotBus.connect({ name, via });
    try {
      if (!shared && (await hasWorker(bus))) throw new BusExistsError(name, 0);
      const worker = await SlotWorker.open({ name, via }); // finds `bus`
      return new RemoteControl(bus, worker.serve({ fetch: answer }));
    } catch (error) {
      await bus.close({ timeout: 0 });
      throw error;
    }
  }

  private constructor(bus: PortableBus, worker: PortableWorker) {
    this.#bus = bus;
    this.#worker = worker;
  }

  /** Takes no more requests, and answers those that run. */
  async close(): Promise<void> {
    await this.#worker.close({ timeout: GRACE_MS });
    await this.#bus.close({ timeout: 0 });
  }
}

async function hasWorker(bus: PortableBus): Promise<boolean> {
  try {
    await bus.ready({ timeout: TWIN_MS });
    return true;
  } catch (error) {
    if (error instanceof NotReadyError) return false;
    throw error;
  }
}

/** The side of a worker. */
export class RemoteChannel implements ControlChannel {
  readonly hint: string;
  readonly #hub: string;
  readonly #via: RemoteVia;
  #bus: Promise<PortableBus> | null = null;

  constructor(hub: string, via: RemoteVia) {
    this.#hub = hub;
    this.#via = via;
    this.hint = "Start the hub with the same `via`, or correct the hub's name or the address of the server.";
  }

  async send(path: string, body: string | Uint8Array | null, type: string): Promise<Response> {
    this.#bus ??= this.#connect();
    const bus = await this.#bus;
    if (bus.workers.length === 0) await bus.ready({ timeout: FIND_MS });
    return bus.fetch(path, {
      method: body === null ? "GET" : "POST",
      body: body as Uint8Array<ArrayBuffer> | string | null,
      headers: body === null ? {} : { "content-type": type },
      timeout: TIMEOUT_MS,
      waitForWorker: false,
    });
  }

  async #connect(): Promise<PortableBus> {
    try {
      return await SlotBus.connect({ name: this.#hub, via: this.#via, payloadBytes: CONTROL_LIMIT });
    } catch (error) {
      this.#bus = null; // the next call tries again
      throw error;
    }
  }

  wasSent(error: unknown): boolean {
    return (error as { mayHaveExecuted?: unknown }).mayHaveExecuted === true;
  }

  async close(): Promise<void> {
    const bus = await this.#bus?.catch(() => null);
    await bus?.close({ timeout: 0 });
  }
}
