/** The processes of a world, as its calls, handlers, faults and invariants see them: simulated here, real ones in `real/`. */

import type { Asker, BusRequest, RequestOptions } from "../../src/bus/call.ts";
import type { Kind } from "../../src/bus/exchange.ts";
import type { Dispatcher } from "../../src/bus/dispatcher.ts";
import type { ResolvedBusOptions } from "../../src/bus/options.ts";
import type { Clock } from "../../src/clock.ts";
import type { Die } from "./choices.ts";
import type { ReplayConnection } from "./connection.ts";
import type { WorkerEnd } from "./worker-end.ts";

/** A process. */
export interface Host extends Clock {
  readonly pid: number;
  readonly time: { readonly now: number };
  readonly isDead: boolean;
  /** Whether others can see that the process has ended. */
  readonly isProvenDead: boolean;
  /** Whether the process did not run at some time within the last `ms`. */
  wasStopped(ms: number): boolean;
  /** Number of timers of the library; 0 in a real process, where nobody counts them. */
  readonly timers: number;
  /** Stops the process for `ms`. */
  stop(ms: number): void;
  /** Runs `run` in this process after `ms`. */
  later(ms: number, run: () => void): unknown;
  /** Resolves after `ms`. */
  pause(ms: number): Promise<void>;
}

/** The process of a client. */
export interface BusProcess {
  readonly name: string;
  readonly die: Die;
  readonly host: Host;
  readonly options: ResolvedBusOptions;
  readonly dispatcher: Dispatcher;
  /** Number of requests that were refused because the queue was full. */
  readonly overloaded: number;
  /** Makes a request, and checks that the queue is full if the bus says so. */
  ask(request: BusRequest, options: RequestOptions, kind: Kind): ReturnType<Dispatcher["ask"]>;
  /** What a client of a contract and `fetch` use. */
  readonly asker: Asker;
  readonly wire: {
    readonly connections: Iterable<{ room: number; isBusy?: boolean }>;
    readonly all: Iterable<ReplayConnection>;
  };
  readonly workers: readonly WorkerProcess[];
  isClosing: boolean;
  isClosed: boolean;
  /** Number of pending calls of `ready`. */
  readyCalls: number;
  /** Times at which the bus was last found busy, and last called, in ms. */
  busyAt: number;
  calledAt: number;
  startWorker(): unknown;
  /** Drains for at most `limitMs`, then closes the bus. */
  close(limitMs: number): Promise<void>;
  kill(): void;
}

/** The process of a worker. */
export interface WorkerProcess {
  readonly name: string;
  readonly die: Die;
  readonly host: Host;
  readonly wire: {
    readonly isConnected: boolean;
    readonly leftOver: number;
    readonly ends: readonly WorkerEnd[];
    kill(): void;
    /** Breaks the connection while both processes live. */
    cut(): void;
  };
  readonly isClosing: boolean;
  /** Drains for at most `limitMs`, then closes the worker. */
  close(limitMs: number): Promise<void>;
}
