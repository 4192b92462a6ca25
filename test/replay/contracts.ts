/** A contract, its handlers, and the calls that clients make through it. */

import { makeClient } from "../../src/contract/client.ts";
import type { CallContext } from "../../src/contract/context.ts";
import { type Client, contract, type Handlers, items, rpc, stream } from "../../src/contract/contract.ts";
import { Implementations } from "../../src/contract/implementations.ts";
import type { Schema } from "../../src/contract/schema.ts";
import { ContractError, ContractMismatchError, RemoteError, SlotbusError, ValidationError } from "../../src/errors.ts";
import { type Call, Planned, type Run } from "./books.ts";
import { optionsOf } from "./callers.ts";
import type { Die } from "./choices.ts";
import { beginRun, handle } from "./handlers.ts";
import { expectItemsEnd, expectWithin } from "./limits.ts";
import type { BusProcess as Bus, Host as Process } from "./processes.ts";
import type { Claimed, World } from "./world.ts";

/** A schema for whole numbers that are not negative; `isAsync`: it validates later. */
function count(isAsync = false): Schema<number> {
  const check = (value: unknown) =>
    Number.isInteger(value) && (value as number) >= 0
      ? { value: value as number }
      : { issues: [{ message: "not a count" }] };
  const validate = (value: unknown) => (isAsync ? Promise.resolve().then(() => check(value)) : check(value));
  return { "~standard": { version: 1, vendor: "replay", validate } };
}

/** A schema for text. */
function text(isAsync = false): Schema<string> {
  const check = (value: unknown) => (typeof value === "string" ? { value } : { issues: [{ message: "not text" }] });
  const validate = (value: unknown) => (isAsync ? Promise.resolve().then(() => check(value)) : check(value));
  return { "~standard": { version: 1, vendor: "replay", validate } };
}

/** Returns an item of the sequence of a call: items have many lengths, so that frames and chunks differ. */
function itemAt(call: Call, index: number): string {
  return `${call.index}:${index}:${"é".repeat((index * 61 + call.index) % 190)}`;
}

const shop = contract("shop", {
  echo: rpc({ input: count(), output: count(true), errors: { REFUSED: count() } }),
  again: rpc({ input: count(), output: count(true), errors: { REFUSED: count() }, idempotent: true }),
  list: stream({ input: count(true), output: text(), errors: { REFUSED: count() } }),
  sum: rpc({ input: items(text()), output: count() }),
  relay: stream({ input: items(text(true)), output: text() }),
});
/** What some workers implement instead: another version, and a method is missing. */
const older = contract("shop", {
  echo: rpc({ input: count(), output: count(true), errors: { REFUSED: count() }, version: "1" }),
  again: shop.methods.again.declaration,
  list: shop.methods.list.declaration,
});

type Context = CallContext<{ REFUSED: Schema<number> }>;

/** Time in which a source of items ends after its reader said "enough", in ms: its own pauses. */
const ENOUGH_MS = 60;
/** Largest number of items. */
const ITEMS = 24;

/** Makes the handler of a worker: contracts, and plain requests. */
export function handlerOf(
  world: World,
  die: Die,
): (request: Parameters<typeof handle>[1]) => ReturnType<typeof handle> {
  let current: Claimed | null = null;
  const calls = new Map<string, Claimed>();
  const begin = (ctx: CallContext): { call: Call; run: Run; die: Die } => {
    const { call, end } = calls.get(ctx.requestId) ?? current!;
    const run = beginRun(world, call, end);
    run.outcome = "answered";
    return { call, run, die: world.choices.die(`call ${call.index} run ${run.index}`) };
  };
  const one = async (input: number, ctx: Context): Promise<number> => {
    const { call, run, die: own } = begin(ctx as CallContext);
    if (!world.isTainted(run.link)) world.expect(input === call.index, `call ${call.index}: its input is ${input}`);
    await run.host.pause(own.small("handler time", 60));
    const how = own.below("answer", 8);
    if (how >= 5) run.outcome = "threw";
    if (how === 5) throw ctx.errors.REFUSED(call.index);
    if (how === 6) throw new Planned("the handler threw");
    return how === 7 ? -1 : call.index;
  };
  const many = async function* (input: number, ctx: Context): AsyncGenerator<string, void, void> {
    const { call, run, die: own } = begin(ctx as CallContext);
    const state = (run.inside = world.enter(run.host));
    expectItemsEnd(world, call, run, state);
    try {
      const total = own.below("items", ITEMS);
      const failsAt = own.chance("fails", 200) ? own.below("fails at", ITEMS) : Infinity;
      for (let index = 0; index < total; index++) {
        if (index === failsAt) run.outcome = "threw";
        if (index === failsAt)
          throw own.chance("declared", 500) ? ctx.errors.REFUSED(index) : new Planned("the items failed");
        await run.host.pause(own.rarely("item delay", 200, 20));
        run.items++;
        yield itemAt(call, index);
      }
      run.outcome = "nothing"; // all items were given
      world.expect(input === call.index || world.isTainted(run.link), `call ${call.index}: its input is ${input}`);
    } finally {
      state.isInside = false;
    }
  };
  const sum = async (input: AsyncIterable<string>, ctx: CallContext): Promise<number> => {
    const { call, run, die: own } = begin(ctx);
    const leavesAt = own.chance("leaves the items", 200) ? own.below("leaves at", ITEMS) : Infinity;
    try {
      for await (const item of input) {
        const isRight = item === itemAt(call, run.read) || world.isTainted(run.link);
        world.expect(isRight, `call ${call.index}: item ${run.read} is ${item}`);
        if (++run.read > leavesAt) break;
      }
    } catch (error) {
      if (!own.chance("responds despite the error", 400)) throw error;
    }
    return run.read;
  };
  const relay = async function* (input: AsyncIterable<string>, ctx: CallContext): AsyncGenerator<string, void, void> {
    const { call, run, die: own } = begin(ctx);
    const state = (run.inside = world.enter(run.host));
    expectItemsEnd(world, call, run, state);
    try {
      const leavesAt = own.chance("leaves the items", 200) ? own.below("leaves at", ITEMS) : Infinity;
      for await (const item of input) {
        const isRight = item === itemAt(call, run.read) || world.isTainted(run.link);
        world.expect(isRight, `call ${call.index}: item ${run.read} is ${item}`);
        run.items++;
        yield item;
        if (++run.read > leavesAt) break;
      }
      run.leftAt = run.items;
      for (let more = own.below("items after its input", 6); more > 0; more--) {
        await run.host.pause(own.below("item delay", 40));
        run.items++;
        yield itemAt(call, run.items - 1);
      }
      run.outcome = "nothing";
    } finally {
      state.isInside = false;
    }
  };
  const served = new Implementations(
    (request) => handle(world, request),
    () => {},
  );
  if (die.chance("older contract", 100))
    served.add(older, { echo: one, list: many, again: one } as unknown as Handlers<typeof older>);
  else served.add(shop, { echo: one, again: one, list: many, sum, relay } as unknown as Handlers<typeof shop>);
  return (request) => {
    current = world.claimOf(request);
    calls.set(request.id, current);
    return served.handle(request);
  };
}

/** The items that a caller sends, with the `finally` of their generator. */
async function* itemsOf(world: World, call: Call, state: { given: number }): AsyncGenerator<string, void, void> {
  const { die, host } = call;
  const inside = world.enter(host);
  call.inside.push(inside);
  try {
    const total = die.below("items", ITEMS);
    const failsAt = die.chance("items fail", world.odds("items", 350, 150))
      ? die.below("items fail at", ITEMS)
      : Infinity;
    for (let index = 0; index < total; index++) {
      if (index === failsAt) {
        call.inputFailedAt = world.time.now;
        throw (call.inputError = new Planned("the source failed"));
      }
      await host.pause(die.rarely("item delay", 200, 20));
      state.given++;
      yield itemAt(call, index);
    }
  } finally {
    inside.isInside = false;
  }
}

const clients = new WeakMap<Bus, Client<typeof shop>>();

/** Returns the client of a bus. */
function clientOf(bus: Bus): Client<typeof shop> {
  let client = clients.get(bus);
  if (!client) clients.set(bus, (client = makeClient(bus.asker, shop)));
  return client;
}

/** Makes a call through the contract. Rejects as the call does, and with the error of its input if that failed. */
export async function callContract(world: World, call: Call, bus: Bus): Promise<void> {
  let failure: unknown = null;
  await callMethod(world, call, bus).catch((error) => {
    failure = error;
  });
  const isOwn = call.inputFailedAt >= world.time.now || call.isCancelled || failure === call.inputError;
  world.expect(isOwn, `call ${call.index}: its input failed, and it ended with ${String(failure ?? "a value")}`);
  if (failure !== null) throw failure;
}

async function callMethod(world: World, call: Call, bus: Bus): Promise<void> {
  const { die } = call;
  const client = clientOf(bus);
  const { deadline: _, ...rest } = optionsOf(world, call, bus);
  const options = { ...rest, headers: { "x-call": String(call.index) } };
  const state = { given: 0 };
  call.isContract = true;
  const input = die.chance("invalid input", 40) ? -5 : call.index;
  const what = world.theme === "items" ? 2 + die.below("method of items", 3) : die.below("method", 5);
  call.readsItems = what === 2 || what === 4;
  if (what < 2) {
    if (what === 1) call.isIdempotent = true;
    const value = await (what === 0
      ? client.echo(input, options)
      : client.again(input, { ...options, idempotent: true }));
    call.value = value;
    world.expect(value === call.index || world.isTaintedCall(call), `call ${call.index} got ${value}`);
  } else if (what === 2) {
    const read = await readItems(
      world,
      call,
      client.list(input, options) as AsyncGenerator<string, void, void>,
      bus.host,
    );
    if (!call.isCancelled) checkItems(world, call, read, null);
  } else if (what === 3) {
    const total = await client.sum(itemsOf(world, call, state), options);
    call.value = total;
    const run = call.runs.at(-1);
    world.expect(total === run?.read || world.isTaintedCall(call), `call ${call.index}: ${total} is not the sum`);
  } else {
    const read = await readItems(
      world,
      call,
      client.relay(itemsOf(world, call, state), options) as AsyncGenerator<string, void, void>,
      bus.host,
    );
    if (!call.isCancelled) checkItems(world, call, read, null);
  }
}

async function readItems(
  world: World,
  call: Call,
  list: AsyncGenerator<string, void, void>,
  host: Process,
): Promise<number> {
  const { die } = call;
  const leavesAt = die.chance("leaves the items", 150) ? die.below("leaves at", ITEMS) : Infinity;
  let read = 0;
  if (die.chance("leaves before the head", world.odds("items", 250, 40))) {
    await leaveEarly(world, call, list, host);
    return 0;
  }
  try {
    for await (const item of list) {
      const isRight = item === itemAt(call, read) || world.isTaintedCall(call);
      world.expect(isRight, `call ${call.index}: item ${read} is ${item}`);
      const run = call.runs.at(-1);
      if (read++ === run?.leftAt && !world.isTaintedCall(call)) {
        const isDone = (): boolean => call.inside.every(({ isInside }) => !isInside);
        const what = `call ${call.index}: the handler needs no more items, and their source did not end`;
        expectWithin(world, ENOUGH_MS, [host, run.host], isDone, what);
      }
      if (read > leavesAt) {
        call.isCancelled = true;
        break;
      }
      await host.pause(die.rarely("reads slowly", 150, 25));
    }
  } catch (error) {
    checkItems(world, call, read, error);
    throw error;
  }
  call.value = read;
  return read;
}

/** Leaves the items, mostly while the first is on its way. */
async function leaveEarly(
  world: World,
  call: Call,
  list: AsyncGenerator<string, void, void>,
  host: Process,
): Promise<void> {
  let isPending = true;
  const first = list.next().finally(() => {
    isPending = false;
  });
  first.catch(() => {});
  await host.pause(call.die.small("leaves after", 60));
  call.isCancelled = true;
  const wasPending = isPending;
  await list.return();
  if (!wasPending) return void (await first);
  const left = (isRight: boolean): void =>
    world.expect(isRight, `call ${call.index}: a reader that had left got more than the end`);
  void first.then(
    ({ done }) => left(done === true),
    () => left(false),
  );
}

/** Compares the items that arrived with those that the handler gave, at the end or at an error of the handler. */
function checkItems(world: World, call: Call, read: number, error: unknown): void {
  const run = call.runs.at(-1);
  const isOfHandler =
    error === null || error instanceof ContractError || (error instanceof RemoteError && run?.outcome === "threw");
  if (world.isTaintedCall(call) || !isOfHandler) return;
  world.expect(read === run?.items, `call ${call.index} got ${read} of ${run?.items} items and then the end`);
}

/** Whether a contract permits the error, and the handler gave cause for it. */
export function isContractFault(call: Call, error: SlotbusError): boolean {
  if (error instanceof ContractMismatchError) return call.isContract;
  if (error instanceof ValidationError) return call.isContract;
  return error instanceof ContractError && call.runs.some(({ outcome }) => outcome === "threw");
}
