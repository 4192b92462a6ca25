/** The thread of the postMessage contestant. */

declare const self: Worker;

self.onmessage = (event: MessageEvent) => self.postMessage(event.data);
