/** Types of values that went through JSON, and that such values really arrive. */

import { expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { contract, type Handlers, type Jsonify, items, rpc, stream, typed } from "../src/index.ts";
import { type BusEvent, EventBus, topic } from "../src/events/index.ts";
import { z } from "zod";
import type { Equal, Expect } from "./signatures-bus.ts";
import { Workspace } from "./support.ts";

const root = resolve(import.meta.dir, "..");

type Id = string & { readonly __brand: "id" };
declare const hidden: unique symbol;
interface Plain {
  id: Id;
  n?: number;
  tags: readonly string[];
  at: [number, string];
  nested: { u: unknown };
}
interface Tree {
  name: string;
  children: Tree[];
}
type Json = string | number | boolean | null | Json[] | { [key: string]: Json };
class Point {
  constructor(readonly x: number) {}
  length(): number {
    return this.x;
  }
}
class Self {
  a = new Date(0);
  toJSON(): this {
    return this;
  }
}

/** Refers to itself, and JSON changes it. */
interface Dated {
  at: Date;
  parent?: Dated;
  children: readonly Dated[];
}
interface Read {
  at: string;
  parent?: Read;
  children: readonly Read[];
}
type Nested = Date | Nested[] | { in: Nested };
type NestedRead = string | NestedRead[] | { in: NestedRead };
/** Grows with each step. */
interface Grows<T> {
  value: T;
  at: Date;
  next?: Grows<T[]>;
}

export type OfJson = [
  // as it was written
  Expect<Equal<Jsonify<Plain>, Plain>>,
  Expect<Equal<Jsonify<Tree>, Tree>>,
  Expect<Equal<Jsonify<Json>, Json>>,
  Expect<Equal<Jsonify<unknown>, unknown>>,
  Expect<Equal<Jsonify<never>, never>>,
  Expect<Equal<Jsonify<object>, object>>,
  // toJSON, which is called once
  Expect<Equal<Jsonify<Date>, string>>,
  Expect<Equal<Jsonify<Id | Date>, Id | string>>,
  Expect<Equal<Jsonify<Self>, { a: string }>>,
  Expect<Equal<Jsonify<{ u: URL; b: Buffer }>, { u: string; b: { type: "Buffer"; data: number[] } }>>,
  // properties
  Expect<
    Equal<
      Jsonify<{ d: Date; readonly r: Date | null; o?: Date; f: () => void; m(): void }>,
      { d: string; readonly r: string | null; o?: string }
    >
  >,
  Expect<
    Equal<
      Jsonify<{ a: string | undefined; b: number | (() => void); c: undefined; [hidden]: 1 }>,
      { a?: string; b?: number; c?: never }
    >
  >,
  Expect<Equal<Jsonify<{ u: unknown; d: Date; x?: never }>, { u: unknown; d: string; x?: never }>>,
  Expect<Equal<Jsonify<Record<string, Date>>, Record<string, string>>>,
  Expect<Equal<Jsonify<{ [key: string]: Date | 1; a: 1 }>, { [key: string]: string | 1; a: 1 }>>,
  Expect<Equal<Jsonify<{ is: "a"; d: Date } | { is: "b" }>, { is: "a"; d: string } | { is: "b" }>>,
  Expect<Equal<Jsonify<Point>, { readonly x: number }>>,
  // two fields of an Error are not an Error
  Expect<Equal<Jsonify<{ name: string; message: string; at: Date }>, { name: string; message: string; at: string }>>,
  // arrays and tuples
  Expect<Equal<Jsonify<(string | undefined)[]>, (string | null)[]>>,
  Expect<Equal<Jsonify<readonly Date[]>, readonly string[]>>,
  Expect<
    Equal<Jsonify<readonly [Date, undefined, (() => void)?, ...Date[]]>, readonly [string, null, null?, ...string[]]>
  >,
  // what JSON leaves out, and what it refuses
  Expect<Equal<Jsonify<Map<string, Date>>, {}>>,
  Expect<Equal<Jsonify<{ s: Set<1>; r: RegExp }>, { s: {}; r: {} }>>,
  Expect<Equal<Jsonify<{ v: Uint8Array }>, { v: Record<number, number> }>>,
  Expect<Equal<Jsonify<bigint>, never>>,
  Expect<Equal<Jsonify<{ b: bigint }>, { b: never }>>,
];

/** Compiled, never run. */
export function recursive(dated: Jsonify<Dated>, nested: Jsonify<Nested>, grows: Jsonify<Grows<number>>): void {
  const read: Read = dated;
  dated = read;
  const nestedRead: NestedRead = nested;
  nested = nestedRead;
  grows.next!.next!.value[0]![0]!.toFixed();
  grows.next!.next!.at.trim();
  // @ts-expect-error: text
  dated.parent!.children[0]!.at.getTime();
}

interface Order {
  at: Date;
  note: string | undefined;
  cents: (number | undefined)[];
}
interface OrderRead {
  at: string;
  note?: string;
  cents: (number | null)[];
}

const shop = contract("shop", {
  buy: rpc<Order, Order>(),
  list: stream<{ since: Date }, Date | Uint8Array>(),
  put: rpc({ input: items(typed<Order>()), output: typed<void>(), errors: { LATE: typed<Date>() } }),
  parsed: rpc({ input: z.object({ at: z.coerce.date() }), output: z.object({ at: z.coerce.date() }) }),
});
type Of<M extends keyof typeof shop.methods> = Parameters<Handlers<typeof shop>[M]>[0];
const clients = (client: ReturnType<Workspace["bus"]> extends Promise<infer Bus> ? Bus : never) => client.client(shop);
type Client = ReturnType<typeof clients>;

export type OfContracts = [
  Expect<Equal<Of<"buy">, OrderRead>>,
  Expect<Equal<Of<"list">, { since: string }>>,
  Expect<Equal<Of<"put">, AsyncIterable<OrderRead>>>,
  Expect<Equal<Of<"parsed">, { at: Date }>>,
  Expect<Equal<Parameters<Client["buy"]>[0], Order>>,
  Expect<Equal<Awaited<ReturnType<Client["buy"]>>, OrderRead>>,
  Expect<Equal<ReturnType<Client["list"]>, AsyncGenerator<string | Uint8Array, void, void>>>,
  Expect<Equal<Awaited<ReturnType<Client["parsed"]>>, { at: Date }>>,
];

type Paid = BusEvent<{ paid: Order }, "paid">;
export type OfEvents = [Expect<Equal<Paid["payload"], OrderRead>>];

const order: Order = { at: new Date(7), note: undefined, cents: [1, undefined] };
const arrived: OrderRead = { at: "1970-01-01T00:00:00.007Z", cents: [1, null] };

test("a call without a schema: both sides get the types that they declare", async () => {
  await using space = new Workspace();
  const bus = await space.bus();
  const seen: unknown[] = [];
  (await space.worker()).implement(shop, {
    buy: (input) => {
      seen.push(input);
      return { ...order, at: new Date(input.at) };
    },
    list: async function* ({ since }) {
      yield new Date(since);
      yield new Uint8Array([1]);
    },
    put: async (orders, { errors }) => {
      for await (const one of orders) seen.push(one);
      throw errors.LATE(new Date(7));
    },
    parsed: ({ at }) => ({ at: new Date(at.getTime() + 1) }),
  });
  await bus.ready();
  const client = bus.client(shop);
  expect(await client.buy(order)).toStrictEqual(arrived);
  const listed: (string | Uint8Array)[] = [];
  for await (const item of client.list({ since: order.at })) listed.push(item);
  expect(listed).toStrictEqual([arrived.at, new Uint8Array([1])]);
  expect(await client.put([order]).catch((error) => error.data)).toBe(arrived.at);
  expect(seen).toStrictEqual([arrived, arrived]);
  expect((await client.parsed({ at: order.at })).at).toStrictEqual(new Date(8));
});

test("an event: the payload has its declared type", async () => {
  await using bus = await EventBus.local<{ paid: Order }>();
  const subscription = bus.subscribe(topic("paid"));
  bus.publish("paid", order);
  const payloads: OrderRead[] = [];
  for (const event of subscription.poll()) if (event.topic) payloads.push(event.payload);
  expect(payloads).toStrictEqual([arrived]);
});

test("an editor shows a type as it was written, or as it arrives, without internal names", () => {
  const folder = mkdtempSync(join(tmpdir(), "slotbus-types-"));
  try {
    writeFileSync(
      join(folder, "shown.ts"),
      `import { type Client, contract, rpc } from "${root}/src/index.ts";
interface User { name: string; tags?: string[] }
const users = contract("users", { get: rpc<User, User>(), seen: rpc<void, { at: Date; by: User; f(): void }>() });
declare const client: Client<typeof users>;
export const shown: number[] = [client.get, await client.seen()];
`,
    );
    const shown = [...compile(folder).matchAll(/Type '(.*)' is not assignable to type 'number'/g)];
    expect(shown.map(([, type]) => type)).toEqual(["Call<User, User>", "{ at: string; by: User; }"]);
  } finally {
    rmSync(folder, { recursive: true });
  }
}, 60_000);

test("a package that exports contracts, and helpers that make them, gets declarations", () => {
  const folder = mkdtempSync(join(tmpdir(), "slotbus-types-"));
  try {
    writeFileSync(
      join(folder, "shared.ts"),
      `import { type Arriving, contract, items, rpc, type SlotBus, stream, typed } from "slotbus";
interface Page<T> { items: T[]; at: Date }
export const shop = contract("shop", {
  get: rpc<string, Page<Date>>(),
  all: stream<void, Date>(),
  put: rpc({ input: items(typed<Date>()), output: typed<Page<1>>(), errors: { LATE: typed<Date>() } }),
  send: stream({ input: items(typed<Date>()), output: typed<1>() }),
});
export const open = (bus: SlotBus) => bus.client(shop);
export function crud<T extends { id: string }>() {
  return contract("crud", { get: rpc<string, T>(), all: stream<void, Page<T>>(), put: rpc({ input: typed<T>() }) });
}
export async function read<T extends { id: string }>(bus: SlotBus): Promise<Arriving<T>> {
  return await bus.client(crud<T>()).get("1");
}
export const found = async (bus: SlotBus) => (await bus.client(crud<{ id: string; at: Date }>()).get("1")).at.trim();
export const hidden = <T extends { id: string }>(bus: SlotBus) => bus.client(crud<T>()).get("1");
`,
    );
    const outDir = join(folder, "out");
    const emit = { noEmit: false, declaration: true, emitDeclarationOnly: true, rootDir: "/", outDir };
    expect(compile(folder, emit)).toBe("");
    const declared = readFileSync(join(outDir, folder, "shared.d.ts"), "utf8");
    expect(declared.match(/import\("(?!slotbus").*?\)\.\w+/g)).toBeNull(); // names from a file outside the package's exports
  } finally {
    rmSync(folder, { recursive: true });
  }
}, 60_000);

/** The compiler's output for the files in a folder. */
function compile(folder: string, options: object = {}): string {
  const types = { typeRoots: [join(root, "node_modules/@types")], ...options };
  const config = { extends: join(root, "tsconfig.json"), compilerOptions: types, include: ["*.ts"] };
  writeFileSync(join(folder, "tsconfig.json"), JSON.stringify(config));
  const run = Bun.spawnSync([join(root, "node_modules/.bin/tsc"), "-p", folder], { stderr: "inherit" });
  return run.stdout.toString();
}
