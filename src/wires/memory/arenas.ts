/** The arenas of a region, and views of them. Each is created on first use. */

import { Arena } from "../../bus/codec.ts";
import { detach } from "../../detach.ts";
import { view } from "../../native/library.ts";

/** Two arenas for each slot: one for the request and, behind it, one for the response. */
export class Arenas {
  readonly #address: number;
  readonly #stride: number;
  readonly #arenas: (Arena | undefined)[] = [];

  /** `address` is the address of the first arena, `stride` the distance between two arenas in bytes. */
  constructor(address: number, stride: number) {
    this.#address = address;
    this.#stride = stride;
  }

  request(slot: number): Arena {
    return (this.#arenas[2 * slot] ??= new Arena(this.#view(2 * slot, 0, this.#stride)));
  }

  response(slot: number): Arena {
    return (this.#arenas[2 * slot + 1] ??= new Arena(this.#view(2 * slot + 1, 0, this.#stride)));
  }

  /** Returns a view of a part of a request arena that can be detached separately. */
  lendRequest(slot: number, offset: number, bytes: number): Uint8Array<ArrayBuffer> {
    return new Uint8Array(this.#view(2 * slot, offset, bytes));
  }

  /** As {@link lendRequest}, for a response arena. */
  lendResponse(slot: number, offset: number, bytes: number): Uint8Array<ArrayBuffer> {
    return new Uint8Array(this.#view(2 * slot + 1, offset, bytes));
  }

  #view(place: number, offset: number, bytes: number): ArrayBuffer {
    return view(this.#address + place * this.#stride + offset, bytes);
  }

  /** Detaches all arenas. Returns `false` if user code holds the memory of an arena. */
  detach(): boolean {
    return this.#arenas.filter((arena) => arena && !detach(arena.buffer)).length === 0;
  }
}
