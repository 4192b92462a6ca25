/** Standard input and output of this process as the connection of one client. */

import type { ClientSocket } from "./client.ts";
import { type ByteSink, sinkOf } from "./writer.ts";

/** Callbacks of the connection. */
interface StandardOwner {
  read(bytes: Uint8Array): void;
  /** Input has ended. */
  inputEnded(): unknown;
  /** Output has taken the last write. */
  drained(): void;
  closed(): void;
}

/** Reads standard input and writes standard output until either ends. */
export class StandardSocket implements ClientSocket {
  readonly remoteAddress = "";
  readonly #sink: ByteSink = sinkOf(Bun.stdout.writer());
  readonly #reader = Bun.stdin.stream().getReader();
  #owner: StandardOwner | null = null;
  /** Resolves when the pipe has taken the last write. */
  #writing: Promise<void> | null = null;
  #paused: PromiseWithResolvers<void> | null = null;

  /** Starts reading. */
  async open(owner: StandardOwner): Promise<void> {
    this.#owner = owner;
    try {
      for (let next = await this.#reader.read(); !next.done; next = await this.#reader.read()) {
        this.#owner?.read(next.value);
        await this.#paused?.promise;
      }
    } catch {
      // A failed read counts as the end of input.
    }
    this.#owner?.inputEnded();
  }

  /** Writes all of the bytes, or none while the last write is pending. */
  write(bytes: Uint8Array): number {
    if (!this.#owner) return -1;
    if (this.#writing) return 0;
    try {
      const full = this.#sink.write(bytes);
      if (full) this.#writing = full.then(this.#onDrained, this.terminate);
      return bytes.length;
    } catch {
      queueMicrotask(this.terminate); // the reader is gone
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

  /** Closes the connection after its pending output. */
  end(): void {
    void Promise.resolve(this.#writing).then(this.terminate);
  }

  readonly terminate = (): void => {
    const owner = this.#owner;
    if (!owner) return;
    this.#owner = null;
    this.resume();
    this.#reader.cancel().catch(() => {}); // reading has already failed
    owner.closed();
  };
}
