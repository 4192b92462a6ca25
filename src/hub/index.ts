/** `slotbus/hub`: an HTTP server in front of worker processes. */

export { type HubDeferredAnswer, HubRequest, type PathParams } from "./context.ts";
export { HubEmitter } from "./emitter.ts";
export {
  type HubHandler,
  type HubRoutes,
  limit,
  sse,
  type SseClient,
  type SseHandlers,
  type SseRoute,
} from "./handlers.ts";
export { Hub } from "./hub.ts";
export { type HubSocket, type SocketHandlers, type SocketRoute, ws } from "./socket.ts";
export type { HubSockets } from "./socket-sender.ts";
export type { LimitedRoute, RouteLimitOptions } from "./limits.ts";
export type { HubOptions, HubWorkerOptions, ResolvedHubOptions, SseOptions, WsOptions } from "./options.ts";
export type { HubEvents, HubMessageInfo, HubRequestInfo, HubWorkerInfo } from "./service.ts";
export { HubWorker, type HubWorkerEvents } from "./worker.ts";
export * from "../errors.ts";
