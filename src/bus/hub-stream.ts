/** The streams of one slot, as the hub has them: the request's body on its way out, the response's on its way in. */

import { C, native, type Pointer } from "../native/library.ts";
import type { Link } from "./link.ts";
import { startTimer, systemClock } from "../clock.ts";
import { Channel, Receiver, Sender, type StreamSource } from "./stream.ts";

/** What a hub's stream asks of its bus. */
export interface StreamOwner {
  readonly hub: Pointer;
  readonly look: Uint32Array;
  /** Of its regions, in bytes. */
  readonly headLimit: number;
  readonly stride: number;
  /** Bytes went to the worker or came from it; it was rung. */
  moved(bytes: number, rang: boolean): void;
  /** The worker wrote counts that cannot be. */
  corrupt(link: Link, slot: number): void;
}

export class HubChannel extends Channel {
  /** Times that bytes moved. */
  moves = 0;
  readonly #owner: StreamOwner;
  readonly #hub: Pointer;
  readonly #link: Link;
  readonly #slot: number;

  constructor(owner: StreamOwner, link: Link, slot: number) {
    super(owner.headLimit, owner.stride, link.responseArena(slot), link.requestArena(slot), owner.look);
    this.#owner = owner;
    this.#hub = owner.hub;
    this.#link = link;
    this.#slot = slot;
  }

  move(sent: number, taken: number, end: number, need: number): boolean {
    const result = native.sb_link_flow(this.#hub, this.#link.index, this.#slot, sent, taken, end, need);
    if (result < 0) {
      if (result === -C.SB_ECORRUPT) this.#owner.corrupt(this.#link, this.#slot);
      return false;
    }
    if (sent > 0 || taken > 0) {
      this.moves++;
      this.#owner.moved(sent + taken, result === 1);
    }
    return true;
  }
}

export class HubStream {
  readonly channel: HubChannel;
  /** Of the request's body, until it is sent. */
  source: StreamSource | null;
  sender: Sender | null;
  receiver: Receiver | null = null;
  /** Whoever holds it reads the receiver; see {@link age}. */
  reader: object | null = null;
  #deadline: { close(): unknown } | null = null;
  #idle: { close(): unknown } | null = null;
  #onAbort: { signal: AbortSignal; listener: () => void } | null = null;

  constructor(channel: HubChannel, source: StreamSource | null) {
    this.channel = channel;
    this.source = source;
    this.sender = source ? new Sender(channel) : null;
  }

  moved(): void {
    this.sender?.moved();
    this.receiver?.moved();
  }

  /** Most streams end soon. Of one that does not, it is noticed when its reader is collected as garbage. */
  age(): void {
    const { reader } = this;
    this.reader = null;
    if (reader) this.receiver?.readBy(reader);
  }

  /** Calls `over` after `ms`, 0 for never; {@link close} ends the wait. */
  limit(ms: number, over: () => void): void {
    this.#deadline?.close();
    this.#deadline = startTimer(systemClock, ms, over);
  }

  /** Calls `over` when nothing has moved for `ms` (at most twice that), 0 for never. */
  limitIdle(ms: number, over: () => void): void {
    const { moves } = this.channel;
    this.#idle = startTimer(systemClock, ms, () => {
      if (this.channel.moves === moves) over();
      else this.limitIdle(ms, over);
    });
  }

  watch(signal: AbortSignal, listener: () => void): void {
    this.#onAbort = { signal, listener };
    if (signal.aborted) queueMicrotask(listener);
    else signal.addEventListener("abort", listener, { once: true });
  }

  /** The slot is let go: nothing moves any more. */
  close(): void {
    this.#deadline?.close();
    this.#idle?.close();
    this.#onAbort?.signal.removeEventListener("abort", this.#onAbort.listener);
    this.sender?.stop();
    this.sender = null;
    this.source = null;
  }
}
