/** The rules that the TypeScript library keeps in a fleet: rings, events, contests; and what is left without each. */

import type { LibraryRule } from "./library.ts";

const eventRules: LibraryRule[] = [
  {
    rule: "a cursor counts what it lost",
    file: "fleet/ring.ts",
    edits: [["this.#lost += this.#reader.lost;", ""]],
    suite: "ring",
    test: "one event more than the ring holds: one is lost",
  },
  {
    rule: "a frame's body is a copy",
    file: "fleet/ring.ts",
    edits: [["reader.bytes.slice(", "reader.bytes.subarray("]],
    suite: "ring",
    test: "a frame tells kind, time, writer, position and number, and its body is a copy",
  },
  {
    rule: "a place of an earlier epoch is none of this one",
    file: "fleet/event-ring.ts",
    edits: [["if (whose !== epoch) return {", "if (whose < 0) return {"]],
    suite: "ring",
    test: "a bookmark of an earlier epoch is told",
  },
  {
    rule: "a filter decides before the payload is decoded",
    file: "events/subscription.ts",
    edits: [
      [
        "if (this.#test(this.#decoder)) return true;",
        "this.#decoder.toEvent();\n    if (this.#test(this.#decoder)) return true;",
      ],
    ],
    suite: "events",
    test: "no payload is decoded that a filter on the head refuses",
  },
  {
    rule: "what a predicate throws ends its own subscription",
    file: "events/subscription.ts",
    edits: [["if (error instanceof PredicateFailure) {", "if (!error) {"]],
    suite: "events",
    test: "a predicate that throws ends its own subscription",
  },
  {
    rule: "a full queue is left alone for one turn",
    file: "events/subscription.ts",
    edits: [["this.#queue.isFull && this.#counts.received === this.#receivedThen;", "this.#counts.received >= 0;"]],
    suite: "events",
    test: "whoever reads loses nothing of a burst far above the queue",
  },
  {
    rule: "drop-oldest keeps the newest",
    file: "events/subscription.ts",
    edits: [["if (this.#queue.accepts()) event", "if (!this.#queue.isFull) event"]],
    suite: "events",
    test: "keeps what it says, and tells where the gap is",
  },
  {
    rule: "close ends a subscription that drops",
    file: "events/subscription.ts",
    edits: [
      [
        'this.#gapBefore(this.#nextNumber).dropped++;\n    if (this.#policy === "close") this.fail(new EventsLostError(this.lost));',
        "this.#gapBefore(this.#nextNumber).dropped++;",
      ],
    ],
    suite: "events",
    test: "close ends it behind what is queued",
  },
  {
    rule: "close ends a subscription whose ring overwrites",
    file: "events/subscription.ts",
    edits: [
      [
        'this.#gapBefore(this.#nextNumber).overwritten += lost;\n    if (this.#policy === "close") this.fail(new EventsLostError(this.lost));',
        "this.#gapBefore(this.#nextNumber).overwritten += lost;",
      ],
    ],
    suite: "events",
    test: "close ends it when the ring overwrites, too",
  },
  {
    rule: "what is overwritten counts as lag",
    file: "events/subscription.ts",
    edits: [["this.#counts.overwritten += lost;", ""]],
    suite: "events",
    test: "what was published is what each received, filtered, lost to the ring and dropped",
  },
  {
    rule: "what the oldest in a queue gives way to counts as dropped",
    file: "events/subscription.ts",
    edits: [["this.#counts.dropped++;\n    const before", "const before"]],
    suite: "events",
    test: "what was published is what each received, filtered, lost to the ring and dropped",
  },
  {
    rule: "a gap is told where it is",
    file: "events/subscription.ts",
    edits: [["this.#takeGap(this.#queue.first)", "this.#takeGap(this.#nextNumber)"]],
    suite: "events",
    test: "keeps what it says, and tells where the gap is",
  },
  {
    rule: "an id that is unknown or closed is none to unsubscribe",
    file: "events/bus.ts",
    edits: [["this.#subscriptions.get(id)?.close();", "this.#subscriptions.get(id)!.close();"]],
    suite: "events",
    test: "queued events can be read after close",
  },
  {
    rule: "a publisher reads what binds before it asks for an id",
    file: "events/bus.ts",
    edits: [["      binding.learn();\n", ""]],
    suite: "events",
    test: "a filter on an id sees the binding event with its own id",
  },
  {
    rule: "a binding event has the id that it binds",
    file: "events/bus.ts",
    edits: [["id = binding.ownId(topic, payload) ?? id;", "id ??= binding.ownId(topic, payload);"]],
    suite: "events",
    test: "an id that is there is not changed; a binding event has that of its payload",
  },
  {
    rule: "a ring inside one thread tells what it has overwritten",
    file: "events/local-ring.ts",
    edits: [["this.lost = first - this.nextPosition;", "this.lost = 0;"]],
    suite: "events",
    test: "without a queue it pulls: nothing is lost until the ring overwrites",
  },
  {
    rule: "a reader inside one thread is woken",
    file: "events/local-ring.ts",
    edits: [["    for (const wake of this.#sleepers) setImmediate(wake);\n", ""]],
    suite: "events",
    test: "a flood of what the filter refuses leaves the event loop its turns",
  },
  {
    rule: "a key that is used is the last to go",
    file: "events/binding.ts",
    edits: [["    this.#ids.delete(key);\n    this.#ids.set(key, id); // the last to go now\n", ""]],
    suite: "events",
    test: "at most so many keys are kept",
  },
];

const contestRules: LibraryRule[] = [
  {
    rule: "a guard that lost its tenure aborts",
    file: "contest/guard.ts",
    edits: [["    this.#controller?.abort(this.#lost);\n", ""]],
    suite: "contest",
    test: "its signal does not abort by its own release, and one that is asked for after a loss has aborted",
  },
  {
    rule: "a guard that is released has not lost",
    file: "contest/guard.ts",
    edits: [["if (ours) this.#end();\n    else this.#lose();", "this.#lose();"]],
    suite: "contest",
    test: "its signal does not abort by its own release, and one that is asked for after a loss has aborted",
  },
  {
    rule: "a watch hears of the holder's death",
    file: "contest/watch.ts",
    edits: [["this.#table.deaths.add(holder, this.check)", "() => {}"]],
    suite: "contest-watch",
    test: "SIGKILL of the holder is told at once as its death",
  },
  {
    rule: "what ended is told before what began",
    file: "contest/watch.ts",
    edits: [
      ['this.#changes.push({ type: "claimed", holder });', 'this.#changes.unshift({ type: "claimed", holder });'],
    ],
    suite: "contest-watch",
    test: "a reader that sleeps has two changes of a subject waiting at most",
  },
  {
    rule: "a lease that was followed within its time was released",
    file: "native/lease.ts",
    edits: [["(end === C.SB_END_FOLLOWED && now >= expiresAt)", "end === C.SB_END_FOLLOWED"]],
    suite: "contest-watch",
    test: "the end of a lease",
  },
  {
    rule: "a guard renews itself",
    file: "contest/guard.ts",
    edits: [["    if (renew) this.#renewLater();\n", ""]],
    suite: "contest",
    test: "with renew a lease outlives its ttl many times over",
  },
  {
    rule: "a waiter hears of the holder's death",
    file: "contest/waiter.ts",
    edits: [["readonly #onDeath = (): void => this.check();", "readonly #onDeath = (): void => {};"]],
    suite: "contest",
    test: "SIGKILL of the holder: a waiter of this process owns it at once",
  },
  {
    rule: "a waiter looks when the holder's time is over",
    file: "contest/waiter.ts",
    edits: [["after(Math.min(free, left), this.#onTime)", "after(left, this.#onTime)"]],
    suite: "contest",
    test: "the end of the holder's time wakes a waiter",
  },
  {
    rule: "whoever was woken and waits on says so again",
    file: "contest/wait-list.ts",
    edits: [["    this.#leases.park();\n    this.check();", "    this.check();"]],
    suite: "contest",
    test: "a waiter that was woken in vain is woken again",
  },
  {
    rule: "a contest that is closed ends those who wait",
    file: "contest/contest.ts",
    edits: [["    for (const waiter of this.#waiters) waiter.fail(this.#closedError());\n", ""]],
    suite: "contest",
    test: "a contest that is closed claims no more, and ends the waits",
  },
  {
    rule: "a fence refuses an older token",
    file: "contest/fence.ts",
    edits: [
      [
        'if (checkInteger("token", token, 0, Number.MAX_SAFE_INTEGER) < this.#highWater) return false;',
        'checkInteger("token", token, 0, Number.MAX_SAFE_INTEGER);',
      ],
    ],
    suite: "contest",
    test: "it admits equal and higher tokens and rejects lower ones",
  },
  {
    rule: "nobody adopts a tenure that has ended",
    file: "contest/contest.ts",
    edits: [["this.#leases.holds(entry, token) ?", "this.#leases.at(entry) ?"]],
    suite: "contest",
    test: "only the owner that claimed may adopt",
  },
  {
    rule: "nobody adopts what another owner claimed",
    file: "contest/contest.ts",
    edits: [
      [
        "    if (found.owner !== owner) throw new LeaseOwnerError(found, owner);\n    return this.#guard(",
        "    return this.#guard(",
      ],
    ],
    suite: "contest",
    test: "only the owner that claimed may adopt",
  },
  {
    rule: "nobody releases what another owner claimed",
    file: "contest/contest.ts",
    edits: [["    if (!force && found.owner !== owner) throw new LeaseOwnerError(found, owner);\n", ""]],
    suite: "contest",
    test: "another owner cannot release an observed holder",
  },
];

export const fleetLibraryRules: LibraryRule[] = [...eventRules, ...contestRules];
