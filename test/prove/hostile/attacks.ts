/** The attacks, and what must become of whoever tries them. */

/** `evicted`: ended by the client, by name. `refused`: turned away, by name. `survived`: legal, so it left by itself. */
export const OUTCOMES = ["evicted", "refused", "survived"] as const;
export type Outcome = (typeof OUTCOMES)[number];

export interface Attack {
  name: string;
  /** Attacks of one kind are measured together. */
  kind: Kind;
  /** Each is to be met in every run. */
  outcomes: readonly Outcome[];
  /** May be met too; any other is a failure. */
  also?: readonly Outcome[];
  /** Of the reasons that the client gives, one must match. */
  reason?: RegExp;
  /** Attackers in each cycle, when it is not the usual number; 0: one, and none in `ci`. */
  ci?: number;
  /** The attackers of this one work at the same time as the others of this kind. */
  together?: boolean;
  /** Its streams never end well: a reader that hears of an end has been deceived. */
  endless?: boolean;
  /** In ms, when it is not the usual time; whoever is to be evicted has 10 s. */
  ms?: number;
}

export const KINDS = ["fields", "words", "socket", "handshakes", "memory", "time", "streams"] as const;
export type Kind = (typeof KINDS)[number];

const evicted = ["evicted"] as const;
const refused = ["refused"] as const;
const survived = ["survived"] as const;
const word = /no legal step leads to|a slot that was free|after it had answered/;
const lengths = /^was evicted \(it left slot \d+ in a state no legal step leads to\)$/;
const answered = /^was evicted \(it changed slot \d+ after it had answered\)$/;
const free = /^was evicted \(it changed a slot that was free\)$/;
const head = /^was evicted \(it answered with a malformed head\)$/;
const message = /^was evicted \(it sent a message of type \d+\)$/;
const rang = /^was evicted \(it rang more than 10000 times a second without work\)$/;
const counts = /^was evicted \(it wrote impossible counts into the rings of slot \d+\)$/;
const slow = /^the handshake took longer than 2000 ms$/;

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
  { name: "slow-message", kind: "socket", outcomes: evicted, reason: message, ms: 100 },
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
    reason: /its JOIN is malformed|it speaks protocol/,
    ci: 8,
  },
  { name: "bell-first", kind: "handshakes", outcomes: refused, reason: /it rang before it had joined/ },
  { name: "thousand", kind: "handshakes", outcomes: refused, reason: /8 handshakes run/ },
  { name: "storm", kind: "handshakes", outcomes: refused, reason: /8 handshakes run/, ms: 1_000, ci: 1 },
  { name: "observers", kind: "handshakes", outcomes: refused, reason: /16 observers/ },
  { name: "connect-and-die", kind: "handshakes", outcomes: survived },
  { name: "join-and-die", kind: "handshakes", outcomes: refused, also: survived, reason: /the connection is closed/ },
  { name: "attach-and-die", kind: "handshakes", outcomes: survived },
  {
    name: "comes-again",
    kind: "handshakes",
    outcomes: ["evicted", "refused"],
    reason: /4 evicted workers still live, this one among them/,
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
    reason: /more than half its slots hung for 10000 ms/,
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
