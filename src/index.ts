/** slotbus: request/response between Bun processes on one machine, over shared memory. */

export { type PortableBus, type ResolvedSlotBusOptions, SlotBus, type SlotBusOptions } from "./slotbus.ts";
export { type PortableWorker, SlotWorker } from "./slot-worker.ts";
export type { ReconnectOptions, SlotWorkerEvents, SlotWorkerOptions } from "./bus/worker-options.ts";
export type { Diagnostics, SlotBusEvents, SlotDiagnostics, WorkerInfo } from "./bus/events.ts";
export type { BusRequest, RequestOptions } from "./bus/call.ts";
export type { BusOptions, ReadyOptions } from "./bus/options.ts";
export { memory, type RemoteVia, socket, type Via, type WireKind } from "./bus/via.ts";
export type { CloseOptions, DrainOptions } from "./closing.ts";
export type { BusStats } from "./bus/stats.ts";
export type { BodyLike, Method } from "./bus/codec.ts";
export { HeaderList, type HeadersLike } from "./bus/headers.ts";
export type { WorkersOptions } from "./supervisor/workers.ts";
export type { Answer, Answerable } from "./bus/answer.ts";
export type { AppServer, ClientAddress } from "./bus/app.ts";
export type { Delivery } from "./bus/claim.ts";
export type { BorrowedBody, DeferredAnswer, FetchHandler, Handler, SyncHandler, WorkerRequest } from "./bus/request.ts";
export type { BorrowedResponse, BusResponse, StreamedResponse } from "./bus/response.ts";
export type { ChunkOptions, Chunks, StreamedBody } from "./bus/body-reader.ts";
export type { StreamSource } from "./bus/body-writer.ts";
export type { HandleTrace, RequestTrace } from "./bus/tracing.ts";
export type { Codec } from "./codec.ts";
export type { Arriving, Jsonify } from "./jsonify.ts";
export {
  type Call,
  type CallOptions,
  type Client,
  type Contract,
  contract,
  type ContractMethod,
  type ContractOptions,
  type Declaration,
  type Handle,
  type Handlers,
  isContractError,
  items,
  type MethodOptions,
  type Methods,
  rpc,
  stream,
  type StreamCall,
  type StreamHandle,
  type StreamOptions,
} from "./contract/contract.ts";
export type { CallContext, ErrorMakers } from "./contract/context.ts";
export { type Schema, type SchemaIssue, type Sequence, typed } from "./contract/schema.ts";
export { drainOnSigterm } from "./sigterm.ts";
export * from "./errors.ts";
