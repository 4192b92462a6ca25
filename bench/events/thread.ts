/** A subscriber of the contestant `broadcast-channel`: a thread that counts received events. */

import type { Introduction } from "../systems.ts";
import { type Order, TOPICS } from "./names.ts";
import { type Item, Tally } from "./tally.ts";

declare const self: Worker;

self.onmessage = ({ data }: MessageEvent<Order>) => {
  const { tallies, subscriber, address } = data;
  const poll = new Tally(tallies, "poll", subscriber);
  const items = new Tally(tallies, "for-await", subscriber);
  new BroadcastChannel(address + TOPICS.poll).onmessage = (event) => poll.addBytes(event.data as Uint8Array);
  new BroadcastChannel(address + TOPICS["for-await"]).onmessage = (event) => items.addItem(event.data as Item);
  self.postMessage({ pid: process.pid, isMainThread: Bun.isMainThread, address: "" } satisfies Introduction);
};
