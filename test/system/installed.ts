/** The installed package beyond the bus: its command, its launcher, its test helpers. */

import { accessSync, constants, existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Checks, expect, note, type Program, until } from "./checks.ts";
import { Consumer, outcome } from "./package.ts";

/** A program with a bus, a worker and a member of a fleet, which the commands read. */
const SHOP = `import { SlotBus, SlotWorker } from "slotbus";
import { EventBus, Fleet } from "slotbus/events";
import { Contest } from "slotbus/contest";
const bus = await SlotBus.create({ name: "shop" });
const worker = await SlotWorker.open({ name: "shop" });
worker.serve(() => "");
const fleet = await Fleet.join({ name: "crew", rings: { events: {} } });
const events = await EventBus.open({ fleet, ring: "events" });
(await Contest.open({ fleet })).tryClaim({ kind: "leader", label: "mailer" }, { ttl: 60_000, renew: true });
setInterval(() => events.publish("order.paid", { number: 7 }), 20);
setInterval(() => void bus.request({ path: "/" }), 5);
await bus.request({ path: "/" });
console.log("open");
process.stdin.on("end", async () => {
  await worker.close();
  await bus.close();
  await fleet.close();
  process.exit();
}).resume();
`;

/** A command line, its exit code, and a pattern of its output. */
type Expected = readonly [args: string, code: number, says: RegExp];

const ALONE: readonly Expected[] = [
  ["--version", 0, /^\d+\.\d+\.\d+\n$/],
  ["--help", 0, /doctor[\s\S]*bench[\s\S]*hub/],
  ["doctr", 2, /Did you mean doctor\?/],
  ["doctor", 0, /library +\S+ \(package, checksum ok\)[\s\S]*launcher +\S+ \(package, checksum ok\)/],
  ["ls", 0, /^There is nothing in /],
  ["stats", 3, /There is no bus in /],
  ["top nobody --once", 3, /There is no bus, hub or fleet named "nobody"/],
  ["clean", 0, /^There is nothing to clean/],
  ["bench --short", 0, /^slotbus +[\d.]+ /m],
  ["bench streams --short", 0, /^slotbus/m],
  ["bench events --short", 0, /^slotbus/m],
  ["bench contest --short", 0, /^slotbus/m],
  ["bench busy --short", 0, /^1 busy loop, one at a time$/m],
  ["bench many --short", 0, /^4 clients, 4 workers, 32 in flight of each client$/m],
];

const BESIDE_A_SHOP: readonly Expected[] = [
  ["ls", 0, /^shop +bus +alive[\s\S]*^crew +fleet +alive/m],
  ["top --once --interval 0.2", 0, /^bus shop[\s\S]*^fleet crew/m],
  ["top shop --once --json --interval 0.2", 0, /"requests_per_second": [1-9]/],
  ["stats shop", 0, /^responses +[\d,]+$/m],
  ["stats --prometheus", 0, /^slotbus_responses_total\{bus="shop"\} \d+$/m],
  ["events tail --count 2", 0, /order\.paid \{"number":7\}\n.*order\.paid/],
  ["claims ls", 0, /^leader mailer /m],
  ["claims release leader mailer --force", 0, /^Released/],
  ["clean --dry-run", 0, /^kept: bus shop \(it is alive\)\nkept: fleet crew \(it is alive\)\n$/],
];

async function commands(): Promise<void> {
  using consumer = await Consumer.installed();
  const slotbus = join(consumer.folder, "node_modules/.bin/slotbus");
  const tryAll = async (all: readonly Expected[]): Promise<void> => {
    for (const [args, code, says] of all) {
      const began = performance.now();
      const said = await outcome([slotbus, ...args.split(" ")], consumer.folder);
      expect(said.code === code && says.test(said.output), `slotbus ${args} ended with ${said.code}:\n${said.output}`);
      if (args.startsWith("bench")) note(`${args}: ${((performance.now() - began) / 1_000).toFixed(1)} s`);
    }
  };
  await tryAll(ALONE);
  consumer.write("shop.ts", SHOP);
  await using shop = consumer.start("shop.ts");
  await shop.expectLine("open");
  await tryAll(BESIDE_A_SHOP);
  await hub(consumer);
}

/** `slotbus hub` serves the packaged status page and ends in good order. */
async function hub(consumer: Consumer): Promise<void> {
  await using running = consumer.start("node_modules/.bin/slotbus", {}, "hub", "--port", "0", "--json");
  const { status } = JSON.parse(await running.line()) as { status: string };
  const page = await (await fetch(status)).text();
  expect(page.startsWith("<!doctype html>"), `the status page begins with ${page.slice(0, 80)}`);
  running.kill("SIGTERM");
  expect((await running.ended()) === 0, `the hub ended with ${await running.ended()}`);
}

/** A bus with a supervised worker that does not end with its bus. */
const HOST = `import { SlotBus } from "slotbus";
process.on("warning", ({ message }) => console.log("warning", message));
const bus = await SlotBus.create({ name: "app", workers: { entry: import.meta.dir + "/stays.ts", min: 1, max: 1 } });
bus.ref();
console.log("worker", bus.workers[0].pid);
`;
const STAYS = `import { SlotWorker } from "slotbus";
process.on("SIGTERM", () => {});
setInterval(() => {}, 60_000);
(await SlotWorker.open()).serve(() => "");
`;

const lives = (pid: number): boolean => existsSync(`/proc/${pid}`);

/** Kills the host of a supervised worker. Resolves to the worker's process id. */
async function killHost(consumer: Consumer, env: Record<string, string>): Promise<{ worker: number; warned: boolean }> {
  await using host: Program = consumer.start("host.ts", env);
  const line = await host.line();
  const warned = line.startsWith("warning");
  const worker = Number((warned ? await host.line() : line).replace("worker ", ""));
  expect(lives(worker), `there is no worker: ${line}`);
  host.kill("SIGKILL");
  await host.ended();
  return { worker, warned };
}

async function launcher(): Promise<void> {
  for (const install of [() => Consumer.installed(), () => Consumer.installedByNpm()]) {
    using consumer = await install();
    const path = join(consumer.package, `native/linux-${process.arch}/slotbus-launcher`);
    accessSync(path, constants.X_OK);
    consumer.write("host.ts", HOST);
    consumer.write("stays.ts", STAYS);
    const { worker, warned } = await killHost(consumer, {});
    expect(!warned, "there is no launcher");
    await until(() => !lives(worker), "the worker is gone", 2_000);
    const without = await killHost(consumer, { SLOTBUS_LAUNCHER: "" });
    expect(
      without.warned && lives(without.worker),
      "a worker ends without the launcher too, so its end proves nothing",
    );
    process.kill(without.worker, "SIGKILL");

    const bytes = readFileSync(path);
    rmSync(path); // not overwritten: Bun links it to its cache
    writeFileSync(path, bytes.subarray(0, -1), { mode: 0o755 });
    const said = await outcome([join(consumer.folder, "node_modules/.bin/slotbus"), "doctor"], consumer.folder);
    const says = /✗ launcher +\S+ differs from the packaged file: [\s\S]*→ Install slotbus again/;
    expect(said.code === 1 && says.test(said.output), `doctor ended with ${said.code}:\n${said.output}`);
  }
}

/** A test file of a user. */
const TESTS = `import { expect, test } from "bun:test";
import { Contest } from "slotbus/contest";
import { Fleet } from "slotbus/events";
import { assertNoLeaks, crashWorker, fakeClock, LeakError, TestBus } from "slotbus/testing";

test("a worker of the test responds, and nothing leaks", async () => {
  await assertNoLeaks(async () => {
    await using shop = await TestBus.create();
    await shop.worker(({ path }) => "hello " + path);
    expect((await shop.bus.request({ path: "/Ada" })).text()).toBe("hello /Ada");
  });
});

test("a crashed worker is an error of the request", async () => {
  await using shop = await TestBus.create();
  const { pid } = await shop.spawn(new URL("test-worker.ts", import.meta.url));
  const asked = shop.bus.request({ path: "/" });
  const failed = asked.catch((error) => error);
  while (shop.bus.diagnostics().slots.every(({ state }) => state !== "CLAIMED")) await Bun.sleep(1);
  expect((await crashWorker(shop.bus)).pid).toBe(pid);
  expect(await failed).toMatchObject({ code: "WORKER_DIED", mayHaveExecuted: true });
});

test("a lease ends when the fake clock passes its deadline", async () => {
  await using shop = await TestBus.create();
  const clock = fakeClock(1_000);
  await using fleet = await Fleet.join({ name: "crew", directory: shop.directory });
  const contest = await Contest.open({ fleet, now: clock.now });
  const subject = { kind: "leader", label: "mailer" };
  expect(contest.tryClaim(subject, { ttl: 500 }).claimed).toBe(true);
  expect(contest.holder(subject)).not.toBeNull();
  clock.advance(600);
  expect(contest.holder(subject)).toBeNull();
});

test("a bus that is left open is a leak", async () => {
  const open = [];
  const leaking = assertNoLeaks(async () => void open.push(await TestBus.create()), { timeout: 50 });
  expect(await leaking.catch((error) => error)).toBeInstanceOf(LeakError);
  for (const each of open) await each.close();
});
`;
const TEST_WORKER = `import { SlotWorker } from "slotbus";
const worker = await SlotWorker.open();
worker.serve(() => Bun.sleep(60_000));
`;

async function testing(): Promise<void> {
  using consumer = await Consumer.installed();
  consumer.write("shop.test.ts", TESTS);
  consumer.write("test-worker.ts", TEST_WORKER);
  const said = await consumer.run(process.execPath, "test");
  expect(/^ 4 pass\n 0 fail$/m.test(said), `bun test says: ${said}`);
}

export const checks: Checks = {
  "every command of the installed package runs, and so do the processes and threads of the bench": commands,
  "the installed launcher is executable and used, and doctor detects a changed launcher": launcher,
  "a user's tests run with slotbus/testing of the installed package": testing,
};
