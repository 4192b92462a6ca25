/** HTTP in front, shared memory behind: `slotbus/hub`. */

export { HandlerResponse, type HubAnswer } from "./answer.ts";
export { type HubDeferredAnswer, HubRequest } from "./context.ts";
export { HubEmitter } from "./emitter.ts";
export { createHub, Hub } from "./hub.ts";
export type { HubOptions, ResolvedHubOptions } from "./options.ts";
export {
  type HubHandler,
  HubWorker,
  type HubWorkerEvents,
  type HubWorkerOptions,
  type SseClient,
  type SseHandlers,
} from "./worker.ts";
export * from "../errors.ts";
