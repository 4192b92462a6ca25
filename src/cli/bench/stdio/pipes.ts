/** What one writes by hand for a pair of pipes: lines of JSON, those of one turn in one write. */

interface Sink {
  write(text: string): unknown;
  flush(): unknown;
}

/** Calls `take` with each line's message and `rested` when there is no more for now. */
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

/** Gathers lines. */
export class Writer {
  readonly #sink: Sink;
  #text = "";
  #isScheduled = false;

  constructor(sink: Sink) {
    this.#sink = sink;
  }

  /** Without a `flush` before, it goes out at the end of this turn. */
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
