/** The arenas of a region, made when they are first used. */

import { Arena } from "../../bus/codec.ts";

/** A handle that has the memory of slots. */
interface Memory {
  requestMemory(slot: number): ArrayBuffer;
  responseMemory(slot: number): ArrayBuffer;
}

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
