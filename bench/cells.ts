/** Client processes that measure on order (`busy`, `many`), and how the rounds of several systems compare. */

import { CommandError } from "../src/cli/usage.ts";
import type { Cpu } from "./cpu.ts";
import {
  type Call,
  closedLoop,
  makeBodies,
  median,
  offeredLoop,
  type Round,
  round,
  sparseLoop,
  type Summary,
  summarise,
} from "./measure.ts";
import type { Introduction, Peer, PeerOptions, Workspace } from "./systems.ts";

/** What to measure. A round ends after `ms`. */
export type Order = { ms: number } & (
  | { case: "closed"; inFlight: number; leadInMs: number }
  | { case: "sparse" }
  /** `perSecond`: offered requests per second. */
  | { case: "offered"; perSecond: number }
);

export interface Outcome extends Round {
  /** Time on a processor, and time of waiting for one, of both sides. `null` outside Linux. */
  cpu: Cpu | null;
}

type Answer<O> = { outcome: O } | { error: string };

/** Bytes of a body. */
const BYTES = 64;
const MINIMUM_SAMPLES = 10;

/** Runs an order in this process. */
export function measure(call: Call, order: Order): Promise<Round> {
  switch (order.case) {
    case "closed": {
      const limits = { leadInMs: order.leadInMs, samples: Infinity, minimum: MINIMUM_SAMPLES, ms: order.ms };
      return closedLoop(call, makeBodies(BYTES, order.inFlight), limits);
    }
    case "sparse":
      return sparseLoop(call, makeBodies(BYTES, 1)[0]!, order.ms);
    case "offered":
      return offeredLoop(call, BYTES, order.perSecond, order.ms);
  }
}

/**
 * Introduces this process as a cell, then runs the orders of its parent until that ends. `workspace`: its own, which the end of
 * this process disposes.
 */
export function obey(workspace: Workspace, run: (order: Order) => Promise<Outcome>): void {
  process.on("disconnect", () => process.exit()).on("SIGTERM", () => process.exit()); // disposes the workspace
  process.on("message", (order: Order) => {
    const running = Promise.race([run(order), workspace.failed]);
    running.then(
      (outcome) => process.send!({ outcome } satisfies Answer<Outcome>),
      (error: Error) => process.send!({ error: error.message } satisfies Answer<Outcome>),
    );
  });
  process.send!({ pid: process.pid, isMainThread: true, address: "" } satisfies Introduction);
}

/** A client process, with the other processes or threads that it has started. */
export interface Cell<O extends Outcome = Outcome> {
  readonly pid: number;
  measure(order: Order): Promise<O>;
  stop(): Promise<void>;
}

/** Starts a process that calls {@link obey}. */
export async function startCell<O extends Outcome = Outcome>(
  workspace: Workspace,
  role: string,
  address: string,
  options: PeerOptions,
): Promise<Cell<O>> {
  let settle: ((answer: Answer<O>) => void) | null = null;
  const peer: Peer = await workspace.start(role, address, {
    ...options,
    onMessage: (message) => settle?.(message as Answer<O>),
  });
  return {
    pid: peer.introduction.pid,
    measure: async (order) => {
      const { promise, resolve } = Promise.withResolvers<Answer<O>>();
      settle = resolve;
      peer.send(order);
      const answer = await promise;
      if ("error" in answer) throw new CommandError(answer.error);
      return answer.outcome;
    },
    stop: () => peer.stop(),
  };
}

/** Outcomes of cells that worked at the same time as one: the sum of what they did. */
export function together(outcomes: readonly Outcome[]): Outcome {
  const latencies = new Float64Array(outcomes.reduce((sum, one) => sum + one.latencies.length, 0));
  let at = 0;
  for (const one of outcomes) {
    latencies.set(one.latencies, at);
    at += one.latencies.length;
  }
  const sum = (of: keyof Cpu): number => outcomes.reduce((total, { cpu }) => total + (cpu?.[of] ?? 0), 0);
  const cpu = outcomes.every((one) => one.cpu) ? { onMs: sum("onMs"), waitMs: sum("waitMs") } : null;
  return { latencies, seconds: Math.max(...outcomes.map(({ seconds }) => seconds)), cpu };
}

export function p99({ latencies }: Round): number {
  return Float64Array.from(latencies).sort()[Math.floor(0.99 * latencies.length)]!;
}

/** One case of one system, and how the first system of the case compares. */
export interface Compared extends Summary {
  worst_us: number;
  /** Time on a processor per request, of all threads of all sides; `null` outside Linux. */
  cpu_us: number | null;
  /** First system ÷ this system, median of the rounds' ratios of what the case compares. 1 for the first system itself. */
  ratio: number;
  /** The same ratio of CPU time. */
  cpu_ratio: number | null;
  /** Ratios of the rounds, from low to high. */
  ratios: number[];
}

function cpuUs({ cpu, latencies }: Outcome): number {
  return cpu === null ? NaN : (1000 * cpu.onMs) / latencies.length;
}

/** Compares each round of each system with the same round of the first system, by `figure`. */
export function compare<S extends string>(
  results: ReadonlyMap<S, Outcome[]>,
  figure: (outcome: Outcome) => number,
): (Compared & { system: S })[] {
  const [own = []] = results.values();
  const known = (value: number): number | null => (Number.isFinite(value) ? round(value) : null);
  return [...results].map(([system, rounds]) => {
    const ratios = rounds.map((one, i) => figure(own[i]!) / figure(one)).sort((a, b) => a - b);
    return {
      system,
      ...summarise(rounds),
      worst_us: round(
        Math.max(...rounds.map(({ latencies }) => latencies.reduce((most, ns) => Math.max(most, ns), 0))) / 1000,
      ),
      cpu_us: known(median(rounds.map(cpuUs))),
      ratio: round(median(ratios)),
      cpu_ratio: known(median(rounds.map((one, i) => cpuUs(own[i]!) / cpuUs(one)))),
      ratios: ratios.map(round),
    };
  });
}
