/** Standard input and output of this process, as the connection of one client. */

import type { ClientSocket } from "./client.ts";
import { type ByteSink, sinkOf } from "./writer.ts";

/** What the connection tells its server. */
interface StandardOwner {
  read(bytes: Uint8Array): void;
  /** Input has ended. */
  inputEnded(): unknown;
  /** Output took what was written last. */
  drained(): void;
  closed(): void;
}

/** Reads standard input and writes standard output until either ends. */
export class StandardSocket implements ClientSocket {
  readonly remoteAddress = "";
  readonly #sink: ByteSink = sinkOf(Bun.stdout.writer());
  readonly #reader = Bun.stdin.stream().getReader();
  #owner: StandardOwner | null = null;
  /** Resolves when the pipe has taken what was written last. */
  #writing: Promise<void> | null = null;
  #paused: PromiseWithResolvers<void> | null = null;

  /** Reads from now on. */
  async open(owner: StandardOwner): Promise<void> {
    this.#owner = owner;
    try {
      for (let next = await this.#reader.read(); !next.done; next = await this.#reader.read()) {
        this.#owner?.read(next.value);
        await this.#paused?.promise;
      }
    } catch {
      // It cannot be read: the same as its end.
    }
    this.#owner?.inputEnded();
  }

  /** Takes all or nothing. */
  write(bytes: Uint8Array): number {
    if (!this.#owner) return -1;
    if (this.#writing) return 0;
    try {
      const full = this.#sink.write(bytes);
      if (full) this.#writing = full.then(this.#onDrained, this.terminate);
      return bytes.length;
    } catch {
      queueMicrotask(this.terminate); // nobody reads it any more
      return -1;
    }
  }

  readonly #onDrained = (): void => {
    this.#writing = null;
    this.#owner?.drained();
  };

  pause(): void {
    this.#paused ??= Promise.withResolvers();
  }

  resume(): void {
    this.#paused?.resolve();
    this.#paused = null;
  }

  /** Closes it behind what is written. */
  end(): void {
    void Promise.resolve(this.#writing).then(this.terminate);
  }

  readonly terminate = (): void => {
    const owner = this.#owner;
    if (!owner) return;
    this.#owner = null;
    this.resume();
    this.#reader.cancel().catch(() => {}); // it has failed
    owner.closed();
  };
}
