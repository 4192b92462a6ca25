/** Claims leases on subjects, waits for them, renews and releases them. The books judge every tenure. */

import { type Contest, Fence, type Guard } from "../../../src/contest/index.ts";
import { ClaimTimeoutError, FleetBusyError, LeaseTableFullError } from "../../../src/errors.ts";
import type { Random } from "../soak/request-books.ts";
import { type FleetBooks, wallMs } from "./fleet-books.ts";

export interface HoldOrder {
  /** Number of subjects. */
  subjects: number;
  /** Whether it waits for a subject that is held; otherwise it claims only free subjects. */
  waits: boolean;
  /** Lengths of a lease in ms; each claim picks one. */
  ttls: number[];
  /** Longest time for which a subject is held, in ms. */
  dwellMs: number;
  /** Longest wait, in ms; some of the waits are aborted instead. */
  timeoutMs: number;
}

export const subjectOf = (number: number): { kind: string; label: string } => ({ kind: "job", label: `no ${number}` });

/** A tenure that this process holds. */
interface Held {
  guard: Guard;
  subject: number;
  tenure: number;
}

export class Holding {
  readonly #contest: Contest;
  readonly #books: FleetBooks;
  readonly #life: number;
  readonly #problem: (text: string) => void;
  #running = false;
  /** Claims that were begun and tenures that are held, by what runs. */
  #begun = 0;

  constructor(contest: Contest, books: FleetBooks, life: number, problem: (text: string) => void) {
    this.#contest = contest;
    this.#books = books;
    this.#life = life;
    this.#problem = problem;
  }

  /** Whether it holds no lease and waits for none. */
  get isQuiet(): boolean {
    return this.#begun === 0;
  }

  /** Claims at random, until {@link stop}. Begins nothing near a quiet point. */
  async run(order: HoldOrder, random: Random): Promise<void> {
    this.#running = true;
    while (this.#running) {
      await Bun.sleep(this.#books.hurry > 0 ? 5 : random.below(4));
      if (this.#books.hurry > 0) continue;
      this.#begun++;
      const held = await this.#claim(order, random);
      if (held) await this.#hold(held, order, random);
      this.#books.doing(this.#life, "idle");
      this.#begun--;
    }
  }

  stop(): void {
    this.#running = false;
  }

  /** Tries once; `null` if another process has it. */
  tryClaim(subject: number, ttl: number, renew = false): Held | null {
    this.#books.doing(this.#life, "claiming");
    const outcome = this.#contest.tryClaim(subjectOf(subject), { ttl, renew });
    if (outcome.claimed) return this.#begin(outcome.guard, subject, null);
    this.#books.count("yields");
    this.#books.doing(this.#life, "idle");
    return null;
  }

  /** Waits for it. */
  async claim(subject: number, ttl: number, timeout = Infinity, signal?: AbortSignal): Promise<Held | null> {
    this.#books.doing(this.#life, "waiting");
    const since = wallMs();
    const guard = await this.#contest.claim(subjectOf(subject), { ttl, timeout, ...(signal ? { signal } : {}) });
    return this.#begin(guard, subject, since);
  }

  /** `false`: it was lost before. */
  renew({ guard, tenure }: Held): boolean {
    this.#books.doing(this.#life, "renewing");
    const was = guard.expiresAt;
    const isOurs = guard.renew();
    if (isOurs) this.#books.prolong(tenure, guard.expiresAt);
    else if (this.#contest.now() < was) this.#problem(`${this.#books.tell(tenure)} could not be renewed in its time`);
    this.#books.doing(this.#life, "holding");
    return isOurs;
  }

  /** Releases it; `false`: it was lost before. */
  release({ guard, tenure }: Held): boolean {
    this.#books.doing(this.#life, "releasing");
    this.#books.prolong(tenure, guard.expiresAt);
    const isLast = this.#books.end(tenure);
    if (!isLast && this.#contest.now() < guard.expiresAt) this.#problem(`${this.#books.tell(tenure)} had a successor`);
    const isOurs = guard.release();
    if (!isOurs && this.#contest.now() < guard.expiresAt)
      this.#problem(`${this.#books.tell(tenure)} could not be given back in its time`);
    if (!isOurs) this.#books.count("lost");
    this.#books.doing(this.#life, "idle");
    return isOurs;
  }

  /**
   * Writes to the resource that the subject stands for, whether it has lost it or not: the fence has to know. `false`: it was
   * refused.
   */
  write({ guard, subject, tenure }: Held): boolean {
    const books = this.#books;
    for (;;) {
      const before = books.lastWriter(subject);
      const fence = new Fence({ highWater: before > 0 ? books.tokenOf(before) : 0 });
      if (!fence.admit(guard.token)) {
        this.#books.count("refused");
        if (this.#contest.now() < guard.expiresAt)
          this.#problem(`the fence refused ${books.tell(tenure)} in its time, after ${books.tell(before)}`);
        return false;
      }
      if (!books.write(subject, before, tenure)) continue;
      this.#books.count("writes");
      if (books.orderOf(before) > books.orderOf(tenure))
        this.#problem(`the fence let ${books.tell(tenure)} write after its successor ${books.tell(before)}`);
      return true;
    }
  }

  async #claim(order: HoldOrder, random: Random): Promise<Held | null> {
    const subject = random.below(order.subjects);
    const ttl = random.pick(order.ttls);
    const since = performance.now();
    try {
      if (!order.waits) return this.tryClaim(subject, ttl, random.chance(0.3));
      const signal = random.chance(0.1) ? AbortSignal.timeout(1 + random.below(order.dwellMs)) : undefined;
      return await this.claim(subject, ttl, order.timeoutMs, signal);
    } catch (error) {
      if (error instanceof ClaimTimeoutError) {
        this.#books.count("timeouts");
        const waited = performance.now() - since;
        if (waited < order.timeoutMs) this.#problem(`a claim gave up after ${waited} of ${order.timeoutMs} ms`);
      } else if ((error as Error).name === "TimeoutError") this.#books.count("aborts");
      else if (error instanceof FleetBusyError) this.#books.count("busy");
      else if (error instanceof LeaseTableFullError) this.#problem(`the table is full: ${error.message}`);
      else throw error;
      return null;
    }
  }

  /** It is ours: since when it was waited for, if it was. */
  #begin(guard: Guard, subject: number, since: number | null): Held | null {
    const books = this.#books;
    const at = wallMs();
    const now = (): number => this.#contest.now();
    const { tenure, before, late, problem } = books.begin(this.#life, subject, guard.token, guard.expiresAt, now);
    books.doing(this.#life, "holding");
    if (problem) this.#problem(problem);
    if (late) {
      books.end(tenure);
      guard.release();
      this.#books.count("lost");
      return null;
    }
    if (since !== null && before > 0) this.#noteDelay(before, since, at);
    return { guard, subject, tenure };
  }

  /** Records the time between the end of a tenure and the start of its waiter's tenure. */
  #noteDelay(before: number, since: number, at: number): void {
    const books = this.#books;
    const life = books.holderOf(before);
    const killed = books.isOpen(before) && books.isCondemned(life);
    const end = killed ? books.killedAt(life) : books.endedAt(before);
    if (!end || end < since) return; // it was free already
    const from = Math.max(end, books.continuedAt(this.#life));
    books.addDelay(killed ? "holder killed" : "given back", at - from);
  }

  async #hold(held: Held, order: HoldOrder, random: Random): Promise<void> {
    const { guard } = held;
    if (random.chance(0.2)) void guard.signal;
    const until = wallMs() + random.below(order.dwellMs);
    let isOurs = this.write(held);
    while (isOurs && wallMs() < until && this.#books.hurry === 0) {
      await Bun.sleep(random.below(6));
      this.#books.prolong(held.tenure, guard.expiresAt);
      isOurs = this.write(held);
      if (isOurs && random.chance(0.3)) isOurs = this.#patiently(() => this.renew(held)) ?? true;
    }
    if (this.#patiently(() => this.release(held)) === null) this.#patiently(() => guard.release());
  }

  /** `null`: a stopped member has the lock. */
  #patiently<T>(step: () => T): T | null {
    try {
      return step();
    } catch (error) {
      if (!(error instanceof FleetBusyError)) throw error;
      this.#books.count("busy");
      return null;
    }
  }
}
