/** Rules of the TypeScript library in a fleet: rings, events, contests. */

import type { LibraryRule } from "./library.ts";

const eventRules: LibraryRule[] = [
  {
    rule: "a cursor counts the events that it lost",
    file: "fleet/ring.ts",
    edits: [["this.#lost += this.#reader.lost;", ""]],
    suite: "ring",
    test: "with one event more than the ring holds",
  },
  {
    rule: "a frame's body is a copy",
    file: "fleet/ring.ts",
    edits: [["reader.bytes.slice(", "reader.bytes.subarray("]],
    suite: "ring",
    test: "a frame gives kind, time, writer, position and number, and its body is a copy",
  },
  {
    rule: "a bookmark of an earlier epoch is not valid in this epoch",
    file: "fleet/event-ring.ts",
    edits: [["if (whose !== epoch) return {", "if (whose < 0) return {"]],
    suite: "ring",
    test: "a bookmark of an earlier epoch gives a gap in band",
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
    test: "no payload is decoded when a filter on the head refuses the event",
  },
  {
    rule: "a predicate that throws ends its own subscription",
    file: "events/subscription.ts",
    edits: [["if (error instanceof PredicateFailure) {", "if (!error) {"]],
    suite: "events",
    test: "a predicate that throws ends its own subscription",
  },
  {
    rule: "a full queue gets one turn of the event loop before events are dropped",
    file: "events/subscription.ts",
    edits: [["this.#queue.isFull && this.#counts.received === this.#receivedThen;", "this.#counts.received >= 0;"]],
    suite: "events",
    test: "an active reader loses nothing of a burst far above the queue",
  },
  {
    rule: "drop-oldest keeps the newest events",
    file: "events/subscription.ts",
    edits: [["if (this.#queue.accepts()) event", "if (!this.#queue.isFull) event"]],
    suite: "events",
    test: "behaves as documented, and reports where the gap is",
  },
  {
    rule: 'the policy "close" ends a subscription whose queue overflows',
    file: "events/subscription.ts",
    edits: [
      [
        'this.#gapBefore(this.#nextNumber).dropped++;\n    if (this.#policy === "close") this.fail(new EventsLostError(this.lost));',
        "this.#gapBefore(this.#nextNumber).dropped++;",
      ],
    ],
    suite: "events",
    test: "policy close ends it after its queued events",
  },
  {
    rule: 'the policy "close" ends a subscription whose ring overwrites events',
    file: "events/subscription.ts",
    edits: [
      [
        'this.#gapBefore(this.#nextNumber).overwritten += lost;\n    if (this.#policy === "close") this.fail(new EventsLostError(this.lost));',
        "this.#gapBefore(this.#nextNumber).overwritten += lost;",
      ],
    ],
    suite: "events",
    test: "policy close also ends it when the ring overwrites",
  },
  {
    rule: "overwritten events are counted",
    file: "events/subscription.ts",
    edits: [["this.#counts.overwritten += lost;", ""]],
    suite: "events",
    test: "published events are each received, filtered, lost to the ring or dropped",
  },
  {
    rule: "an event that drop-oldest removes counts as dropped",
    file: "events/subscription.ts",
    edits: [["this.#counts.dropped++;\n    const before", "const before"]],
    suite: "events",
    test: "published events are each received, filtered, lost to the ring or dropped",
  },
  {
    rule: "a gap is reported at its place among the events",
    file: "events/subscription.ts",
    edits: [["this.#takeGap(this.#queue.first)", "this.#takeGap(this.#nextNumber)"]],
    suite: "events",
    test: "behaves as documented, and reports where the gap is",
  },
  {
    rule: "unsubscribing an unknown or closed id does nothing",
    file: "events/bus.ts",
    edits: [["this.#subscriptions.get(id)?.close();", "this.#subscriptions.get(id)!.close();"]],
    suite: "events",
    test: "queued events can be read after close",
  },
  {
    rule: "a publisher reads new binding events before it looks up an id",
    file: "events/bus.ts",
    edits: [["      binding.learn();\n", ""]],
    suite: "events",
    test: "a filter on an id sees the binding event with its own id",
  },
  {
    rule: "a binding event carries the id that it binds",
    file: "events/bus.ts",
    edits: [["id = binding.ownId(topic, payload) ?? id;", "id ??= binding.ownId(topic, payload);"]],
    suite: "events",
    test: "an existing id is not changed; a binding event takes its id from its payload",
  },
  {
    rule: "a ring inside one thread counts the events that it overwrote",
    file: "events/local-ring.ts",
    edits: [["this.lost = first - this.nextPosition;", "this.lost = 0;"]],
    suite: "events",
    test: "without a queue it pulls: nothing is lost until the ring overwrites",
  },
  {
    rule: "a publication wakes a reader of the same thread",
    file: "events/local-ring.ts",
    edits: [["    for (const wake of this.#sleepers) setImmediate(wake);\n", ""]],
    suite: "events",
    test: "a flood of refused events leaves the event loop its turns",
  },
  {
    rule: "the least recently used key is forgotten first",
    file: "events/binding.ts",
    edits: [["    this.#ids.delete(key);\n    this.#ids.set(key, id); // now the most recently used\n", ""]],
    suite: "events",
    test: "at most maxKeys keys are kept",
  },
];

const contestRules: LibraryRule[] = [
  {
    rule: "a guard that lost its lease aborts its signal",
    file: "contest/guard.ts",
    edits: [["    this.#controller?.abort(this.#lost);\n", ""]],
    suite: "contest",
    test: "its own release does not abort its signal; a signal first read after the loss is already aborted",
  },
  {
    rule: "a released guard does not count as lost",
    file: "contest/guard.ts",
    edits: [["if (ours) this.#end();\n    else this.#lose();", "this.#lose();"]],
    suite: "contest",
    test: "its own release does not abort its signal; a signal first read after the loss is already aborted",
  },
  {
    rule: "the holder's death reaches a watch",
    file: "contest/watch.ts",
    edits: [["this.#table.deaths.add(holder, this.check)", "() => {}"]],
    suite: "contest-watch",
    test: "SIGKILL of the holder is reported at once as its death",
  },
  {
    rule: "a watch reports the end of a tenure before the next claim",
    file: "contest/watch.ts",
    edits: [
      ['this.#changes.push({ type: "claimed", holder });', 'this.#changes.unshift({ type: "claimed", holder });'],
    ],
    suite: "contest-watch",
    test: "a slow reader has at most two changes of a subject waiting",
  },
  {
    rule: "a lease that another claim followed before its deadline was released",
    file: "native/lease.ts",
    edits: [["(end === C.SB_END_FOLLOWED && now >= expiresAt)", "end === C.SB_END_FOLLOWED"]],
    suite: "contest-watch",
    test: "the expiry of a lease is reported when its time is over",
  },
  {
    rule: "a guard with `renew` renews its lease",
    file: "contest/guard.ts",
    edits: [["    if (renew) this.#renewLater();\n", ""]],
    suite: "contest",
    test: "with renew a lease outlives its ttl several times",
  },
  {
    rule: "the holder's death reaches a waiter",
    file: "contest/waiter.ts",
    edits: [["readonly #onDeath = (): void => this.check();", "readonly #onDeath = (): void => {};"]],
    suite: "contest",
    test: "SIGKILL of the holder: a waiter of this process gets the lease at once, not at its timeout",
  },
  {
    rule: "a waiter checks its subject at the holder's deadline",
    file: "contest/waiter.ts",
    edits: [["after(Math.min(free, left), this.#onTime)", "after(left, this.#onTime)"]],
    suite: "contest",
    test: "the expiry of the holder's lease wakes a waiter",
  },
  {
    rule: "a waiter that was woken and still waits parks again",
    file: "contest/wait-list.ts",
    edits: [["    this.#leases.park();\n    this.check();", "    this.check();"]],
    suite: "contest",
    test: "a waiter that woke and found the lease taken is woken again",
  },
  {
    rule: "closing a contest rejects its waiters",
    file: "contest/contest.ts",
    edits: [["    for (const waiter of this.#waiters) waiter.fail(this.#closedError());\n", ""]],
    suite: "contest",
    test: "a closed contest claims no more",
  },
  {
    rule: "a fence rejects an older token",
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
    rule: "a lease that has ended cannot be adopted",
    file: "contest/contest.ts",
    edits: [["this.#leases.holds(entry, token) ?", "this.#leases.at(entry) ?"]],
    suite: "contest",
    test: "only the owner that claimed may adopt",
  },
  {
    rule: "only the owner that claimed a lease can adopt it",
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
    rule: "only the owner that claimed a lease can release it without `force`",
    file: "contest/contest.ts",
    edits: [["    if (!force && found.owner !== owner) throw new LeaseOwnerError(found, owner);\n", ""]],
    suite: "contest",
    test: "another owner cannot release an observed holder",
  },
];

export const fleetLibraryRules: LibraryRule[] = [...eventRules, ...contestRules];
