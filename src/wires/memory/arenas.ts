/** The arenas of a region, and views of them: each is made when it is first used. */

import { Arena } from "../../bus/codec.ts";
import { detach } from "../../detach.ts";
import { view } from "../../native/library.ts";

/** Two arenas for each slot: of its request and, behind it, of its response. */
export class Arenas {
  readonly #address: number;
  readonly #stride: number;
  readonly #arenas: (Arena | undefined)[] = [];

  /** `address`: of the first arena. `stride`: from one to the next, in bytes. */
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

  /** A view of a part of a request that can be detached alone. */
  lendRequest(slot: number, offset: number, bytes: number): Uint8Array<ArrayBuffer> {
    return new Uint8Array(this.#view(2 * slot, offset, bytes));
  }

  /** The same for a response. */
  lendResponse(slot: number, offset: number, bytes: number): Uint8Array<ArrayBuffer> {
    return new Uint8Array(this.#view(2 * slot + 1, offset, bytes));
  }

  #view(place: number, offset: number, bytes: number): ArrayBuffer {
    return view(this.#address + place * this.#stride + offset, bytes);
  }

  /** Detaches all arenas. `false`: user code has carried the memory of one away. */
  detach(): boolean {
    return this.#arenas.filter((arena) => arena && !detach(arena.buffer)).length === 0;
  }
}
