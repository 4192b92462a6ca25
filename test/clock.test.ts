/** The time of day is changed while a bus runs: every timeout takes as long as before. */

import { afterEach, expect, setSystemTime, test } from "bun:test";
import { RequestTimeoutError } from "../src/index.ts";
import { rejection, Workspace } from "./support.ts";

const YEAR_MS = 365 * 86_400_000;

afterEach(() => void setSystemTime());

/** A body that arrives after a while. */
function lateStream(text: string): ReadableStream<Uint8Array> {
  return new ReadableStream({
    pull: async (controller) => {
      await Bun.sleep(20);
      controller.enqueue(new TextEncoder().encode(text));
      controller.close();
    },
  });
}

for (const [what, shift] of [
  ["a year ahead", YEAR_MS],
  ["a year back", -YEAR_MS],
] as const) {
  test(`a clock that is set ${what} changes no deadline and no timeout, and cuts no stream`, async () => {
    await using space = new Workspace();
    const { bus } = await space.pair(async (request) => {
      if (request.path === "/left") return { json: request.deadline - Date.now() };
      if (request.path === "/hang") return new Promise(() => {});
      return new Response(lateStream(Buffer.from(await request.incoming.bytes()).toString()));
    });
    const before = Date.now();
    setSystemTime(new Date(before + shift));
    expect(Math.abs(Date.now() - before - shift)).toBeLessThan(60_000); // the clock was set

    const left = (await bus.request({ path: "/left" }, { timeout: 5_000 })).json<number>();
    expect(left).toBeWithin(2_000, 5_002);
    const sent = { method: "POST", body: lateStream("late"), timeout: 5_000 };
    expect(await (await bus.fetch("/", sent)).text()).toBe("late");

    const start = performance.now();
    expect(await rejection(bus.request({ path: "/hang" }, { timeout: 100 }))).toBeInstanceOf(RequestTimeoutError);
    expect(performance.now() - start).toBeWithin(98, 5_000);
    const never = { method: "POST", body: new ReadableStream({ pull: () => new Promise(() => {}) }), timeout: 100 };
    expect(await rejection(bus.fetch("/", never))).toBeInstanceOf(RequestTimeoutError);
    expect(performance.now() - start).toBeWithin(196, 5_000);
  });
}

test("a clock that is set while a streamed body is collected does not change the request's timeout", async () => {
  await using space = new Workspace();
  const { bus } = await space.pair(async (request) => {
    await Bun.sleep(100); // longer than a request without time left would take
    return request.text();
  });
  const body = new ReadableStream<Uint8Array>({
    pull: (controller) => {
      setSystemTime(new Date(Date.now() + YEAR_MS));
      controller.enqueue(new TextEncoder().encode("set"));
      controller.close();
    },
  });
  expect(await (await bus.fetch("/", { method: "POST", body, timeout: 5_000 })).text()).toBe("set");
});
