/** slotbus/stdio: programs in any language as supervised workers that speak JSON-RPC over standard input and output. */

export { StdioBus } from "./bus.ts";
export { fromStdioBusConfig, type StdioBusConfig } from "./config.ts";
export type {
  LinkIdentity,
  StdioBusEvents,
  WorkerNotification,
  WorkerRequestContext,
  WorkerRequestHandler,
} from "./events.ts";
export type { Framing } from "./framing.ts";
export type {
  CallOptions,
  NotificationOptions,
  ServeOptions,
  StartingWorker,
  StdioBusOptions,
  StdioLimits,
  StdioPoolOptions,
  StdioRequestOptions,
  SubscribeOptions,
  TcpOptions,
} from "./options.ts";
export type { PoolExitReport, StdioReloadReport } from "./pools.ts";
export { RawStdioBus } from "./raw.ts";
export type { RpcId, RpcMessage } from "./rpc.ts";
export type { StdioServer } from "./server.ts";
export type { StdioStats } from "./stats.ts";
export { Subscription } from "./subscription.ts";
export * from "../errors.ts";
