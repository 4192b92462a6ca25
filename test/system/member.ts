/** The commands of a member of a fleet, for program.ts. It joins on the command `join`. */

import { dlopen, FFIType } from "bun:ffi";
import { type SlotbusError, Contest, Fleet, type FleetOptions, type Guard } from "../../src/contest/index.ts";
import { all, EventBus } from "../../src/events/index.ts";

type Command = (...words: string[]) => Promise<void> | void;

const LONG_MS = 3_600_000;
const PAYLOAD = new Uint8Array(64).fill(7);

/** Runs `work` between two marker calls that strace sees; all calls between them belong to `work`. */
function marked(work: () => void): void {
  const { getpgid } = dlopen("libc.so.6", { getpgid: { args: [FFIType.i32], returns: FFIType.i32 } }).symbols;
  getpgid(-3);
  work();
  getpgid(-4);
}

export function memberCommands(name: string, directory: string, say: (line: string) => void): Record<string, Command> {
  const where = { name, ...(directory === "" ? {} : { directory }) };
  const guards = new Map<string, Guard>();
  const audience: Fleet[] = [];
  let fleet: Fleet;
  let contest: Contest;

  const enter = async (joined: Fleet): Promise<void> => {
    fleet = joined;
    contest = await Contest.open({ fleet });
    say(`joined ${fleet.index} ${fleet.incarnation} ${fleet.epoch}`);
  };
  const join = (options: Partial<FleetOptions>) => Fleet.join({ rings: { events: {} }, ...options, ...where });
  const won = (label: string, guard: Guard): void => {
    guards.set(label, guard);
    say(`claimed ${label} ${guard.token}`);
  };

  return {
    /** `options` is JSON without spaces. */
    join: async (options = "{}") => enter(await join(JSON.parse(options) as Partial<FleetOptions>)),
    observe: async () => enter(await Fleet.observe(where)),
    leave: () => (fleet as Fleet | undefined)?.close(),
    members: () => say(`members ${fleet.members().map((member) => member.pid)}`),
    clock: () => say(`clock ${Date.now()} ${performance.now()}`),

    // ---- events ----
    publish: (count) => {
      const ring = fleet.ring("events");
      for (let n = 0; n < Number(count); n++) ring.publish(PAYLOAD);
    },
    /** Publishes between marker calls, for strace. */
    quiet: (count) => {
      const ring = fleet.ring("events");
      ring.publish(PAYLOAD);
      marked(() => {
        for (let n = 0; n < Number(count); n++) ring.publish(PAYLOAD);
      });
    },
    /** Joins until there are `count` more members, each with a cursor that has polled once and does not sleep. */
    audience: async (count) => {
      while (audience.length < Number(count)) {
        const another = await join({});
        another.ring("events").cursor().poll();
        audience.push(another);
      }
    },
    /** Prints each event and each loss. */
    listen: () => {
      void (async () => {
        for await (const item of fleet.ring("events").cursor()) {
          say("body" in item ? `event ${item.event} ${item.time}` : `item ${JSON.stringify(item)}`);
        }
      })().catch((error: SlotbusError) => say(`error ${error.code ?? error.name}: ${error.message}`));
    },
    /** Waits for an event and for a lease, and prints `hearing` unless a wait fails at once. */
    hear: async (label = "") => {
      const waited = contest.claim({ kind: "system", label }, { ttl: LONG_MS });
      const cursor = fleet.ring("events").cursor();
      const next = cursor.next();
      const early = Bun.sleep(100).then(() => "hearing");
      const first = await Promise.race([early, waited.then(() => "won"), next.then(() => "event")]);
      void next.then(
        ({ value }) => say(`event ${value && "event" in value ? value.event : JSON.stringify(value)}`),
        () => {},
      );
      void waited.then(
        (guard) => (guard.release(), say(`won ${label} ${guard.token}`)),
        () => {},
      );
      say(first);
    },
    subscribe: async () => {
      const subscription = (await EventBus.open({ fleet, ring: "events" })).subscribe(all());
      void (async () => {
        for await (const event of subscription) say(`topic ${event.topic}`);
      })().catch((error: SlotbusError) => say(`error ${error.code ?? error.name}: ${error.message}`));
    },

    // ---- leases ----
    claim: (label = "", ttl) => {
      const result = contest.tryClaim({ kind: "system", label }, { ttl: Number(ttl ?? LONG_MS) });
      if (result.claimed) won(label, result.guard);
      else say(`yields ${label} ${result.holder.token}`);
    },
    /** Waits for a lease and prints how long it took, in ms. */
    wait: (label = "", ttl, timeout) => {
      const started = performance.now();
      contest
        .claim({ kind: "system", label }, { ttl: Number(ttl ?? LONG_MS), timeout: Number(timeout ?? Infinity) })
        .then(
          (guard) => {
            guards.set(label, guard);
            say(`won ${label} ${guard.token} ${Math.round(performance.now() - started)}`);
          },
          (error: SlotbusError) =>
            say(`lost ${label} ${error.code ?? error.name} ${Math.round(performance.now() - started)}`),
        );
    },
    release: (label = "") => say(`released ${label} ${guards.get(label)!.release()}`),
    /** Claims and releases `count` times between marker calls. */
    pairs: (count) => {
      const subject = { kind: "system", label: "pair" };
      const pair = (): void => {
        const result = contest.tryClaim(subject, { ttl: LONG_MS });
        if (!result.claimed || !result.guard.release()) throw new Error("another member holds the lease");
      };
      pair();
      marked(() => {
        for (let n = 0; n < Number(count); n++) pair();
      });
    },
    /** Tries `count` times to claim a lease that another member holds, between marker calls. */
    yields: (label = "", count) => {
      const subject = { kind: "system", label };
      marked(() => {
        for (let n = 0; n < Number(count); n++) {
          if (contest.tryClaim(subject, { ttl: LONG_MS }).claimed) throw new Error("no other member holds the lease");
        }
      });
    },
  };
}
