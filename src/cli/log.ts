/** The log of a program of its own: one line each on standard error, for people on a terminal, else JSON. */

export type Level = "info" | "warn" | "error";

/** Writes what happened, with its facts: `12:30:05 joined pool=a worker=0 pid=17`. */
export function log(level: Level, event: string, facts: Readonly<Record<string, unknown>> = {}): void {
  const time = new Date();
  process.stderr.write(
    process.stderr.isTTY
      ? `${[time.toTimeString().slice(0, 8), ...(level === "info" ? [] : [level]), event, ...pairs(facts)].join(" ")}\n`
      : `${JSON.stringify({ time: time.toISOString(), level, event, ...facts })}\n`,
  );
}

/** Control characters, as of a worker's line, become question marks. */
function pairs(facts: Readonly<Record<string, unknown>>): string[] {
  return Object.entries(facts).map(([name, value]) => {
    const text = typeof value === "string" ? value : JSON.stringify(value);
    return `${name}=${text.replace(/\p{Cc}/gu, "?")}`;
  });
}
