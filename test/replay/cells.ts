/**
 * Coverage of worlds: how often each event met each state of an exchange and of a connection. A cell that is empty although it is
 * not marked as impossible means that the worlds are too poor.
 */

/** Counts of one table. */
export class Table {
  readonly title: string;
  readonly states: readonly string[];
  readonly events: readonly string[];
  readonly #counts: Float64Array;
  readonly #stateAt: ReadonlyMap<string, number>;
  readonly #eventAt: ReadonlyMap<string, number>;
  /** Reasons why cells are impossible, by "state / event"; `*` stands for all. */
  readonly #impossible: Readonly<Record<string, string>>;

  constructor(
    title: string,
    states: readonly string[],
    events: readonly string[],
    impossible: Readonly<Record<string, string>>,
  ) {
    this.title = title;
    this.states = states;
    this.events = events;
    this.#counts = new Float64Array(states.length * events.length);
    this.#stateAt = new Map(states.map((state, index) => [state, index]));
    this.#eventAt = new Map(events.map((event, index) => [event, index]));
    this.#impossible = impossible;
  }

  hasEvent(event: string): boolean {
    return this.#eventAt.has(event);
  }

  hit(state: string, event: string): void {
    const column = this.#eventAt.get(event);
    const row = this.#stateAt.get(state);
    if (row === undefined || column === undefined) throw new Error(`${this.title} has no cell ${state} / ${event}`);
    this.#counts[row * this.events.length + column]!++;
  }

  get counts(): number[] {
    return [...this.#counts];
  }

  /** Adds the {@link counts} of another table of the same kind. */
  add(counts: readonly number[]): void {
    for (const [index, count] of counts.entries()) this.#counts[index]! += count;
  }

  count(state: string, event: string): number {
    return this.#counts[this.#stateAt.get(state)! * this.events.length + this.#eventAt.get(event)!]!;
  }

  /** Returns why a cell is impossible; `null` if it is possible. */
  reason(state: string, event: string): string | null {
    return (
      this.#impossible[`${state} / ${event}`] ??
      this.#impossible[`* / ${event}`] ??
      this.#impossible[`${state} / *`] ??
      null
    );
  }

  /** Cells that are empty although they are possible. */
  get empty(): string[] {
    return this.#cells((state, event) => this.count(state, event) === 0 && this.reason(state, event) === null);
  }

  /** Cells that are marked as impossible and were met. */
  get wrong(): string[] {
    return this.#cells((state, event) => this.count(state, event) > 0 && this.reason(state, event) !== null);
  }

  #cells(isWanted: (state: string, event: string) => boolean): string[] {
    return this.states.flatMap((state) =>
      this.events.filter((event) => isWanted(state, event)).map((event) => `${state} / ${event}`),
    );
  }

  /** The table as text: a number, `-` for an impossible cell, `0` for an empty cell. */
  toString(): string {
    const width = Math.max(...this.events.map(({ length }) => length)) + 2;
    const head = [" ".repeat(width), ...this.states.map((state) => state.padStart(12))].join("");
    const rows = this.events.map((event) => {
      const cells = this.states.map((state) => {
        const count = this.count(state, event);
        return (count === 0 && this.reason(state, event) !== null ? "-" : String(count)).padStart(12);
      });
      return event.padEnd(width) + cells.join("");
    });
    return [this.title, head, ...rows].join("\n");
  }
}

/** Marks cells as impossible: each of `states` with each of `events`, for a reason. */
function marks(...rules: readonly [states: string, events: string, reason: string][]): Record<string, string> {
  const cells = rules.flatMap(([states, events, reason]) =>
    states.split("|").flatMap((state) => events.split("|").map((event) => [`${state} / ${event}`, reason] as const)),
  );
  return Object.fromEntries(cells);
}

const REPORTS =
  "claimed|moved|answered|failed|lent|began|ended|ended in error|expired no|expired maybe|lost no|lost maybe";
const BEGUN = "streaming|both ways|gathering";
const CARRIED = `sent|sent+source|claimed|uploading|${BEGUN}`;

const exchanges = marks(
  ["queued|queued again|waiting", `${REPORTS}|withdraw|malformed|invalid counts`, "no connection carries it"],
  ["over", `${REPORTS}|malformed|invalid counts|send|full|close`, "it is settled, and no connection carries it"],
  [CARRIED, "send|full", "a connection carries it already"],
  ["queued again", "send|full", "it leaves the queue first and counts as waiting"],
  ["waiting", "full", "its head is encoded, so no user code runs"],
  [`queued|queued again|waiting|${CARRIED}`, "given back", "only a settled exchange has a lent response"],
  [BEGUN, "answered|failed|lent|began|expired no|expired maybe|lost no|malformed", "its response has begun"],
  [BEGUN, "withdraw", "its reader closes first: counts as claimed, uploading or over"],
  ["streaming", "claimed", "it has no source, or the source was claimed"],
  ["sent", "claimed|moved|answered|failed|lent|began|ended|ended in error|malformed", "the worker claims it first"],
  ["sent+source", "moved|ended|ended in error", "the claim is reported first"],
  ["sent|sent+source|claimed|uploading", "invalid counts", "it does not read a stream"],
  ["claimed|uploading", "claimed|ended|ended in error", "not without a source; `began` comes first"],
  ["claimed|uploading", "expired no|lost no", "its handler may have run"],
);

const connections = marks(
  ["busy|full|draining|condemned|ended", "joined", "it is the first event"],
  ["full|draining|condemned|ended", "send", "there is no room"],
  ["idle", "report|freed|withdraw|stalled|given back", "it carries nothing"],
  ["ended", "freed|withdraw|drain|goodbye|bus drains it|evict|stalled|responsive", "its end was the last event"],
  ["condemned", "withdraw|drain|goodbye|bus drains it|evict|stalled|responsive|given back", "it ends with the batch"],
  ["idle|busy|full", "goodbye", "a worker drains first"],
  ["idle|busy|full|draining|condemned", "evicted|died|left", "the connection counts as ended then"],
  ["idle|busy|draining|condemned|ended", "full", "no event arrives during a send"],
);

/** Coverage of many worlds. */
export class Cells {
  readonly exchange = new Table(
    "Exchanges: state × event",
    [
      "queued",
      "queued again",
      "sent",
      "sent+source",
      "claimed",
      "uploading",
      "streaming",
      "both ways",
      "gathering",
      "waiting",
      "over",
    ],
    [
      "send",
      "claimed",
      "moved",
      "answered",
      "failed",
      "lent",
      "began",
      "ended",
      "ended in error",
      "expired no",
      "expired maybe",
      "lost no",
      "lost maybe",
      "withdraw",
      "malformed",
      "invalid counts",
      "full",
      "given back",
      "abort",
      "close",
    ],
    exchanges,
  );
  readonly connection = new Table(
    "Connections: state × event",
    ["idle", "busy", "full", "draining", "condemned", "ended"],
    [
      "joined",
      "send",
      "report",
      "freed",
      "withdraw",
      "drain",
      "goodbye",
      "bus drains it",
      "evict",
      "evicted",
      "died",
      "left",
      "stalled",
      "responsive",
      "given back",
      "full",
    ],
    connections,
  );

  /** Adds the counts of other worlds: of exchanges, then of connections. */
  add([exchanges = [], connections = []]: readonly (readonly number[])[]): void {
    this.exchange.add(exchanges);
    this.connection.add(connections);
  }
}
