/** A thread of program.ts with a client or a worker that is never closed. */

import { SlotBus, SlotWorker } from "../../src/index.ts";

declare const self: Worker;

self.onmessage = async ({ data }: MessageEvent<{ what: string; name: string; directory: string }>) => {
  const { what, name, directory } = data;
  if (what === "client") {
    const bus = await SlotBus.create({ name, directory });
    bus.ref();
  } else {
    const worker = await SlotWorker.open({ name, directory, reconnect: false });
    worker.serve((request) => (request.path === "/hang" ? new Promise<string>(() => {}) : request.text()));
  }
  self.postMessage(`${what} is open`);
};
