/**
 * Time limits in virtual time: a limit that is due fires soon, and none fires before. What a caller gave up ends soon too, and no
 * timer of the library is left. Worlds above a real wire check less: see `World.isExact`.
 */

import type { Exchange } from "../../src/bus/exchange.ts";
import { SlotbusError } from "../../src/errors.ts";
import type { Call, Inside, Run, Source } from "./books.ts";
import type { Slot } from "./link.ts";
import type { BusProcess as Bus, Host as Process } from "./processes.ts";
import type { World } from "./world.ts";

/** Longest delay of a timeout, in ms: a tick looks every 20 ms, and the first one after a rest comes later. */
const TIMEOUT_LATE_MS = 45;
/** Longest delay of a limit with its own timer, in ms. */
const TIMER_LATE_MS = 3;
/** Most readings of the clock between the time when a limit is due and its effect; each takes `VirtualTime.cost`. */
const READINGS = 60;
/** Rounding of times, in ms. */
const ROUND_MS = 0.01;
const REAL_ROUND_MS = 2;
/** Longest time until a source whose reader has left runs its `finally`, in ms: a full socket, frames, and its own pauses. */
const SOURCE_MS = 200;
/** Longest time until an aborted call settles, in ms: readings of the clock take time. */
const ABORT_MS = 20;
/** Time after which an idle bus has no timer, in ms: one more tick, the checks of `retries.ts`, and the time between two checks. */
const REST_MS = 75;

/** Expects that `isDone` becomes true within `ms`. Stops of the processes do not count; the end of one ends the expectation. */
export function expectWithin(
  world: World,
  ms: number,
  hosts: readonly Process[],
  isDone: () => boolean,
  what: string,
): void {
  if (!world.isExact) return;
  world.time.after(ms, () => {
    if (isDone() || hosts.some(({ isDead }) => isDead)) return;
    if (hosts.some((host) => host.wasStopped(ms))) expectWithin(world, ms, hosts, isDone, what);
    else world.broken(`${what} within ${ms} ms`);
  });
}

/** Checks the time at which a call settled, with a response (`error` is `undefined`) or an error. */
export function checkTimeout(world: World, call: Call, error: unknown): void {
  const name = `call ${call.index}`;
  const due = call.startedAt + call.timeoutMs;
  const isLate = call.settledAt > due + TIMEOUT_LATE_MS + READINGS * world.time.cost && !call.readsItems;
  const wasStopped = call.host.wasStopped(150 + world.time.now - call.settledAt); // a stream is read after it settled
  world.expect(!isLate || wasStopped, `${name} settled after its timeout of ${call.timeoutMs} ms`);
  if (!(error instanceof SlotbusError)) return;
  const isByLimit = error.code === "TIMEOUT" || (error.code === "NO_WORKER" && !call.isChoosy);
  const roundMs = world.isExact ? ROUND_MS : REAL_ROUND_MS;
  if (isByLimit && !world.isTaintedCall(call))
    world.expect(world.time.now >= due - roundMs, `${name} failed with ${error.code} before its timeout`);
}

/** Watches the limits of a streamed response, which begins now. */
export function watchLimits(world: World, call: Call, exchange: Exchange, slot: Slot): void {
  const { deadline = Infinity, idle = Infinity } = exchange.options;
  const { up, down } = slot.client;
  const { time } = world;
  const { host } = call;
  const began = time.now;
  const lateMs = TIMER_LATE_MS + READINGS * time.cost;
  const moved = (): number => Math.max(began, up?.writtenAt ?? 0, down!.readAt);
  call.limits = { deadlineAt: began + deadline, idleAt: () => moved() + idle };
  if (deadline !== Infinity) {
    const isOver = (): boolean => !exchange.isStreaming;
    const what = `call ${call.index}: its deadline of ${deadline} ms did not end the stream`;
    expectWithin(world, deadline + lateMs, [host], isOver, what);
  }
  const watchIdle = (): void => {
    if (!exchange.isStreaming || host.isDead) return;
    const due = moved() + 2 * idle + lateMs;
    if (time.now < due || host.wasStopped(2 * idle + lateMs))
      time.after(Math.max(due - time.now, TIMER_LATE_MS), watchIdle);
    else world.broken(`call ${call.index}: its idle limit of ${idle} ms did not end the stream`);
  };
  if (idle !== Infinity) time.after(TIMER_LATE_MS, watchIdle); // the exchange streams from now on, but not yet
}

/** Checks the error that a reader got which has waited since `waitsFrom`. */
export function checkStreamTimeout(world: World, call: Call, waitsFrom: number, error: unknown): void {
  if (!world.isExact || !(error instanceof SlotbusError) || error.code !== "STREAM_TIMEOUT") return;
  const { now } = world.time;
  const { limits } = call;
  const isIdle = error.message.includes(" was idle for ");
  const due = (isIdle ? limits?.idleAt() : limits?.deadlineAt) ?? Infinity;
  world.expect(now >= due - ROUND_MS, `call ${call.index}: ${error.message} It was not due`);
  const latest = Math.max(isIdle ? due + call.idleMs : due, waitsFrom) + TIMER_LATE_MS + READINGS * world.time.cost;
  world.expect(now <= latest || call.host.wasStopped(100), `call ${call.index}: ${error.message} It was due long ago`);
}

/** Expects that a call settles, because it was aborted. A caller that reads items may be slow. */
export function expectAborted(world: World, call: Call): void {
  const what = `call ${call.index} was aborted, and it did not settle`;
  expectWithin(world, ABORT_MS, [call.host], () => call.isSettled || call.readsItems, what);
}

/** Expects that a generator of items ends, because its call is over already. */
export function expectItemsEnd(world: World, call: Call, { host }: Run, state: Inside): void {
  if (call.outcome === "") return;
  const what = `call ${call.index} was over before its handler began, and its items did not end`;
  expectWithin(world, SOURCE_MS, [call.host, host], () => !state.isInside, what);
}

/** Expects that the sources of a call end: the call is over, so nobody reads them. */
export function expectSourcesEnd(world: World, call: Call): void {
  const isEnded = ({ ended, isInside }: Source): boolean => ended !== null && !isInside;
  const { sources, inside, runs, host, index } = call;
  const isOwnDone = (): boolean => sources.every(isEnded) && inside.every((one) => !one.isInside);
  if (!isOwnDone())
    expectWithin(world, SOURCE_MS, [host], isOwnDone, `call ${index} is over, and its source did not end`);
  for (const run of runs) {
    const { source, inside: items } = run;
    const isDone = (): boolean => (!source || isEnded(source)) && !items?.isInside;
    const what = `call ${index} is over, and the source of its response did not end`;
    if (!isDone()) expectWithin(world, SOURCE_MS, [host, run.host], isDone, what);
  }
}

/** Expects no timer of the library in a process that has closed its bus or worker. */
export function expectNoTimers(world: World, host: Process, name: string): void {
  expectWithin(world, REST_MS, [host], () => host.timers === 0, `${name} is closed and still has timers`);
}

/** Checks that a bus without requests has no timer. Called again and again. */
export function checkQuiet(world: World, bus: Bus): void {
  const { dispatcher, host, wire } = bus;
  const isBusy = dispatcher.unsettled.count > 0 || bus.readyCalls > 0 || bus.isClosing;
  const { now } = world.time;
  if (isBusy || host.wasStopped(REST_MS) || [...wire.connections].some((connection) => connection.isBusy))
    bus.busyAt = now;
  if (now < Math.max(bus.busyAt, bus.calledAt) + REST_MS) return;
  world.expect(host.timers === 0, `${bus.name} is idle and has ${host.timers} timers`);
}
