/** The faults of a world: each happens at a time or at a report. */

import type { Die } from "./choices.ts";
import type { BusProcess as Bus, WorkerProcess as Worker } from "./processes.ts";
import { FAULTS_OF } from "./themes.ts";
import type { World } from "./world.ts";

type Fault = (world: World, bus: Bus, die: Die) => void;

/** Returns a worker that lives, preferably an attached one. */
function workerOf(bus: Bus, die: Die): Worker | null {
  const alive = bus.workers.filter(({ host, isClosing }) => !host.isDead && !isClosing);
  const attached = alive.filter(({ wire }) => wire.isConnected);
  const from = attached.length > 0 ? attached : alive;
  return from[die.below("worker", 8) % from.length] ?? null;
}

/** Starts another worker in place of a worker that is gone. */
function replace(world: World, bus: Bus, die: Die): void {
  if (die.chance("is not replaced", world.odds("early close", 700, 100))) return;
  world.time.after(die.small("replaced after", world.odds("deaths", 500, 80)), () => {
    if (!bus.isClosing && !bus.host.isDead && world.net.isOpen) bus.startWorker();
  });
}

const faults: readonly Fault[] = [
  (world, bus, die) => {
    const worker = workerOf(bus, die);
    worker?.wire.kill();
    if (worker) replace(world, bus, die);
  },
  (_, bus, die) => workerOf(bus, die)?.host.stop(1 + die.below("stopped for", 150)),
  (_, bus, die) => workerOf(bus, die)?.wire.cut(),
  (_, bus, die) => {
    const { all } = bus.dispatcher.choice;
    const id = all[die.below("connection", 8) % all.length]?.id;
    if (id !== undefined) bus.dispatcher.choice.evict(id, "the world wants it");
  },
  (world, bus, die) => {
    const worker = workerOf(bus, die);
    if (!worker) return;
    void worker.close(die.small("drains for", 150));
    replace(world, bus, die);
  },
  (world, bus, die) => {
    const { all } = bus.dispatcher.choice;
    const connection = all[die.below("connection", 8) % all.length];
    const worker = bus.workers.find(({ host }) => host.pid === connection?.pid);
    if (!connection || !worker) return;
    void connection.drain().then(() => worker.wire.kill());
    replace(world, bus, die);
  },
  (world, bus, die) => bus.host.stop(1 + die.below("stopped for", world.odds("hostile", 150, 60))),
  (_, bus, die) => {
    bus.readyCalls++;
    bus.dispatcher
      .ready({ workers: 1 + die.below("workers", 4), timeout: 1 + die.below("waits for", 100) })
      .catch(() => {})
      .finally(() => bus.readyCalls--);
  },
  (world, bus, die) => {
    if (world.buses.length > 1 || die.chance("early end", 300)) void bus.close(die.small("drains for", 200));
  },
  (world, bus, die) => {
    if (world.buses.length > 1 || die.chance("early end", 300)) bus.kill();
  },
];

/** Plans that a bus closes early, mostly soon after its workers have died. */
function planClose(world: World, bus: Bus): void {
  const { time } = world;
  const { die } = bus;
  const at = 150 + die.below("early close", 500);
  const isBusy = die.chance("closes while its workers live", 350);
  time.after(at, () => {
    world.faults++;
    if (isBusy) return;
    for (const { host, isClosing, wire } of bus.workers) if (!host.isDead && !isClosing) wire.kill();
  });
  bus.host.later(at + die.below("closes after the deaths", 100), () => void bus.close(die.small("drains for", 20)));
}

/** Plans the faults of a world. */
export function planFaults(world: World): void {
  const isStorm = world.die.chance("storm of deaths", 150);
  const isMany = isStorm || world.odds("deaths|drains|hostile", 1, 0) === 1;
  const count = 1 + world.die.below("faults", isMany ? 30 : 7);
  if (world.theme === "early close" && !world.isCalm) for (const bus of world.buses) planClose(world, bus);
  for (let index = 0; index < count; index++) {
    const die = world.choices.die(`fault ${index}`);
    const bus = world.buses[world.buses.length > 1 ? die.below("bus", world.buses.length) : 0]!;
    const common = FAULTS_OF[world.theme] ?? [];
    const isCommon = common.length > 0 && die.chance("is common in the theme", 700);
    const drawn = isStorm ? 1 : die.rarely("what", 1_000, faults.length + 1);
    const what = isCommon ? common[die.below("what of the theme", common.length)]! : drawn;
    const run = (): void => {
      if (what === 0 || bus.host.isDead || bus.isClosing) return;
      world.faults++;
      faults[what - 1]!(world, bus, die);
    };
    if (index > 0 && die.chance("at a report", 500))
      world.atAnyReport(die.below("report", 600), () => world.time.after(0, run));
    else world.time.after(60 + die.below("at", 700), run);
  }
}
