/** slotbus: request/response between Bun processes of one machine, through shared memory. */

export { type ReadyOptions, SlotBus, type SlotBusEvents, type SlotDiagnostics, type WorkerInfo } from "./bus/bus.ts";
export type { BusRequest, RequestOptions } from "./bus/call.ts";
export type { BusStats } from "./bus/stats.ts";
export type { BodyLike, Method } from "./bus/codec.ts";
export { HeaderList, type HeadersLike } from "./bus/headers.ts";
export type {
  RequestTiming,
  ResolvedBusOptions,
  ResolvedWorkers,
  SlotBusOptions,
  WorkersOptions,
} from "./bus/options.ts";
export type {
  Answer,
  Answerable,
  BorrowedBody,
  DeferredAnswer,
  Delivery,
  FetchHandler,
  Handler,
  SyncHandler,
  WorkerRequest,
} from "./bus/request.ts";
export type { BorrowedResponse, BusResponse, StreamedResponse } from "./bus/response.ts";
export type { ChunkOptions, Chunks, StreamSource } from "./bus/stream.ts";
export type { HandleTrace, RequestTrace } from "./bus/tracing.ts";
export { SlotWorker, type SlotWorkerEvents, type SlotWorkerOptions } from "./bus/worker.ts";
export { isContractError } from "./contract/client.ts";
export type { Codec } from "./codec.ts";
export {
  type CallOptions,
  type Client,
  type Contract,
  contract,
  type ContractMethod,
  type ContractOptions,
  type Declaration,
  type Handlers,
  items,
  type MethodOptions,
  type Methods,
  rpc,
  stream,
  type StreamOptions,
} from "./contract/contract.ts";
export type { CallContext, ErrorMakers } from "./contract/context.ts";
export { type Schema, type SchemaIssue, typed } from "./contract/schema.ts";
export * from "./errors.ts";
