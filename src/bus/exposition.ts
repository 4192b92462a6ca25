/** The Prometheus text format, version 0.0.4. */

/** Type of a Prometheus metric. */
export type MetricType = "counter" | "gauge" | "histogram";
/** Labels of a sample. */
export type Labels = Readonly<Record<string, string | number>>;

/** A histogram: cumulative buckets, and the number and sum of the samples. */
export interface Histogram {
  /** Upper bound of each bucket and number of samples up to that bound, ascending. */
  readonly buckets: readonly (readonly [bound: number, count: number])[];
  readonly count: number;
  readonly sum: number;
}

/** Writes metric families one after the other: each {@link family}, then its samples. */
export class Exposition {
  static readonly contentType = "text/plain; version=0.0.4; charset=utf-8";
  #text = "";
  #name = "";

  /** Starts a family. Each name may be used once. */
  family(name: string, type: MetricType, help: string): this {
    this.#name = name;
    this.#text += `# HELP ${name} ${escape(help)}\n# TYPE ${name} ${type}\n`;
    return this;
  }

  /** Adds a sample to the family. `suffix` names the part of a histogram. */
  sample(labels: Labels, value: number, suffix: "" | "_bucket" | "_sum" | "_count" = ""): this {
    const pairs = Object.entries(labels).map(
      ([name, text]) => `${name}="${escape(String(text)).replaceAll('"', '\\"')}"`,
    );
    const all = pairs.length > 0 ? `{${pairs.join(",")}}` : "";
    this.#text += `${this.#name}${suffix}${all} ${spell(value)}\n`;
    return this;
  }

  /** Adds a histogram to the family. Bounds and `sum` are in the unit of the family. */
  histogram(labels: Labels, { buckets, count, sum }: Histogram): this {
    for (const [bound, below] of buckets)
      this.sample({ ...labels, le: Number(bound.toPrecision(3)) }, below, "_bucket");
    this.sample({ ...labels, le: "+Inf" }, count, "_bucket");
    return this.sample(labels, sum, "_sum").sample(labels, count, "_count");
  }

  toString(): string {
    return this.#text;
  }
}

function escape(text: string): string {
  return text.replaceAll("\\", "\\\\").replaceAll("\n", "\\n");
}

function spell(value: number): string {
  if (Number.isFinite(value)) return String(value);
  return Number.isNaN(value) ? "NaN" : value > 0 ? "+Inf" : "-Inf";
}
