/**
 * Books that the programs of the fleet soak share: files of shared memory outside the fleet, which outlive killed processes.
 *
 * - Lives: one page per process that ever ran: the number of events that it intended to publish and that it published, per
 *   ring; what it was doing; when it was killed.
 * - Subscribers: one line each, with the subscriber's own sums.
 * - Tenures: one record per lease that was held, and the current holder of each subject. Each new holder judges the previous
 *   holder's tenure.
 */

import { closeSync, ftruncateSync, openSync } from "node:fs";
import { join } from "node:path";
import { processState } from "../actor.ts";
import { type Delays, delaysIn } from "../soak/times.ts";

export const ROLES = ["writer", "reader", "holder", "waiter", "mixed"] as const;
export type Role = (typeof ROLES)[number];

/** Activity of a process when it is killed: the last one that it began. */
export const DOINGS = [
  "idle",
  "joining",
  "publishing",
  "polling",
  "sleeping",
  "handling",
  "claiming",
  "waiting",
  "holding",
  "renewing",
  "releasing",
] as const;
export type Doing = (typeof DOINGS)[number];

/** Delays that are kept, in tenths of a ms. */
export const SERIES = [
  /** From the kill of a holder until a waiter's tenure begins. */
  "holder killed",
  /** From the same kills to the end of a bare socket of that process, in a process that does nothing else. */
  "socket of a killed process",
  /** From the release of a lease until a waiter has it. */
  "given back",
  /** From the last publication before a quiet point until a sleeping subscriber has all events. */
  "caught up",
] as const;
export type Series = (typeof SERIES)[number];

/** Counters of events in all processes. */
export const COUNTS = [
  /** Claims of a subject that another process held. */
  "yields",
  "timeouts",
  "aborts",
  /** Writes to a resource, and writes that its fence refused. */
  "writes",
  "refused",
  /** Tenures that were lost because their lease expired. */
  "lost",
  /** Calls that failed because a member that is stopped held a lock. */
  "busy",
] as const;
export type Counted = (typeof COUNTS)[number];

export const RINGS_MAX = 8;
export const SUBJECTS_MAX = 64;

const BUCKETS = 100_000;
const PER_MS = 10;

/** Words of a life. */
const LIFE_WORDS = 64;
const PID = 0;
const INDEX = 1;
const INCARNATION = 2;
const KILLED = 3;
const DOING = 4;
const ROLE = 5;
const INTENT = 8;
const DONE = 16;
/** Doubles of a life, behind the words above. */
const LIFE_DOUBLES = LIFE_WORDS / 2;
const EPOCH = 12;
const KILLED_AT = 13;
const CONTINUED_AT = 14;

/** Doubles of a subscriber. */
export const SUBSCRIBER = [
  "life",
  "ring",
  /** 1: it reads. 0: it ended by itself and no longer counts. */
  "open",
  /** Number of the first event that it must receive, or see reported as lost. */
  "start",
  /** Events of the ring by the books before and after it began: `start` lies between them. */
  "low",
  "high",
  "received",
  "filtered",
  "overwritten",
  "dropped",
  /** Events that were received twice, or after later events. */
  "doubled",
  /** Events that were torn, unwanted, of an unknown writer, or with an impossible number. */
  "wrong",
  /** 1: it takes part in the wait for sleepers. */
  "sleeps",
] as const;
export type SubscriberField = (typeof SUBSCRIBER)[number];
const SUBSCRIBER_DOUBLES = 16;

/** Doubles of a tenure. */
const TENURE_DOUBLES = 8;
const T_LIFE = 0;
const T_SUBJECT = 1;
const T_TOKEN = 2;
const T_EXPIRES = 3;
/** 1: it is held; 0: its holder is about to release it, or has found it lost. */
const T_OPEN = 4;
/** Number of the tenure among those on its subject, starting with 1. */
const T_ORDER = 5;
const T_ENDED_AT = 6;

/** Words that all processes share. */
const WORDS = 256;
const NEXT_LIFE = 0;
const NEXT_SUBSCRIBER = 1;
const NEXT_TENURE = 2;
const HURRY = 3;
const COUNTED = 8;
const OCCUPANT = 64;
const RESOURCE = OCCUPANT + SUBJECTS_MAX;

/** Lives are numbered when they are started. Fewer than this number start before their epoch begins. */
const EARLY = 64;
/** Longest time until an earlier holder that was not seen killed must be dead, in ms. */
const DYING_MS = 500;

export interface BookSizes {
  lives: number;
  subscribers: number;
  tenures: number;
}

/** A tenure that begins: its number, the number of the previous tenure (0: none), and what is wrong with it. */
export interface Begun {
  readonly tenure: number;
  readonly before: number;
  /** It was over before it was recorded: no tenure, and no fault. */
  readonly late: boolean;
  readonly problem: string | null;
}

/** Wall clock in ms, with fractions: all processes read the same value from it. */
export function wallMs(): number {
  return performance.timeOrigin + performance.now();
}

export class FleetBooks {
  readonly #words: Int32Array;
  readonly #life: Uint32Array;
  readonly #lifeDoubles: Float64Array;
  readonly #subscriber: Float64Array;
  readonly #tenure: Float64Array;
  readonly #buckets: Uint32Array;

  static create(directory: string, sizes: BookSizes): FleetBooks {
    for (const [name, bytes] of [
      ["words", WORDS * 4],
      ["lives", sizes.lives * LIFE_WORDS * 4],
      ["subscribers", sizes.subscribers * SUBSCRIBER_DOUBLES * 8],
      ["tenures", sizes.tenures * TENURE_DOUBLES * 8],
      ["delays", SERIES.length * BUCKETS * 4],
    ] as const) {
      const file = openSync(join(directory, name), "wx");
      ftruncateSync(file, bytes);
      closeSync(file);
    }
    return new FleetBooks(directory);
  }

  constructor(directory: string) {
    const map = (name: string): Uint8Array => Bun.mmap(join(directory, name), { shared: true });
    const doubles = ({ buffer, byteOffset, length }: Uint8Array): Float64Array =>
      new Float64Array(buffer, byteOffset, length / 8);
    const words = ({ buffer, byteOffset, length }: Uint8Array): Uint32Array =>
      new Uint32Array(buffer, byteOffset, length / 4);
    const { buffer, byteOffset } = map("words");
    this.#words = new Int32Array(buffer, byteOffset, WORDS);
    const lives = map("lives");
    this.#life = words(lives);
    this.#lifeDoubles = doubles(lives);
    this.#subscriber = doubles(map("subscribers"));
    this.#tenure = doubles(map("tenures"));
    this.#buckets = words(map("delays"));
  }

  /** A quiet point is near. 1: claiming has stopped, and readers do not pause; 2: publishing has stopped too. */
  get hurry(): number {
    return Atomics.load(this.#words, HURRY);
  }

  set hurry(level: 0 | 1 | 2) {
    Atomics.store(this.#words, HURRY, level);
  }

  count(what: Counted): void {
    Atomics.add(this.#words, COUNTED + COUNTS.indexOf(what), 1);
  }

  counted(what: Counted): number {
    return Atomics.load(this.#words, COUNTED + COUNTS.indexOf(what));
  }

  // ---- lives ----------------------------------------------------------------------------------------------------------

  /** Allocates a page for a process that is about to be started. The first is 0. */
  newLife(role: Role): number {
    const life = Atomics.add(this.#words, NEXT_LIFE, 1);
    if ((life + 1) * LIFE_WORDS > this.#life.length) throw new Error("the books have no page for another life");
    this.play(life, role);
    return life;
  }

  /** Sets the role of a life that was started without one. */
  play(life: number, role: Role): void {
    this.#life[life * LIFE_WORDS + ROLE] = ROLES.indexOf(role);
  }

  get lives(): number {
    return Atomics.load(this.#words, NEXT_LIFE);
  }

  /** Records which member a process is, before it does anything else. */
  join(life: number, epoch: number, index: number, incarnation: number): void {
    const at = life * LIFE_WORDS;
    this.#life[at + PID] = process.pid;
    this.#life[at + INDEX] = index;
    this.#life[at + INCARNATION] = incarnation;
    this.#lifeDoubles[life * LIFE_DOUBLES + EPOCH] = epoch;
  }

  pidOf(life: number): number {
    return this.#life[life * LIFE_WORDS + PID]!;
  }

  roleOf(life: number): Role {
    return ROLES[this.#life[life * LIFE_WORDS + ROLE]!]!;
  }

  /** 0 before it joined. */
  epochOf(life: number): number {
    return this.#lifeDoubles[life * LIFE_DOUBLES + EPOCH]!;
  }

  /** Life of a member; -1 if the books have none. */
  lifeOf(epoch: number, index: number, incarnation: number): number {
    for (let life = this.lives - 1; life >= 0; life--) {
      const at = life * LIFE_WORDS;
      if (this.#life[at + INDEX] !== index || this.#life[at + INCARNATION] !== incarnation) continue;
      if (this.epochOf(life) === epoch) return life;
    }
    return -1;
  }

  doing(life: number, what: Doing): void {
    this.#life[life * LIFE_WORDS + DOING] = DOINGS.indexOf(what);
  }

  whatDid(life: number): Doing {
    return DOINGS[Atomics.load(this.#life, life * LIFE_WORDS + DOING)]!;
  }

  /** Records that a life is about to publish its event number `intent - 1` into the ring. */
  intend(life: number, ring: number, intent: number): void {
    this.#life[life * LIFE_WORDS + INTENT + ring] = intent;
  }

  /** Records the number of events that a life has published into a ring. */
  did(life: number, ring: number, done: number): void {
    this.#life[life * LIFE_WORDS + DONE + ring] = done;
  }

  intentOf(life: number, ring: number): number {
    return Atomics.load(this.#life, life * LIFE_WORDS + INTENT + ring);
  }

  doneOf(life: number, ring: number): number {
    return Atomics.load(this.#life, life * LIFE_WORDS + DONE + ring);
  }

  /** Number of events of a ring in an epoch: `done` are published, and at most `undecided` more. */
  published(epoch: number, ring: number): { done: number; undecided: number } {
    let done = 0;
    let intent = 0;
    for (let life = this.lives - 1, earlier = 0; life >= 0 && earlier < EARLY; life--) {
      if (this.epochOf(life) !== epoch) {
        if (this.epochOf(life) > 0) earlier++;
        continue;
      }
      done += this.doneOf(life, ring);
      intent += this.intentOf(life, ring);
    }
    return { done, undecided: intent - done };
  }

  /** Records that a life is about to be killed or to kill itself. */
  condemn(life: number): void {
    this.#lifeDoubles[life * LIFE_DOUBLES + KILLED_AT] = wallMs();
    Atomics.store(this.#life, life * LIFE_WORDS + KILLED, 1);
  }

  isCondemned(life: number): boolean {
    return Atomics.load(this.#life, life * LIFE_WORDS + KILLED) === 1;
  }

  /** Kills a life. Records the time before the kill, because others may notice at once, and again after it. */
  kill(life: number, pid = this.pidOf(life)): void {
    this.condemn(life);
    process.kill(pid, "SIGKILL");
    this.#lifeDoubles[life * LIFE_DOUBLES + KILLED_AT] = wallMs();
  }

  /** `Infinity` when it was not. */
  killedAt(life: number): number {
    return this.#lifeDoubles[life * LIFE_DOUBLES + KILLED_AT]! || Infinity;
  }

  /** Records that a stopped life is about to be continued. */
  continue(life: number): void {
    this.#lifeDoubles[life * LIFE_DOUBLES + CONTINUED_AT] = wallMs();
  }

  continuedAt(life: number): number {
    return this.#lifeDoubles[life * LIFE_DOUBLES + CONTINUED_AT]!;
  }

  // ---- subscribers ----------------------------------------------------------------------------------------------------

  newSubscriber(life: number, ring: number): number {
    const subscriber = Atomics.add(this.#words, NEXT_SUBSCRIBER, 1);
    if ((subscriber + 1) * SUBSCRIBER_DOUBLES > this.#subscriber.length) throw new Error("the books have no line left");
    this.note(subscriber, "life", life);
    this.note(subscriber, "ring", ring);
    return subscriber;
  }

  get subscribers(): number {
    return Atomics.load(this.#words, NEXT_SUBSCRIBER);
  }

  note(subscriber: number, field: SubscriberField, value: number): void {
    this.#subscriber[subscriber * SUBSCRIBER_DOUBLES + SUBSCRIBER.indexOf(field)] = value;
  }

  noted(subscriber: number, field: SubscriberField): number {
    return this.#subscriber[subscriber * SUBSCRIBER_DOUBLES + SUBSCRIBER.indexOf(field)]!;
  }

  /** Number of the event that the subscriber has come to, by its own sums. */
  consumed(subscriber: number): number {
    const sum = (fields: SubscriberField[]): number =>
      fields.reduce((all, one) => all + this.noted(subscriber, one), 0);
    return sum(["start", "received", "filtered", "overwritten", "dropped"]);
  }

  // ---- tenures --------------------------------------------------------------------------------------------------------

  /**
   * Records a claimed lease. `expires` and `now` are times of the lease clock. The subject must be free: its last holder has
   * released it, is dead, or its lease has expired. The last holder's token must be lower.
   */
  begin(life: number, subject: number, token: number, expires: number, now: () => number): Begun {
    const tenure = Atomics.add(this.#words, NEXT_TENURE, 1) + 1;
    const at = tenure * TENURE_DOUBLES;
    if (at + TENURE_DOUBLES > this.#tenure.length) throw new Error("the books have no record for another tenure");
    this.#tenure[at + T_LIFE] = life;
    this.#tenure[at + T_SUBJECT] = subject;
    this.#tenure[at + T_TOKEN] = token;
    this.#tenure[at + T_EXPIRES] = expires;
    this.#tenure[at + T_OPEN] = 1;
    let problem: string | null = null;
    for (;;) {
      const before = Atomics.load(this.#words, OCCUPANT + subject);
      if (before > 0 && this.tokenOf(before) >= token) {
        const late = now() >= expires;
        if (!late) problem = `${this.tell(tenure)} came after ${this.tell(before)}`;
        return { tenure, before, late, problem };
      }
      if (before > 0 && this.#holds(before, now))
        problem = `${this.tell(tenure)} began while ${this.tell(before)} lasted`;
      this.#tenure[at + T_ORDER] = this.orderOf(before) + 1;
      if (Atomics.compareExchange(this.#words, OCCUPANT + subject, before, tenure) === before)
        return { tenure, before, late: false, problem };
    }
  }

  /** Records a renewal: the new time of expiry. */
  prolong(tenure: number, expires: number): void {
    this.#tenure[tenure * TENURE_DOUBLES + T_EXPIRES] = expires;
  }

  /** Records that the holder is about to release it, or has found it lost. `false`: another tenure has followed. */
  end(tenure: number): boolean {
    const at = tenure * TENURE_DOUBLES;
    this.#tenure[at + T_ENDED_AT] = wallMs();
    this.#tenure[at + T_OPEN] = 0;
    return Atomics.load(this.#words, OCCUPANT + this.#tenure[at + T_SUBJECT]!) === tenure;
  }

  get tenures(): number {
    return Atomics.load(this.#words, NEXT_TENURE);
  }

  /** The current or last tenure of the subject; 0: none yet. */
  occupant(subject: number): number {
    return Atomics.load(this.#words, OCCUPANT + subject);
  }

  holderOf(tenure: number): number {
    return this.#tenure[tenure * TENURE_DOUBLES + T_LIFE]!;
  }

  tokenOf(tenure: number): number {
    return this.#tenure[tenure * TENURE_DOUBLES + T_TOKEN]!;
  }

  expiryOf(tenure: number): number {
    return this.#tenure[tenure * TENURE_DOUBLES + T_EXPIRES]!;
  }

  orderOf(tenure: number): number {
    return this.#tenure[tenure * TENURE_DOUBLES + T_ORDER]!;
  }

  isOpen(tenure: number): boolean {
    return this.#tenure[tenure * TENURE_DOUBLES + T_OPEN] === 1;
  }

  /** Wall clock; 0 while it is held. */
  endedAt(tenure: number): number {
    return this.#tenure[tenure * TENURE_DOUBLES + T_ENDED_AT]!;
  }

  tell(tenure: number): string {
    const life = this.holderOf(tenure);
    const subject = this.#tenure[tenure * TENURE_DOUBLES + T_SUBJECT];
    return `tenure ${tenure} of subject ${subject} (life ${life}, pid ${this.pidOf(life)}, token ${this.tokenOf(tenure)})`;
  }

  /** Whether a living process has it, according to the books. A process that is dying gets time to die. */
  #holds(tenure: number, now: () => number): boolean {
    const life = this.holderOf(tenure);
    const stop = performance.now() + DYING_MS;
    while (this.isOpen(tenure) && now() < this.expiryOf(tenure) && !this.isCondemned(life)) {
      if (/^[ZX]?$/.test(processState(this.pidOf(life)))) return false;
      if (performance.now() > stop) return true;
    }
    return false;
  }

  // ---- the resource that tenures protect ------------------------------------------------------------------------------

  /** The last tenure that wrote to the resource of a subject; 0: none. */
  lastWriter(subject: number): number {
    return Atomics.load(this.#words, RESOURCE + subject);
  }

  /** Writes if no other tenure has written since `before` was read. */
  write(subject: number, before: number, tenure: number): boolean {
    return Atomics.compareExchange(this.#words, RESOURCE + subject, before, tenure) === before;
  }

  // ---- delays ---------------------------------------------------------------------------------------------------------

  addDelay(series: Series, ms: number): void {
    const bucket = Math.max(0, Math.min(BUCKETS - 1, Math.round(ms * PER_MS)));
    Atomics.add(this.#buckets, SERIES.indexOf(series) * BUCKETS + bucket, 1);
  }

  /** In ms. */
  delays(series: Series): Delays {
    const start = SERIES.indexOf(series) * BUCKETS;
    return delaysIn(this.#buckets.subarray(start, start + BUCKETS), PER_MS);
  }
}
