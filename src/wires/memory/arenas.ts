/** The arenas of a region: each is made when it is first used. */

import { Arena } from "../../bus/codec.ts";

/** A handle of the library that gives the memory of slots. */
interface Memory {
  requestMemory(slot: number): ArrayBuffer;
  responseMemory(slot: number): ArrayBuffer;
}

/** Two arenas for each slot: of its request and of its response. */
export class Arenas {
  readonly #memory: Memory;
  readonly #requests: (Arena | undefined)[] = [];
  readonly #responses: (Arena | undefined)[] = [];

  constructor(memory: Memory) {
    this.#memory = memory;
  }

  request(slot: number): Arena {
    return (this.#requests[slot] ??= new Arena(this.#memory.requestMemory(slot)));
  }

  response(slot: number): Arena {
    return (this.#responses[slot] ??= new Arena(this.#memory.responseMemory(slot)));
  }
}
