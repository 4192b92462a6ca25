/** Prometheus' text format, version 0.0.4. */

/** Type of a metric of Prometheus. */
export type MetricType = "counter" | "gauge" | "histogram";
/** Labels of a sample. */
export type Labels = Readonly<Record<string, string | number>>;

/** A histogram: its cumulative buckets, number and sum of the samples. */
export interface Histogram {
  /** Upper bound of a bucket, and how many samples were not above it; ascending. */
  readonly buckets: readonly (readonly [bound: number, count: number])[];
  readonly count: number;
  readonly sum: number;
}

/** Families of samples, written one after the other: each {@link family}, then its samples. */
export class Exposition {
  static readonly contentType = "text/plain; version=0.0.4; charset=utf-8";
  #text = "";
  #name = "";

  /** Begins a family. A name comes once. */
  family(name: string, type: MetricType, help: string): this {
    this.#name = name;
    this.#text += `# HELP ${name} ${escape(help)}\n# TYPE ${name} ${type}\n`;
    return this;
  }

  /** A sample of the family; `suffix`: which part of a histogram it is. */
  sample(labels: Labels, value: number, suffix: "" | "_bucket" | "_sum" | "_count" = ""): this {
    const pairs = Object.entries(labels).map(
      ([name, text]) => `${name}="${escape(String(text)).replaceAll('"', '\\"')}"`,
    );
    const all = pairs.length > 0 ? `{${pairs.join(",")}}` : "";
    this.#text += `${this.#name}${suffix}${all} ${spell(value)}\n`;
    return this;
  }

  /** A sample of a family of histograms; bounds, like `sum`, in the family's unit. */
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
