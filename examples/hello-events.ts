// Events: publish to all subscribers. `bun examples/hello-events.ts`
import { EventBus, Fleet, topic } from "slotbus/events";

await using fleet = await Fleet.join({ name: "hello", rings: { events: {} } });
await using events = await EventBus.open<{ hello: { name: string } }>({ fleet, ring: "events" });
const greetings = events.subscribe(topic("hello"), { queue: { limit: 8, policy: "drop-oldest" } });
events.publish("hello", { name: "Ada" });

for await (const event of greetings) {
  if (event.topic === "hello") console.log("hello", event.json<{ name: string }>().name, events.closed);
  break;
}
