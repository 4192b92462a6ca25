/** What must be true in every world. */

import { RemoteError, SlotbusError } from "../../src/errors.ts";
import { isContractFault } from "./contracts.ts";
import { type Call, Planned, type Run } from "./books.ts";
import type { BusProcess as Bus, WorkerProcess } from "./processes.ts";
import { PAYLOAD_BYTES } from "./sizes.ts";
import type { World } from "./world.ts";

/** Codes that a plain call may reject with. */
const CODES = new Set([
  "TIMEOUT",
  "STREAM_TIMEOUT",
  "WORKER_DIED",
  "NO_WORKER",
  "BUS_OVERLOADED",
  "CLOSED",
  "PAYLOAD_TOO_LARGE",
  "REMOTE",
]);

/** Checks the error of a call against the books. */
export function checkSettled(world: World, call: Call, bus: Bus, error: unknown): void {
  const name = `call ${call.index}`;
  if (error instanceof SlotbusError && !error.mayHaveExecuted && !world.isTaintedCall(call))
    world.expect(
      call.runs.length === 0,
      `${name}: ${error.code} says that no handler ran, and one did: ${error.message}`,
    );
  if (error === call.abortReason && call.isAborted) return;
  if (error instanceof Planned) {
    const isOwn = error === call.inputError || call.sources.some((source) => source.error === error);
    world.expect(isOwn, `${name} failed with another error: ${error.message}`);
    return;
  }
  if (world.isTaintedCall(call)) return;
  if (!(error instanceof SlotbusError)) {
    world.broken(`${name} failed with ${error instanceof Error ? error.stack : String(error)}`);
    return;
  }
  const isFault = CODES.has(error.code) || isContractFault(call, error);
  world.expect(isFault, `${name} failed with ${error.code}: ${error.message}`);
  if (error instanceof RemoteError) {
    const isReal = call.runs.some(({ outcome, source }) => outcome !== "answered" || source?.ended === "failed");
    world.expect(isReal, `${name} failed with an error that its handler did not throw: ${error.message}`);
  }
  if (error.code === "PAYLOAD_TOO_LARGE") {
    const largest = Math.max(call.bodyBytes, ...call.runs.map(({ source }) => source?.total ?? 0));
    const limit = Math.min(PAYLOAD_BYTES, call.bytesLimit);
    const isReal = largest > limit || call.runs.some(({ bodyBytes }) => bodyBytes > call.bytesLimit);
    world.expect(isReal, `${name} failed with ${error.message}`);
  }
  if (error.code === "CLOSED") world.expect(bus.isClosing, `${name}: the bus is not closed`);
}

/** Checks how a streamed response failed. */
export function checkStreamFailure(world: World, call: Call, run: Run, read: number, error: unknown): void {
  const name = `call ${call.index}`;
  const source = run.source!;
  if (error instanceof RemoteError && source.ended === "failed")
    world.expect(read === source.given, `${name} read ${read} of ${source.given} bytes before the error of the source`);
  if (error instanceof SlotbusError && error.code === "WORKER_DIED")
    world.expect(
      read >= call.mustRead,
      `${name} read ${read} of ${call.mustRead} bytes that had arrived before the death`,
    );
}

/** Checks what is left when the world has come to rest. */
export function atTheEnd(world: World): void {
  checkCalls(world);
  for (const bus of world.buses) {
    if (!bus.host.isDead) checkBus(world, bus);
    for (const worker of bus.workers) checkWorker(world, worker);
  }
}

/** Checks the calls and the sources of the processes that live. */
export function checkCalls(world: World): void {
  for (const call of world.calls) {
    if (call.host.isDead) continue;
    world.expect(call.isSettled, `call ${call.index} never settled`);
    const { error } = call;
    if (error instanceof SlotbusError && !error.mayHaveExecuted && !world.isTaintedCall(call))
      world.expect(
        call.runs.length === 0,
        `call ${call.index}: ${error.code} said that no handler ran, and one did later`,
      );
  }
  for (const source of world.sources) {
    if (source.host.isDead) continue;
    world.expect(source.ended !== null, `source ${source.key} (${source.kind}) was never closed`);
    world.expect(!source.isInside, `the finally of source ${source.key} (${source.kind}) never ran`);
  }
  for (const { host, isInside } of world.entered)
    world.expect(host.isDead || !isInside, "the finally of a generator of items never ran");
}

function checkWorker(world: World, { wire, host, name }: WorkerProcess): void {
  if (host.isDead) return;
  world.expect(wire.leftOver === 0, `${name} still has ${wire.leftOver} requests`);
  for (const { claims, isOpen } of wire.ends)
    world.expect(!isOpen || claims.every((claim) => claim === null), `${name} still has a claim`);
}

/** Checks that a bus has closed and has nothing left. */
export function checkBus(world: World, bus: Bus): void {
  const { dispatcher, wire, name } = bus;
  const { unsettledAtEnd, queued } = dispatcher.stats();
  world.expect(bus.isClosed, `${name} never closed`);
  world.expect(unsettledAtEnd === 0, `${name} had ${unsettledAtEnd} unsettled requests at the end`);
  world.expect(dispatcher.unsettled.count === 0, `${name} counts ${dispatcher.unsettled.count} unsettled requests`);
  world.expect(queued === 0 && dispatcher.diagnostics().queued.length === 0, `${name} has a queue at the end`);
  world.expect(dispatcher.choice.isEmpty, `${name} has workers at the end`);
  for (const connection of wire.all) {
    if (connection.isOpen) continue;
    const left = connection.places.filter(({ exchange }) => exchange !== null).length;
    world.expect(left === 0, `${name} connection ${connection.id} still carries ${left} exchanges`);
    if (connection.wasJoined)
      world.expect(connection.isForgotten, `${name} connection ${connection.id} was never forgotten`);
  }
}
