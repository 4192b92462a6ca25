/** How to test code that uses a bus: `bun test examples/shop.test.ts`. */

import { expect, test } from "bun:test";
import { WorkerDiedError } from "slotbus";
import { assertNoLeaks, crashWorker, TestBus } from "slotbus/testing";

test("a worker greets", async () => {
  await using shop = await TestBus.create();
  await shop.worker((request) => `hello ${request.text()}`);
  const response = await shop.bus.request({ path: "/hello", body: "Ada" });
  expect(response.text()).toBe("hello Ada");
});

test("a request whose worker is killed rejects with WorkerDiedError, and leaves nothing behind", async () => {
  await assertNoLeaks(async () => {
    await using shop = await TestBus.create();
    await shop.spawn(new URL("./shop-worker.ts", import.meta.url));
    const answer = shop.bus.request({ path: "/slow" }).catch((error: unknown) => error);
    await shop.bus.request({ path: "/quick" }); // requests start in order, so the slow one is running now
    await crashWorker(shop.bus);
    expect(await answer).toBeInstanceOf(WorkerDiedError);
  });
});
