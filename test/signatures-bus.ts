/** Type tests of the bus, contracts, fleets, events and claims; test/signatures.test.ts has the rest. */

import type { EventEmitter } from "node:events";
import type * as B from "slotbus";
import { contract, items, rpc, SlotBus, SlotWorker, stream, typed } from "slotbus";
import type * as C from "slotbus/contest";
import { Contest, Fence, type Guard } from "slotbus/contest";
import type * as E from "slotbus/events";
import {
  and,
  type Binding,
  type Cursor,
  EventBus,
  Fleet,
  type Ring,
  type Subscription,
  topic,
  where,
} from "slotbus/events";
import type { Supervisor } from "slotbus/supervisor";

export type Equal<A, Z> = (<X>() => X extends A ? 1 : 2) extends <X>() => X extends Z ? 1 : 2 ? true : false;
export type Expect<Is extends true> = Is;
/** Whether these members exist, have this type and cannot be assigned. */
export type Getters<Class, Key extends keyof Class, Type> = Equal<Pick<Class, Key>, Readonly<Record<Key, Type>>>;
/** Whether an emitter has the events E. */
export type Emits<Class extends { emit: unknown }, Events extends Record<keyof Events, unknown[]>> = Equal<
  Class["emit"],
  EventEmitter<Events>["emit"]
>;
export type Failed = { id: string; path: string };
export type Text = Readonly<Record<string, string>>;

export type OfHelpers = [
  // @ts-expect-error: an assignable type is not the same type
  Expect<Equal<{ a: 1 }, { readonly a: 1 }>>,
  // @ts-expect-error: nor a type that anything is assignable to
  Expect<Equal<number, unknown>>,
  // @ts-expect-error: an assignable member is not a getter
  Expect<Getters<{ a: 1 }, "a", 1>>,
];

type Told = Pick<B.SlotBusEvents, "joined" | "left" | "unresponsive" | "responsive">;
type Ask<Response> = (request: B.BusRequest, options?: B.RequestOptions) => Promise<Response>;

export type OfSlotBus = [
  Expect<Equal<typeof SlotBus.create, (options: B.SlotBusOptions) => Promise<SlotBus>>>,
  Expect<
    Equal<
      typeof SlotBus.connect,
      {
        (options: B.BusOptions & { via: B.RemoteVia | undefined }): Promise<B.PortableBus>;
        (options: B.BusOptions): Promise<SlotBus>;
      }
    >
  >,
  Expect<Getters<SlotBus, "options", B.ResolvedSlotBusOptions>>,
  Expect<Getters<SlotBus, "name", string>>,
  Expect<Getters<SlotBus, "clientNumber", number | null>>,
  Expect<Getters<SlotBus, "closed", boolean>>,
  Expect<Getters<SlotBus, "workers", B.WorkerInfo[]>>,
  Expect<Getters<SlotBus, "supervisor", Supervisor | null>>,
  Expect<Equal<SlotBus["request"], Ask<B.BusResponse>>>,
  Expect<Equal<SlotBus["borrow"], Ask<B.BorrowedResponse>>>,
  Expect<Equal<SlotBus["stream"], Ask<B.StreamedResponse>>>,
  Expect<Equal<SlotBus["requestSync"], (request: B.BusRequest, options?: B.RequestOptions) => B.BusResponse>>,
  Expect<
    Equal<SlotBus["fetch"], (input: string | URL | Request, init?: RequestInit & B.RequestOptions) => Promise<Response>>
  >,
  Expect<Equal<SlotBus["client"], <Of extends B.Contract>(contract: Of) => B.Client<Of>>>,
  Expect<Equal<SlotBus["ready"], (options?: B.ReadyOptions) => Promise<void>>>,
  Expect<Equal<SlotBus["diagnostics"], () => B.Diagnostics>>,
  Expect<Equal<SlotBus["stats"], () => B.BusStats>>,
  Expect<Equal<SlotBus["metrics"], () => string>>,
  Expect<Equal<[SlotBus["ref"], SlotBus["unref"]], [() => void, () => void]>>,
  Expect<Equal<SlotBus["evict"], (worker: number, reason: string) => boolean>>,
  Expect<Equal<SlotBus["drain"], (options?: B.DrainOptions) => Promise<void>>>,
  Expect<Equal<SlotBus["close"], (options?: B.CloseOptions) => Promise<void>>>,
  Expect<Emits<SlotBus, B.SlotBusEvents>>,
  Expect<Equal<Told, Record<keyof Told, [worker: B.WorkerInfo]>>>,
  Expect<Equal<B.SlotBusEvents["connected"], []>>,
  Expect<Equal<B.SlotBusEvents["disconnected"], [reason: B.SlotbusError]>>,
  Expect<Equal<B.SlotBusEvents["died"], [worker: B.WorkerInfo, reason: string]>>,
  Expect<Equal<B.SlotBusEvents["refused"], [peer: { pid: number; uid: number }, reason: string]>>,
  Expect<Equal<keyof B.SlotBusEvents, keyof Told | "died" | "refused" | "connected" | "disconnected">>,
  Expect<Equal<typeof B.drainOnSigterm, (...things: { close(): Promise<unknown> }[]) => () => void>>,
  Expect<Equal<typeof B.memory, () => B.Via>>,
  Expect<Equal<typeof B.socket, () => B.Via>>,
];

type ServeOptions = NonNullable<Parameters<SlotWorker["serve"]>[1]>;

export type OfSlotWorker = [
  Expect<
    Equal<
      typeof SlotWorker.open,
      {
        (options: B.SlotWorkerOptions & { via: B.RemoteVia | undefined }): Promise<B.PortableWorker>;
        (options?: B.SlotWorkerOptions): Promise<SlotWorker>;
      }
    >
  >,
  Expect<Getters<SlotWorker, "name", string>>,
  Expect<Getters<SlotWorker, "connected" | "closed", boolean>>,
  Expect<Getters<SlotWorker, "running" | "wakeups" | "served", number>>,
  Expect<Getters<SlotWorker, "spinning", B.BusStats["spinning"]>>,
  Expect<Equal<SlotWorker["serve"], (handler: B.Handler | B.FetchHandler, options?: ServeOptions) => SlotWorker>>,
  Expect<Equal<B.FetchHandler["fetch"], (request: Request, server: B.AppServer) => Response | Promise<Response>>>,
  Expect<Equal<B.AppServer["requestIP"], (request: Request) => B.ClientAddress | null>>,
  Expect<Equal<Required<ServeOptions>, { replace: boolean }>>,
  Expect<Equal<SlotWorker["implement"], <Of extends B.Contract>(contract: Of, handlers: B.Handlers<Of>) => SlotWorker>>,
  Expect<Equal<SlotWorker["serveSync"], (handler: B.SyncHandler) => void>>,
  Expect<Equal<[SlotWorker["drain"], SlotWorker["close"]], [SlotBus["drain"], SlotBus["close"]]>>,
  Expect<Emits<SlotWorker, B.SlotWorkerEvents>>,
  Expect<Equal<B.SlotWorkerEvents["connected"], []>>,
  Expect<Equal<B.SlotWorkerEvents["disconnected"], [reason: B.SlotbusError]>>,
  Expect<Equal<B.SlotWorkerEvents["refused"], [error: B.SlotbusError]>>,
  Expect<Equal<B.SlotWorkerEvents["handlerError"], [error: unknown, request: Failed]>>,
  Expect<Equal<keyof B.SlotWorkerEvents, "connected" | "disconnected" | "refused" | "handlerError">>,
];

type Piece = Promise<IteratorResult<Uint8Array, undefined>>;
type Json = <Value = unknown>() => Value;
type LaterJson = <Value = unknown>(limit?: number) => Promise<Value>;

export type OfRequestsAndResponses = [
  Expect<Getters<B.WorkerRequest, "method", B.Method>>,
  Expect<Getters<B.WorkerRequest, "path" | "query" | "pattern" | "id", string>>,
  Expect<Getters<B.WorkerRequest, "params", Text>>,
  Expect<Getters<B.WorkerRequest, "headers", B.HeaderList>>,
  Expect<Getters<B.WorkerRequest, "traceparent", string | null>>,
  Expect<Getters<B.WorkerRequest, "body", Uint8Array>>,
  Expect<Getters<B.WorkerRequest, "streams" | "aborted" | "answered", boolean>>,
  Expect<Getters<B.WorkerRequest, "incoming", B.StreamedBody>>,
  Expect<Getters<B.WorkerRequest, "deadline", number>>,
  Expect<Getters<B.WorkerRequest, "signal", AbortSignal>>,
  Expect<Equal<B.WorkerRequest["bytes"], () => Uint8Array>>,
  Expect<Equal<B.WorkerRequest["text"], () => string>>,
  Expect<Equal<B.WorkerRequest["json"], Json>>,
  Expect<Equal<B.WorkerRequest["borrow"], () => B.BorrowedBody>>,
  Expect<Equal<B.WorkerRequest["reserve"], (bytes: number) => Uint8Array>>,
  Expect<Equal<B.WorkerRequest["respond"], (answer: Exclude<B.Answerable, Response>) => B.Delivery>>,
  Expect<Equal<B.WorkerRequest["defer"], () => B.DeferredAnswer>>,
  Expect<Equal<B.DeferredAnswer, (answer: Exclude<B.Answerable, Response>) => B.Delivery>>,
  Expect<Equal<B.Handler, (request: B.WorkerRequest) => B.Answerable | void | Promise<B.Answerable | void>>>,
  Expect<Equal<B.SyncHandler, (request: B.WorkerRequest) => Exclude<B.Answerable, Response> | void>>,
  Expect<Getters<B.BorrowedBody, "body", Uint8Array>>,
  Expect<Equal<[B.BorrowedBody["bytes"], B.BorrowedBody["release"]], [() => Uint8Array, () => void]>>,
  Expect<Getters<B.BusResponse, "status" | "workerPid", number>>,
  Expect<Getters<B.BusResponse, "ok", boolean>>,
  Expect<Getters<B.BusResponse, "contentType", string>>,
  Expect<Getters<B.BusResponse, "headers", B.HeaderList>>,
  Expect<Getters<B.BusResponse, "body", Uint8Array>>,
  Expect<Equal<B.BusResponse["toResponse"], () => Response>>,
  Expect<Equal<[B.BorrowedResponse["text"], B.BorrowedResponse["toResponse"]], [() => string, () => Response]>>,
  Expect<Equal<[B.BorrowedResponse["bytes"], B.BorrowedResponse["release"]], [() => Uint8Array, () => void]>>,
  Expect<Getters<B.StreamedResponse, "status" | "workerPid", number>>,
  Expect<Getters<B.StreamedResponse, "ok", boolean>>,
  Expect<Getters<B.StreamedResponse, "contentType", string>>,
  Expect<Getters<B.StreamedResponse, "headers", B.HeaderList>>,
  Expect<Equal<B.StreamedResponse["cancel"], (reason?: unknown) => void>>,
  Expect<Equal<B.StreamedResponse["toResponse"], () => Response>>,
  Expect<Equal<B.StreamedBody["chunks"], (options?: B.ChunkOptions) => B.Chunks>>,
  Expect<Equal<B.StreamedBody["stream"], () => ReadableStream<Uint8Array>>>,
  Expect<Equal<B.StreamedBody["bytes"], (limit?: number) => Promise<Uint8Array>>>,
  Expect<Equal<B.StreamedBody["text"], (limit?: number) => Promise<string>>>,
  Expect<Equal<B.StreamedBody["json"], LaterJson>>,
  Expect<Equal<[B.Chunks["next"], B.Chunks["return"]], [() => Piece, () => Piece]>>,
  Expect<Getters<B.HeaderList, "size", number>>,
  Expect<Equal<B.HeaderList["get"], (name: string) => string | null>>,
  Expect<Equal<B.HeaderList["getAll"], (name: string) => string[]>>,
  Expect<Equal<B.HeaderList["has"], (name: string) => boolean>>,
  Expect<Equal<B.HeaderList["entries"], () => [name: string, value: string][]>>,
  Expect<Equal<B.HeaderList["appendTo"], (out: string[]) => void>>,
  Expect<Equal<B.HeaderList["toHeaders"], (isWanted?: (name: string) => boolean) => Headers>>,
  Expect<Equal<B.HeaderList["toJSON"], () => [string, string][]>>,
];

const sold = rpc({
  input: typed<{ id: number }>(),
  output: typed<Date>(),
  errors: { GONE: typed<number>(), SHUT: typed<void>() },
});
export const shop = contract("shop", {
  sold,
  total: rpc<number[], number>(),
  count: stream<{ to: number }, number>(),
  ping: rpc(),
  upload: rpc({ input: items(typed<string>()), output: typed<number>() }),
});
type Shop = B.Client<typeof shop>;
type ShopHandlers = B.Handlers<typeof shop>;
type Errors = { GONE: B.Schema<number>; SHUT: B.Schema<void> };
/** What a client calls for a method with this declaration. */
type CallOf<Declare extends (options: never) => { "~call"?: unknown }> = NonNullable<ReturnType<Declare>["~call"]>;
type Lines = AsyncIterable<string> | Iterable<string>;
type Numbers = AsyncIterable<number> | Iterable<number>;
type Plain = B.CallContext<Record<never, never>>;

export type OfContracts = [
  Expect<
    Equal<
      typeof contract,
      <M extends B.Methods>(name: string, methods: M, options?: B.ContractOptions) => B.Contract<M>
    >
  >,
  Expect<Equal<ReturnType<typeof typed<{ at: Date }>>, B.Schema<{ at: Date }, { at: string }>>>,
  Expect<Equal<ReturnType<typeof typed<Date, Date>>, B.Schema<Date>>>,
  Expect<Equal<ReturnType<typeof items<B.Schema<1>>>, { readonly "~items": B.Schema<1> }>>,
  Expect<Equal<CallOf<typeof rpc<B.Schema<1>, B.Schema<2>>>, (input: 1, options?: B.CallOptions) => Promise<2>>>,
  Expect<
    Equal<
      CallOf<typeof stream<B.Schema<1>, B.Schema<2>>>,
      (input: 1, options?: B.StreamOptions) => AsyncGenerator<2, void, void>
    >
  >,
  Expect<Equal<Parameters<typeof B.isContractError<typeof sold>>[1], B.ContractMethod<typeof sold>>>,
  Expect<Equal<Shop["sold"], (input: { id: number }, options?: B.CallOptions) => Promise<string>>>,
  Expect<Equal<Shop["total"], (input: number[], options?: B.CallOptions) => Promise<number>>>,
  Expect<Equal<Shop["ping"], (input?: void, options?: B.CallOptions) => Promise<void>>>,
  Expect<Equal<Shop["upload"], (input: Lines, options?: B.CallOptions) => Promise<number>>>,
  Expect<
    Equal<Shop["count"], (input: { to: number }, options?: B.StreamOptions) => AsyncGenerator<number, void, void>>
  >,
  Expect<Equal<ShopHandlers["sold"], (input: { id: number }, ctx: B.CallContext<Errors>) => Date | Promise<Date>>>,
  Expect<Equal<ShopHandlers["upload"], (input: AsyncIterable<string>, ctx: Plain) => number | Promise<number>>>,
  Expect<Equal<ShopHandlers["count"], (input: { to: number }, ctx: Plain) => Numbers | Promise<Numbers>>>,
  Expect<Equal<B.ErrorMakers<Errors>["GONE"], (data: number, message?: string) => B.ContractError<"GONE", number>>>,
  Expect<Equal<B.ErrorMakers<Errors>["SHUT"], (data?: void, message?: string) => B.ContractError<"SHUT", void>>>,
  Expect<Getters<B.CallContext<Errors>, "errors", B.ErrorMakers<Errors>>>,
  Expect<Getters<B.CallContext, "signal", AbortSignal>>,
  Expect<Getters<B.CallContext, "deadline" | "timeLeft", number>>,
  Expect<Getters<B.CallContext, "requestId", string>>,
  Expect<Getters<B.CallContext, "headers", B.HeaderList>>,
  Expect<Getters<B.ContractMethod, "contract" | "name" | "path" | "version" | "fingerprint", string>>,
  Expect<Getters<B.ContractMethod, "codec", B.Codec>>,
  Expect<Getters<B.ContractMethod<typeof sold>, "declaration", typeof sold>>,
  Expect<Getters<B.ContractError<"GONE", number>, "code", "GONE">>,
  Expect<Getters<B.ContractError<"GONE", number>, "data", number>>,
  Expect<Getters<B.ContractError, "contract" | "method", string>>,
  Expect<Getters<B.SlotbusError, "code", string>>,
  Expect<Getters<B.SlotbusError, "hint", string | undefined>>,
  Expect<Getters<B.SlotbusError, "retryable" | "mayHaveExecuted", boolean>>,
];

/** The types with shared memory first, so that it keeps all that only memory can do. */
interface Join {
  (options: E.FleetOptions): Promise<Fleet>;
  (options: E.PortableFleetOptions): Promise<E.PortableFleet>;
}

interface OpenContest {
  (options: C.ContestOptions): Promise<Contest>;
  (options: C.PortableContestOptions): Promise<C.PortableContest>;
}

export type OfFleet = [
  Expect<Equal<typeof Fleet.join, Join>>,
  Expect<Equal<typeof Fleet.observe, (options: E.FleetObserveOptions) => Promise<Fleet>>>,
  Expect<Getters<Fleet, "name", string>>,
  Expect<Getters<Fleet, "isObserver" | "closed" | "isCurrent", boolean>>,
  Expect<Getters<Fleet, "epoch" | "index" | "incarnation", number>>,
  Expect<Equal<Fleet["members"], () => E.FleetMember[]>>,
  Expect<Equal<Fleet["ring"], (name: string) => Ring>>,
  Expect<Equal<Fleet["close"], () => Promise<void>>>,
  Expect<Getters<Ring, "name", string>>,
  Expect<Getters<Ring, "frames" | "frameBytes" | "payloadBytes" | "head", number>>,
  Expect<Equal<Ring["publish"], (payload: Uint8Array | string, options?: { kind?: number | undefined }) => void>>,
  Expect<Equal<Ring["cursor"], (options?: E.CursorOptions) => Cursor>>,
  Expect<Getters<Cursor, "ring", Ring>>,
  Expect<Getters<Cursor, "closed", boolean>>,
  Expect<Getters<Cursor, "lost", number>>,
  Expect<Getters<Cursor, "bookmark", E.Bookmark>>,
  Expect<Equal<Cursor["poll"], (max?: number) => E.CursorItem[]>>,
  Expect<Equal<Cursor["close"], () => void>>,
  Expect<Equal<[Cursor["next"], Cursor["return"]], [() => Promise<IteratorResult<E.CursorItem>>, Cursor["next"]]>>,
  Expect<Equal<E.CursorItem, E.Frame | { readonly overwritten: number } | { readonly epoch: number }>>,
  Expect<Getters<E.Frame, "kind" | "time" | "writer" | "incarnation" | "position" | "event", number>>,
  Expect<Getters<E.Frame, "body", Uint8Array<ArrayBuffer>>>,
];

interface Topics {
  paid: { cents: number };
  sent: string;
}
type Paid = E.BusEvent<Topics, "paid">;
type Local = <Of extends object = Record<string, unknown>>(options?: E.LocalBusOptions) => Promise<EventBus<Of>>;
interface Open {
  <Of extends object = Record<string, unknown>>(options: E.EventBusOptions): Promise<EventBus<Of>>;
  <Of extends object = Record<string, unknown>>(options: E.PortableEventBusOptions): Promise<E.PortableEventBus<Of>>;
}

type Publish = <Of extends "paid" | "sent">(topic: Of, payload: Topics[Of], options?: E.PublishOptions) => void;
type Reader<Of extends keyof Topics = keyof Topics> = Subscription<E.BusEvent<Topics, Of>>;

export type OfEvents = [
  Expect<Equal<typeof EventBus.open, Open>>,
  Expect<Equal<typeof EventBus.local, Local>>,
  Expect<Getters<EventBus, "closed", boolean>>,
  Expect<Getters<EventBus, "published" | "subscriptions", number>>,
  Expect<Equal<EventBus<Topics>["publish"], Publish>>,
  Expect<Equal<Parameters<EventBus<Topics>["subscribe"]>[1], E.SubscribeOptions | undefined>>,
  Expect<Equal<EventBus<Topics>["subscribeAll"], (options?: E.SubscribeOptions) => Reader>>,
  Expect<Equal<EventBus["unsubscribe"], (id: number) => void>>,
  Expect<Equal<EventBus<Topics>["bind"], (options: E.BindingOptions<Topics>) => Binding>>,
  Expect<Equal<EventBus["close"], () => Promise<void>>>,
  Expect<Getters<Subscription, "id" | "lost", number>>,
  Expect<Getters<Subscription, "closed", boolean>>,
  Expect<Getters<Subscription, "counts", E.SubscriptionCounts>>,
  Expect<Equal<Subscription<Paid>["poll"], (max?: number) => (Paid | E.Gap)[]>>,
  Expect<Equal<Subscription["close"], () => void>>,
  Expect<Equal<Subscription<Paid>["next"], () => Promise<IteratorResult<Paid | E.Gap>>>>,
  Expect<Equal<Paid["topic"] | Paid["payload"], "paid" | { cents: number }>>,
  Expect<Equal<E.BusEvent<Topics>["topic"], "paid" | "sent">>,
  Expect<Getters<Binding, "closed", boolean>>,
  Expect<Getters<Binding, "counts", E.BindingCounts>>,
  Expect<Equal<Binding["close"], () => void>>,
  Expect<Equal<typeof E.all, () => E.Filter>>,
  Expect<Equal<typeof E.and, typeof E.or>>,
  Expect<Equal<typeof E.or, (...filters: E.Filter[]) => E.Filter>>,
  Expect<Equal<typeof E.not, (filter: E.Filter) => E.Filter>>,
  Expect<Equal<typeof E.equals, (name: string, value: E.AttributeValue) => E.Filter>>,
  Expect<Equal<ReturnType<typeof topic<"paid">>, { readonly topic: "paid" }>>,
  Expect<Equal<ReturnType<typeof topic<string>>, { readonly topic: `${string}*` }>>,
  Expect<Equal<typeof where<Paid>, (predicate: (event: Paid) => boolean) => E.Filter>>,
];

export type OfContest = [
  Expect<Equal<typeof Contest.open, OpenContest>>,
  Expect<Getters<Contest, "owner", string>>,
  Expect<Getters<Contest, "closed", boolean>>,
  Expect<Equal<Contest["now"], () => number>>,
  Expect<Equal<Contest["tryClaim"], (subject: C.Subject, options: C.TryClaimOptions) => C.Claimed | C.YieldTo>>,
  Expect<Equal<Contest["claim"], (subject: C.Subject, options: C.ClaimOptions) => Promise<Guard>>>,
  Expect<Equal<Contest["holder"], (subject: C.Subject) => C.Holder | null>>,
  Expect<Equal<Contest["list"], () => C.Holder[]>>,
  Expect<Equal<Contest["watch"], (subject: C.Subject, options?: C.WatchOptions) => C.LeaseWatch>>,
  Expect<Equal<Contest["watchAll"], (options?: C.WatchOptions) => C.LeaseWatch>>,
  Expect<Equal<keyof C.LeaseChange, "type" | "holder">>,
  Expect<Equal<C.LeaseChange["type"], "claimed" | "renewed" | "released" | "expired" | "died">>,
  Expect<Getters<C.LeaseWatch, "closed", boolean>>,
  Expect<Equal<C.LeaseWatch["poll"], () => C.LeaseChange[]>>,
  Expect<Equal<C.LeaseWatch["next"], () => Promise<IteratorResult<C.LeaseChange>>>>,
  Expect<Equal<[C.LeaseWatch["return"], C.LeaseWatch["close"]], [C.LeaseWatch["next"], () => void]>>,
  Expect<Equal<Contest["adopt"], (holder: C.Holder, options?: C.AdoptOptions) => Guard | null>>,
  Expect<Equal<Contest["release"], (holder: C.Holder, options?: C.ReleaseOptions) => boolean>>,
  Expect<Equal<[Contest["reset"], Contest["close"]], [() => void, () => Promise<void>]>>,
  Expect<Getters<Guard, "subject", C.Subject>>,
  Expect<Getters<Guard, "owner" | "claimId", string>>,
  Expect<Getters<Guard, "token" | "claimedAt" | "expiresAt", number>>,
  Expect<Getters<Guard, "holder", C.Holder>>,
  Expect<Getters<Guard, "signal", AbortSignal>>,
  Expect<Equal<[Guard["renew"], Guard["release"]], [(ttl?: number) => boolean, () => boolean]>>,
  Expect<Equal<ConstructorParameters<typeof Fence>, [options?: C.FenceOptions]>>,
  Expect<Getters<Fence, "highWater", number>>,
  Expect<Equal<Fence["admit"], (token: number) => boolean>>,
];

/** Compiled, never run: each marked line must not compile. */
export const wrong = async (b: SlotBus, w: SlotWorker, e: EventBus<Topics>, f: Fleet, c: Contest): Promise<void> => {
  // @ts-expect-error: created by create
  new SlotBus({ name: "x" });
  // @ts-expect-error: opened by open
  new SlotWorker({ name: "x" });
  // @ts-expect-error: opened by join
  new Fleet({ name: "x" });
  // @ts-expect-error: a request is a promise
  b.request({ path: "/" }).text();
  // @ts-expect-error: the answer of a blocking request is here
  void b.requestSync({ path: "/" }).then();
  // @ts-expect-error: no such method of HTTP
  void b.request({ path: "/", method: "BREW" });
  // @ts-expect-error: a request has a path
  void b.request({ body: "x" });
  // @ts-expect-error: workers are chosen by their ids
  b.evict("1", "");
  // @ts-expect-error: `closed` cannot be set
  b.closed = true;
  // @ts-expect-error: a blocking handler answers at once
  w.serveSync(async () => "x");
  // @ts-expect-error: no such option
  w.serve(() => "x", { replaces: true });
  // @ts-expect-error: a URL is not a name
  void SlotWorker.open({ name: new URL("file:///x") });
  // @ts-expect-error: an input of another type
  void b.client(shop).sold({ id: "1" });
  // @ts-expect-error: a Date arrives as text
  (await b.client(shop).sold({ id: 1 })) satisfies Date;
  // @ts-expect-error: handlers are missing
  w.implement(shop, { sold: () => new Date() });
  // @ts-expect-error: a stream of a contract is not a promise
  void b.client(shop).count({ to: 1 }).then();
  // @ts-expect-error: a fleet has a name
  void Fleet.join({ maxMembers: 4 });
  // @ts-expect-error: an observer gives no sizes
  void Fleet.observe({ name: "x", maxMembers: 4 });
  // @ts-expect-error: a kind is a number
  f.ring("x").publish("x", { kind: "1" });
  // @ts-expect-error: a fleet is given
  void EventBus.open({ ring: "x" });
  // @ts-expect-error: a key must be given
  e.bind({ on: "paid", id: "x" });
  // @ts-expect-error: no topic of the bus
  e.bind({ on: "payd", key: "k", id: "x" });
  // @ts-expect-error: attributes are plain values
  e.publish("sent", "x", { attributes: { a: {} } });
  const narrow: [Subscription<Paid>, Reader, Reader<"paid">] = [
    e.subscribe(topic("paid")),
    e.subscribe(topic("*")),
    e.subscribe<"paid">(
      and(
        topic("paid"),
        where<Paid>((event) => event.payload.cents > 1),
      ),
    ),
  ];
  // @ts-expect-error: one topic's events are not another's
  narrow[0] satisfies Reader<"sent">;
  // @ts-expect-error: a claim has a ttl
  void c.claim({ kind: "a", label: "b" }, {});
  // @ts-expect-error: claim returns a promise
  c.claim({ kind: "a", label: "b" }, { ttl: 1 }).release();
  // @ts-expect-error: a try does not wait
  c.tryClaim({ kind: "a", label: "b" }, { ttl: 1, timeout: 1 });
  // @ts-expect-error: a token is a number
  new Fence().admit("1");
};
