/** A process of Bun that carries a page of fault points, and speaks in messages. */

import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { join } from "node:path";
import { until } from "../../support.ts";
import { processState } from "../actor.ts";
import type { Fault } from "./labels.ts";
import { Page } from "./page.ts";

/** Longest wait for anything, in ms: a busy machine may keep a process waiting for half a minute. */
export const PATIENCE_MS = 150_000;
/** What is closed is gone from /proc after this time at the latest. */
const HELD_MS = 30_000;
export const SIGNALS: Partial<Record<Fault, string>> = { kill: "SIGKILL", abort: "SIGABRT" };
/** Mappings of a bus or of a fleet. */
const OURS = /memfd:slotbus|\.fleet/;

export interface Holdings {
  descriptors: number;
  mappings: number;
}

export interface ActorOptions<Report> {
  /** For people. */
  role: string;
  /** The program's file. */
  program: string;
  args: string[];
  /** Where its page and its bus or fleet lie. */
  directory: string;
  runtime: string;
  library: string;
  problem: (text: string) => void;
  /** Whether the report is dealt with; otherwise it waits to be heard. */
  take: (report: Report) => boolean;
}

let serial = 0;

export class PointActor<Order, Report extends { is: string }> {
  readonly role: string;
  readonly process: Bun.Subprocess;
  readonly page: Page;
  readonly reports: Report[] = [];
  /** It may end; otherwise that is a problem. */
  condemned = false;
  gone = false;
  /** At its first proof. */
  #holdings: Holdings | null = null;

  constructor({ role, program, args, directory, runtime, library, problem, take }: ActorOptions<Report>) {
    this.role = role;
    this.page = new Page(join(directory, `page-${++serial}`));
    this.process = Bun.spawn([process.execPath, program, ...args], {
      env: {
        ...process.env,
        SLOTBUS_DIR: runtime,
        SLOTBUS_LIB: library,
        SLOTBUS_POINTS: this.page.file,
        BUN_ENABLE_CRASH_REPORTING: "0",
      },
      stdio: ["ignore", "inherit", "inherit"],
      ipc: (report: Report) => {
        if (!take(report)) this.reports.push(report);
      },
      onExit: (child, code, signal) => {
        this.gone = true;
        if (!this.condemned) problem(`the ${role} (pid ${child.pid}) ended by itself: ${code ?? signal}`);
      },
    });
  }

  get pid(): number {
    return this.process.pid;
  }

  tell(order: Order): void {
    if (!this.gone) this.process.send(order);
  }

  /** The next report of a kind (and, if told, of that nature), taken; `null` when the process has ended before. */
  async hear<K extends Report["is"]>(
    kind: K,
    fits: (report: Extract<Report, { is: K }>) => boolean = () => true,
  ): Promise<Extract<Report, { is: K }> | null> {
    const is = (report: Report): boolean => report.is === kind && fits(report as Extract<Report, { is: K }>);
    const find = (): number => this.reports.findIndex(is);
    await until(() => this.gone || find() >= 0, `the ${this.role} says "${kind}"`, PATIENCE_MS).catch((error) => {
      throw new Error(`${error.message} (${this})`);
    });
    const at = find();
    return at < 0 ? null : (this.reports.splice(at, 1)[0] as Extract<Report, { is: K }>);
  }

  /** As the kernel tells it: `T` is stopped. */
  get state(): string {
    return processState(this.pid);
  }

  toString(): string {
    return `${this.role} ${this.pid} ${this.gone ? "gone" : this.state}`;
  }

  /** Descriptors and mappings that the bus or the fleet may have to do with. */
  held(): Holdings {
    const folder = `/proc/${this.pid}`;
    const targets = readdirSync(`${folder}/fd`).map((fd) => {
      try {
        return readlinkSync(`${folder}/fd/${fd}`);
      } catch {
        return ""; // closed meanwhile
      }
    });
    const maps = readFileSync(`${folder}/maps`, "latin1").split("\n");
    return {
      descriptors: targets.filter((target) => target !== "").length,
      mappings: maps.filter((line) => OURS.test(line)).length,
    };
  }

  /** Whether it was counted before. */
  get isCounted(): boolean {
    return this.#holdings !== null;
  }

  /** What is wrong when it goes on holding more than when it was counted first, or than `most`; `null`: nothing. */
  async count(most: Holdings = (this.#holdings ??= this.held())): Promise<string | null> {
    let now = most;
    const isBack = (): boolean => {
      now = this.held();
      return now.descriptors <= most.descriptors && now.mappings <= most.mappings;
    };
    try {
      await until(isBack, "", HELD_MS);
      return null;
    } catch {
      const held = `${now.descriptors} descriptors and ${now.mappings} mappings`;
      return `the ${this.role} holds ${held}, not ${most.descriptors} and ${most.mappings}`;
    }
  }

  /** Resolves when the fault that it met has ended it, with what is wrong about its end; `null`: nothing. */
  async ended(fault: Fault): Promise<string | null> {
    await until(() => this.gone, "the process has ended", PATIENCE_MS);
    const { signalCode } = this.process;
    return signalCode === SIGNALS[fault] ? null : `the ${this.role} ended by ${signalCode}, not ${SIGNALS[fault]}`;
  }

  kill(): void {
    this.condemned = true;
    this.process.kill("SIGKILL");
  }
}
