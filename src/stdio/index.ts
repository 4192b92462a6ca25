/** slotbus/stdio: programs in any language as supervised workers, asked by JSON-RPC over standard input and output. */

export type {
  NotificationOptions,
  WorkerNotification,
  WorkerRequestContext,
  WorkerRequestHandler,
} from "./audience.ts";
export { BusState, type BusStateValue, type PoolExitReport, StdioBus, type StdioRequestOptions } from "./bus.ts";
export type { CallOptions } from "./call.ts";
export {
  fromStdioBusConfig,
  type PoolEvent,
  type StartingWorker,
  type StdioBusConfig,
  type StdioBusOptions,
  type StdioLimits,
  type StdioPoolOptions,
  type WorkerEvent,
} from "./config.ts";
export type { Framing } from "./framing.ts";
export type { LinkIdentity } from "./worker-connection.ts";
export { RawStdioBus } from "./raw.ts";
export type { RpcId, RpcMessage } from "./rpc.ts";
export type { ServeOptions, StdioServer, TcpOptions } from "./server.ts";
export type { StdioStats } from "./stats.ts";
export { type SubscribeOptions, Subscription } from "./subscription.ts";
export * from "../errors.ts";
