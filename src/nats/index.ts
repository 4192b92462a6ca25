/** `slotbus/nats`: the same bus, events and claims over a NATS server, between many machines. */

import type { NatsConnection, NodeConnectionOptions } from "@nats-io/transport-node";
import type { RemoteVia } from "../bus/via.ts";
import { checkOptions } from "../check.ts";
import { isConnection, NatsLink } from "./link.ts";
import { checkPrefix, DEFAULT_PREFIX } from "./subjects.ts";

/** Options of the NATS client and of slotbus. */
export type NatsOptions = NodeConnectionOptions & {
  /** First tokens of all subjects. Default `"slotbus"`. */
  prefix?: string | undefined;
};

/** A NATS server, as {@link nats} returns it. */
export interface NatsVia extends RemoteVia {
  /** @internal */
  readonly link: NatsLink;
  /** @internal Id of the worker that is opened with it; a new one by default. */
  readonly instance?: string;
}

const load = (): Promise<typeof import("@nats-io/transport-node")> => import("@nats-io/transport-node");

/**
 * A NATS server instead of this machine's memory: the option `via` of `SlotBus.connect` and `SlotWorker.open`. Takes the options of
 * `connect` of `@nats-io/transport-node`, or a connection, which you close yourself. All that get the same value share one connection.
 *
 *     const via = nats({ servers: "nats://10.0.0.5" });
 *     await using bus = await SlotBus.connect({ name: "shop", via });
 *
 * @throws {InvalidConfigError}
 */
export function nats(given: NatsOptions | NatsConnection = {}): NatsVia {
  if (isConnection(given)) return { wire: "nats", link: new NatsLink(given, DEFAULT_PREFIX, load) };
  const { prefix = DEFAULT_PREFIX, ...options } = checkOptions("nats()", given);
  return { wire: "nats", link: new NatsLink(options, checkPrefix(prefix), load) };
}

export * from "../errors.ts";
