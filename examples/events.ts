// Events: every subscriber in every process gets each published event. `bun examples/events.ts`
import { and, equals, EventBus, Fleet, topic } from "slotbus/events";

await using fleet = await Fleet.join({ name: "orders", rings: { events: { frames: 4_096 } } });
await using bus = await EventBus.open<{ "order.paid": { id: number }; "order.sent": { id: number } }>({
  fleet,
  ring: "events",
});

const german = bus.subscribe(and(topic("order.*"), equals("country", "de"))); // runs before the payload is decoded
bus.publish("order.paid", { id: 7 }, { attributes: { country: "de" } }); // from any process of the fleet
bus.publish("order.sent", { id: 7 }, { attributes: { country: "de" } });

for await (const event of german) {
  if (event.topic === null) console.log(`missed ${event.overwritten + event.dropped} events`);
  else console.log(event.topic, event.payload.id);
  if (event.topic === "order.sent") break;
}
