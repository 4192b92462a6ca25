/** The streams of one slot, on the asking side. */

import type { Arena } from "../../bus/codec.ts";
import type { ClientHandle, LinkHandle } from "../../native/client.ts";
import type { Clock } from "../../clock.ts";
import { Rings } from "./rings.ts";

/** What rings need of their bus. */
export interface RingsOwner {
  readonly client: ClientHandle;
  readonly clock: Clock;
  readonly headLimit: number;
  /** Bytes went to a worker or came from it. `rang`: the worker slept and was woken. */
  moved(bytes: number, rang: boolean): void;
}

/** The rings of a slot in use, until its exchange leaves it. */
export class ClientRings extends Rings {
  readonly #owner: RingsOwner;
  readonly #link: LinkHandle;
  readonly #slot: number;
  readonly #onCorrupt: (reason: string) => void;
  #isClosed = false;

  /** `onCorrupt` is called when the worker wrote impossible counts. */
  constructor(
    owner: RingsOwner,
    link: LinkHandle,
    slot: number,
    written: Arena,
    own: Arena,
    onCorrupt: (reason: string) => void,
  ) {
    super(owner.headLimit, owner.client.stride, written, own, owner.client.flow, owner.clock);
    this.#owner = owner;
    this.#link = link;
    this.#slot = slot;
    this.#onCorrupt = onCorrupt;
  }

  move(sent: number, taken: number, need: number, isEnd = false): boolean {
    if (this.#isClosed) return false;
    const result = this.#link.flow(this.#slot, sent, taken, isEnd, need);
    if (result === "corrupt") this.#onCorrupt(`it wrote impossible counts into the rings of slot ${this.#slot}`);
    if (result === "corrupt" || result === "gone") return false;
    if (sent > 0 || taken > 0) this.#owner.moved(sent + taken, result === "rang");
    return true;
  }

  finish(): void {
    this.move(0, 0, 0, true);
  }

  /** Moves nothing any more: the slot may get another exchange. */
  close(): void {
    this.#isClosed = true;
  }
}
