/** slotbus/stdio: programs in any language as supervised workers, asked by JSON-RPC over standard input and output. */

export {
  BusState,
  type BusStateValue,
  type NotificationOptions,
  type PoolEvent,
  type PoolExitReport,
  StdioBus,
  type StdioRequestOptions,
  type WorkerEvent,
  type WorkerNotification,
  type WorkerRequestContext,
  type WorkerRequestHandler,
} from "./bus.ts";
export type { CallOptions } from "./call.ts";
export {
  fromStdioBusConfig,
  type StartingWorker,
  type StdioBusConfig,
  type StdioBusOptions,
  type StdioLimits,
  type StdioPoolOptions,
} from "./config.ts";
export type { Framing } from "./framing.ts";
export type { LinkIdentity } from "./link.ts";
export { RawStdioBus } from "./raw.ts";
export type { RpcId, RpcMessage } from "./rpc.ts";
export type { ServeOptions, StdioServer, TcpOptions } from "./server.ts";
export type { StdioStats } from "./stats.ts";
export { type SubscribeOptions, Subscription } from "./subscription.ts";
export * from "../errors.ts";
