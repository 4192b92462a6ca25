/** The labels of the C sources, and for each: who passes it, what makes it be passed, which faults it can have. */

import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

export const FAULTS = ["kill", "stop", "abort", "error"] as const;
/** `hang` is a stop for longer than anybody waits for a lock of a fleet. */
export type Fault = (typeof FAULTS)[number] | "hang";

/** Who carries the fault: the client, a worker served by its event loop, a worker that blocks. */
export type Role = "client" | "worker" | "blocker";

/** What is done while a fault is armed. */
export type Act = "mixed" | "streams" | "giveup" | "sync" | "cold" | "far" | "attach" | "reopen";

/** One label as one side passes it. */
export interface Point {
  label: string;
  role: Role;
  act: Act;
  /** The label stands before a system call, which can be made to fail. */
  fails: boolean;
}

export const LABEL = /^(client|worker|both|fleet|ring|lease)\.[a-z]+\.[a-z]+$/;
/** The sides of the bus; the others are those of the fleet (`fleet/points/labels.ts`). */
const BUS = /^(client|worker|both)\./;
const root = join(import.meta.dir, "../../..");

/** A label as it stands in the sources; `fails`: before a system call, which can be made to fail. */
export interface Label {
  readonly label: string;
  readonly fails: boolean;
  readonly file: string;
}

/** Every label of the C sources, as often as it stands there. */
export function labelsInSources(): Label[] {
  const files = readdirSync(join(root, "csrc")).filter((file) => file.endsWith(".c"));
  return files.flatMap((file) => {
    const text = readFileSync(join(root, "csrc", file), "utf8");
    const found = text.matchAll(/\bSB_(POINT|FAULT)\("([^"]*)"/g);
    return [...found].map(([, macro, label]) => ({ label: label!, fails: macro === "FAULT", file }));
  });
}

/** By `operation` or `operation.moment`; everything else is passed by `mixed` traffic. */
const ACTS: Record<string, Act> = {
  "wake.futex": "sync",
  "wake.woken": "sync",
  attached: "attach",
  begin: "streams",
  finish: "streams",
  flow: "streams",
  close: "attach",
  connect: "attach",
  directory: "attach",
  drop: "attach",
  futex: "cold",
  goodbye: "attach",
  hello: "attach",
  join: "attach",
  lock: "reopen",
  memfd: "attach",
  offer: "attach",
  peer: "attach",
  quarantine: "giveup",
  region: "attach",
  sleep: "sync",
  socket: "reopen",
  start: "attach",
  statistics: "reopen",
  stop: "attach",
  "complete.freed": "giveup",
  "complete.late": "giveup",
  "message.receive": "cold",
  "tick.deadline": "giveup",
  "tick.ring": "giveup",
  trim: "far",
  unlock: "reopen",
  unmap: "attach",
  "wait.cold": "cold",
  "wait.looked": "sync",
  "wait.warm": "cold",
  withdraw: "giveup",
};

/** Where one side passes a label while it does something else. */
const ACTS_OF_ROLE: Record<string, Act> = {
  "client.both.directory": "reopen",
  "client.client.close": "reopen",
  "client.both.futex": "sync",
  "worker.worker.socket": "attach",
};

/** Only a worker that blocks passes these. */
const BLOCKING = new Set(["worker.wait", "worker.message", "both.futex"]);

function pointOf(label: string, fails: boolean, role: Role): Point {
  const [side, operation, moment] = label.split(".");
  const act = ACTS_OF_ROLE[`${role}.${side}.${operation}`] ?? ACTS[`${operation}.${moment}`] ?? ACTS[operation!];
  return { label, role, act: act ?? "mixed", fails };
}

/** The labels of the sources that the bus has, and those that the fleet has. */
export function labelsOf(system: "bus" | "fleet"): Label[] {
  return labelsInSources().filter(({ label }) => BUS.test(label) === (system === "bus"));
}

/** What is to be met of the bus: a label of both sides counts twice. */
export function points(): Point[] {
  return labelsOf("bus").flatMap(({ label, fails }) => {
    const [side, operation] = label.split(".");
    const worker: Role = BLOCKING.has(`${side}.${operation}`) ? "blocker" : "worker";
    const roles: Role[] = side === "both" ? ["client", worker] : [side === "client" ? "client" : worker];
    return roles.map((role) => pointOf(label, fails, role));
  });
}
