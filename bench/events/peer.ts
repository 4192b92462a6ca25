/** A subscriber of a system: `bun peer.ts ROLE ORDER` counts received events until its parent ends. */

import type { Cursor } from "../../src/fleet/ring.ts";
import type { Introduction } from "../systems.ts";
import { FLEETS, type Order, RING, TOPICS } from "./names.ts";
import { type Item, Tally } from "./tally.ts";

const [role, text = ""] = process.argv.slice(2);
const { address, tallies, subscriber } = JSON.parse(text) as Order;
const poll = new Tally(tallies, "poll", subscriber);
const items = new Tally(tallies, "for-await", subscriber);
/** Maximum number of events per poll. */
const BATCH = 1_024;

function introduce(): void {
  process.send!({ pid: process.pid, isMainThread: Bun.isMainThread, address: "" } satisfies Introduction);
}

/** Polls until there are no more events, then sleeps. */
async function pollAll(cursor: Cursor): Promise<void> {
  const count = (item: ReturnType<Cursor["poll"]>[number]): void => {
    if ("body" in item) poll.addBytes(item.body);
    else if ("overwritten" in item) poll.tell(item.overwritten);
  };
  for (;;) {
    const batch = cursor.poll(BATCH);
    for (const item of batch) count(item);
    if (batch.length > 0) continue;
    const step = await cursor.next();
    if (step.done) return;
    count(step.value);
  }
}

process.on("disconnect", () => process.exit());

switch (role) {
  case "slotbus": {
    const { Fleet } = await import("../../src/fleet/fleet.ts");
    const { EventBus, topic } = await import("../../src/events/index.ts");
    const raw = await Fleet.join({ name: FLEETS.poll });
    const typed = await Fleet.join({ name: FLEETS["for-await"] });
    const bus = await EventBus.open({ fleet: typed, ring: RING });
    const subscription = bus.subscribe(topic(TOPICS["for-await"]), { queue: { limit: 0 } });
    void pollAll(raw.ring(RING).cursor());
    introduce();
    for await (const event of subscription) {
      if (event.topic === null) items.tell(event.overwritten + event.dropped);
      else items.addItem(event.payload as Item);
    }
    break;
  }
  case "reader": {
    // Attached, but never asleep in the ring: it polls once per millisecond.
    const { Fleet } = await import("../../src/fleet/fleet.ts");
    const cursor = (await Fleet.join({ name: address })).ring(RING).cursor();
    setInterval(() => cursor.poll(64), 1);
    introduce();
    break;
  }
  case "redis": {
    const client = new Bun.RedisClient(address);
    await client.subscribe(TOPICS.poll, (message) => poll.addText(message));
    await client.subscribe(TOPICS["for-await"], (message) => items.addItem(JSON.parse(message) as Item));
    introduce();
    break;
  }
  case "nats": {
    const { connect } = await import("@nats-io/transport-node");
    const connection = await connect({ servers: address });
    connection.subscribe(TOPICS.poll, { callback: (_, message) => poll.addBytes(message.data) });
    const subscription = connection.subscribe(TOPICS["for-await"]);
    await connection.flush();
    introduce();
    for await (const message of subscription) items.addItem(message.json<Item>());
    break;
  }
  case "bun-ipc":
    process.on("message", (message) => {
      if (message instanceof Uint8Array) poll.addBytes(message);
      else items.addItem(message as Item);
    });
    introduce();
    break;
  default:
    throw new Error(`unknown role "${role}"`);
}
