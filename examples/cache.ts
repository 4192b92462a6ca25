// Cache invalidation: a process that changes a value publishes its key; all caches drop it. `bun examples/cache.ts`
import { EventBus, Fleet, topic } from "slotbus/events";

interface Topics {
  "cache.invalid": { key: string };
  "cache.bye": undefined;
}

await using fleet = await Fleet.join({ name: "cache", rings: { events: { frames: 1_024, frameBytes: 256 } } });
await using bus = await EventBus.open<Topics>({ fleet, ring: "events" });

if (process.argv[2] === "reader") {
  const cache = new Map([["user:7", "Ada"]]);
  const events = bus.subscribe(topic("cache.*"));
  process.send!("subscribed");
  for await (const event of events) {
    if (event.topic === null)
      cache.clear(); // a gap: events were lost, so any entry may be stale
    else if (event.topic === "cache.bye") break;
    else if (cache.delete(event.payload.key)) console.log(`process ${process.pid} forgets ${event.payload.key}`);
  }
} else {
  const started: Promise<void>[] = [];
  const readers = [1, 2].map(() => {
    const { promise, resolve } = Promise.withResolvers<void>();
    started.push(promise);
    return Bun.spawn([process.execPath, import.meta.path, "reader"], {
      stdio: ["ignore", "inherit", "inherit"],
      ipc: () => resolve(),
    });
  });
  await Promise.all(started);
  bus.publish("cache.invalid", { key: "user:7" });
  bus.publish("cache.bye", undefined);
  await Promise.all(readers.map(({ exited }) => exited));
}
