/** The thread of the postMessage contestant: says who it is, then answers every message with itself. */

import type { Introduction } from "./systems.ts";

declare const self: Worker;

self.onmessage = (event: MessageEvent) => self.postMessage(event.data);
self.postMessage({ pid: process.pid, isMainThread: Bun.isMainThread, address: "" } satisfies Introduction);
