/** The thread of the contestant `worker-postmessage`: introduces itself, then returns every message. */

import type { Introduction } from "./systems.ts";

declare const self: Worker;

self.onmessage = (event: MessageEvent) => self.postMessage(event.data);
self.postMessage({ pid: process.pid, isMainThread: Bun.isMainThread, address: "" } satisfies Introduction);
