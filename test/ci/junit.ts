/** Reads the report of `bun test --reporter=junit`. */

export interface TestCase {
  /** `file: group > name`, or `file: name` */
  name: string;
  verdict: "passed" | "failed" | "skipped";
  /** Text of the failure. */
  text: string;
}

const ENTITIES: Record<string, string> = { lt: "<", gt: ">", amp: "&", quot: '"', apos: "'" };

function decode(text: string): string {
  return text.replaceAll(/&(?:#(\d+)|#x([\da-f]+)|(\w+));/gi, (all, decimal, hex, name) => {
    if (decimal) return String.fromCodePoint(Number(decimal));
    return hex ? String.fromCodePoint(Number.parseInt(hex, 16)) : (ENTITIES[name] ?? all);
  });
}

export function readJunit(xml: string): TestCase[] {
  return [...xml.matchAll(/<testcase ([^>]*?)(?:\/>|>([^]*?)<\/testcase>)/g)].map(([, attributes, inner = ""]) => {
    const of = (name: string, text = attributes!): string =>
      decode(new RegExp(`(?:^| )${name}="([^"]*)"`).exec(text)?.[1] ?? "");
    const group = of("classname");
    const name = `${of("file")}: ${group ? `${group} > ` : ""}${of("name")}`;
    if (inner.includes("<skipped")) return { name, verdict: "skipped", text: "" };
    const failure = /<failure ([^>]*?)(?:\/>|>([^]*?)<\/failure>)/.exec(inner);
    if (!failure) return { name, verdict: "passed", text: "" };
    return { name, verdict: "failed", text: failure[2] ? decode(failure[2]) : of("message", failure[1]) };
  });
}
