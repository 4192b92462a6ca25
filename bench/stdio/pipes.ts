/** Lines of JSON over a pair of pipes, as a program without slotbus would do it: one write per turn of the event loop. */

interface Sink {
  write(text: string): unknown;
  flush(): unknown;
}

/** Calls `take` with the message of each line, and `rested` after each chunk. */
export async function readLines<T>(
  source: ReadableStream<Uint8Array>,
  take: (message: T) => void,
  rested: () => void = () => {},
): Promise<void> {
  const decoder = new TextDecoder();
  const reader = source.getReader();
  let rest = "";
  for (let step = await reader.read(); !step.done; step = await reader.read()) {
    const text = decoder.decode(step.value, { stream: true });
    let from = 0;
    for (let end = text.indexOf("\n"); end >= 0; end = text.indexOf("\n", from)) {
      take(JSON.parse(rest + text.slice(from, end)));
      rest = "";
      from = end + 1;
    }
    rest += text.slice(from);
    rested();
  }
}

/** Collects lines and writes them together. */
export class Writer {
  readonly #sink: Sink;
  #text = "";
  #isScheduled = false;

  constructor(sink: Sink) {
    this.#sink = sink;
  }

  /** Adds a line. It is written at the end of this turn, or by `flush`. */
  add(message: unknown): void {
    this.#text += `${JSON.stringify(message)}\n`;
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    queueMicrotask(this.flush);
  }

  readonly flush = (): void => {
    this.#isScheduled = false;
    if (this.#text === "") return;
    const text = this.#text;
    this.#text = "";
    this.#sink.write(text);
    this.#sink.flush();
  };
}
