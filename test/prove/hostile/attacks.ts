/** The attacks, and the outcomes that each must have. */

/** `evicted` and `refused`: by the client, which gave the reason. `survived`: the attack is legal, and the attacker left. */
export const OUTCOMES = ["evicted", "refused", "survived"] as const;
export type Outcome = (typeof OUTCOMES)[number];

export interface Attack {
  name: string;
  /** Attacks of one kind are measured together. */
  kind: Kind;
  /** Outcomes that must occur in every run. */
  outcomes: readonly Outcome[];
  /** Outcomes that may occur too; any other outcome is a failure. */
  also?: readonly Outcome[];
  /** Pattern that at least one of the client's reasons must match. */
  reason?: RegExp;
  /** Attackers in each cycle, if not the usual number; 0: none in `ci`, one otherwise. */
  ci?: number;
  /** Runs at the same time as the other attacks of its kind with this flag. */
  together?: boolean;
  /** Its streams never end: a reader that sees a complete stream was deceived. */
  endless?: boolean;
  /** Duration in ms. Default: 10 s for attackers that must be evicted, otherwise the usual time. */
  ms?: number;
}

export const KINDS = ["fields", "words", "socket", "handshakes", "memory", "time", "streams"] as const;
export type Kind = (typeof KINDS)[number];

const evicted = ["evicted"] as const;
const refused = ["refused"] as const;
const survived = ["survived"] as const;
const word = /into an invalid state|changed a free slot|after it had responded/;
const lengths = /^was evicted \(it put slot \d+ into an invalid state\)$/;
const answered = /^was evicted \(it changed slot \d+ after it had responded\)$/;
const free = /^was evicted \(it changed a free slot\)$/;
const head = /^was evicted \(it responded with a malformed head\)$/;
const message = /^was evicted \(it sent an unexpected message of type \d+\)$/;
const rang = /^was evicted \(it rang its doorbell more than 10000 times per second without work\)$/;
const counts = /^was evicted \(it wrote invalid counts into the rings of slot \d+\)$/;
const slow = /^the handshake timed out after 2000 ms$/;

export const ATTACKS: readonly Attack[] = [
  { name: "status-words", kind: "fields", outcomes: evicted, reason: word },
  { name: "response-lines", kind: "fields", outcomes: evicted, reason: lengths },
  { name: "hints", kind: "fields", outcomes: survived },
  { name: "park-words", kind: "fields", outcomes: survived },
  { name: "counters", kind: "fields", outcomes: survived },
  { name: "header-page", kind: "fields", outcomes: survived },
  { name: "request-lines", kind: "fields", outcomes: survived },
  { name: "bodies", kind: "fields", outcomes: survived },
  { name: "heads", kind: "fields", outcomes: evicted, reason: head },
  { name: "everything", kind: "fields", outcomes: evicted, reason: word },

  { name: "wrong-generation", kind: "words", outcomes: evicted, reason: lengths },
  { name: "too-early", kind: "words", outcomes: evicted, reason: lengths },
  { name: "free-in-flight", kind: "words", outcomes: evicted, reason: lengths },
  { name: "no-state", kind: "words", outcomes: evicted, reason: lengths },
  { name: "unclaim", kind: "words", outcomes: survived },
  { name: "done-unclaimed", kind: "words", outcomes: survived },
  { name: "illegal-lengths", kind: "words", outcomes: evicted, reason: lengths },
  { name: "legal-lengths", kind: "words", outcomes: survived },
  { name: "free-slots", kind: "words", outcomes: evicted, reason: free },
  { name: "double-answer", kind: "words", outcomes: evicted, reason: free },
  { name: "flip-done", kind: "words", outcomes: evicted, reason: answered },
  { name: "flip-words", kind: "words", outcomes: evicted, reason: word },
  { name: "flip-lengths", kind: "words", outcomes: evicted, reason: lengths },
  { name: "fast-and-wrong", kind: "words", outcomes: evicted, reason: word, ci: 1 },

  { name: "bells", kind: "socket", outcomes: evicted, reason: rang, ci: 6 },
  { name: "bells-answering", kind: "socket", outcomes: evicted, reason: rang, ci: 6 },
  { name: "drains", kind: "socket", outcomes: evicted, reason: rang, ci: 6 },

  { name: "random-bytes", kind: "socket", outcomes: evicted, reason: message },
  { name: "unknown-type", kind: "socket", outcomes: evicted, reason: message },
  { name: "half-message", kind: "socket", outcomes: survived },
  { name: "slow-message", kind: "socket", outcomes: evicted, reason: message },
  { name: "long-message", kind: "socket", outcomes: evicted, reason: message },
  { name: "wrong-direction", kind: "socket", outcomes: evicted, reason: message },
  { name: "descriptors", kind: "socket", outcomes: survived },
  { name: "toggle-nonblock", kind: "socket", outcomes: survived },
  { name: "shut-write", kind: "socket", outcomes: survived },
  { name: "shut-read", kind: "socket", outcomes: survived },

  { name: "silent", kind: "handshakes", outcomes: refused, reason: slow, ci: 1, together: true },
  { name: "half-join", kind: "handshakes", outcomes: refused, reason: slow, ci: 1, together: true },
  { name: "slow-join", kind: "handshakes", outcomes: refused, reason: slow, ci: 1, together: true },
  { name: "never-maps", kind: "handshakes", outcomes: refused, reason: slow, ci: 1, together: true },
  {
    name: "bad-join",
    kind: "handshakes",
    outcomes: refused,
    reason: /its JOIN message is malformed|it speaks protocol/,
    ci: 8,
  },
  { name: "bell-first", kind: "handshakes", outcomes: refused, reason: /it rang its doorbell before it joined/ },
  { name: "thousand", kind: "handshakes", outcomes: refused, reason: /64 handshakes are already running/ },
  {
    name: "storm",
    kind: "handshakes",
    outcomes: refused,
    reason: /64 handshakes are already running/,
    ms: 1_000,
    ci: 1,
  },
  { name: "observers", kind: "handshakes", outcomes: refused, reason: /16 observers/ },
  { name: "connect-and-die", kind: "handshakes", outcomes: survived },
  { name: "join-and-die", kind: "handshakes", outcomes: refused, also: survived, reason: /the connection is closed/ },
  { name: "attach-and-die", kind: "handshakes", outcomes: survived },
  {
    name: "comes-again",
    kind: "handshakes",
    outcomes: ["evicted", "refused"],
    reason: /4 evicted workers are still alive, including this one/,
  },

  { name: "resize", kind: "memory", outcomes: survived, ci: 5 },
  { name: "punch-all", kind: "memory", outcomes: evicted, reason: word, ci: 5 },
  { name: "punch-arenas", kind: "memory", outcomes: evicted, reason: head, ci: 5 },

  { name: "never-parked", kind: "time", outcomes: survived },
  { name: "always-parked", kind: "time", outcomes: survived },
  { name: "never-answers", kind: "time", outcomes: survived },
  { name: "late", kind: "time", outcomes: survived },
  { name: "never-completes", kind: "time", outcomes: survived },
  // The same for longer than a worker may hang.
  {
    name: "never-completes",
    kind: "time",
    outcomes: evicted,
    reason: /more than half of its slots were stuck for 10000 ms/,
    ci: 0,
    ms: 15_000,
  },

  { name: "flow-back", kind: "streams", endless: true, outcomes: evicted, reason: counts },
  { name: "flow-beyond", kind: "streams", endless: true, outcomes: evicted, reason: counts },
  { name: "flow-taken", kind: "streams", endless: true, outcomes: evicted, reason: counts },
  { name: "flow-taken-back", kind: "streams", endless: true, outcomes: evicted, reason: counts },
  { name: "flow-bad-end", kind: "streams", endless: true, outcomes: evicted, reason: counts },
  { name: "flow-bad-error", kind: "streams", endless: true, outcomes: evicted, reason: counts },
  { name: "flow-unbegun", kind: "streams", outcomes: evicted, reason: lengths },
  { name: "flow-whole", kind: "streams", outcomes: evicted, reason: lengths },
  { name: "flow-silence", kind: "streams", endless: true, outcomes: survived },
  { name: "flow-error-head", kind: "streams", endless: true, outcomes: survived },
  { name: "flow-goes-on", kind: "streams", outcomes: survived },
  { name: "flow-free", kind: "streams", outcomes: survived },
  { name: "flow-storm", kind: "streams", outcomes: evicted, reason: counts },
  { name: "flow-flips", kind: "streams", endless: true, outcomes: evicted, reason: counts },
  { name: "flow-endless", kind: "streams", endless: true, outcomes: survived },
  { name: "flow-bells", kind: "streams", outcomes: evicted, reason: rang, ci: 2 },
];
