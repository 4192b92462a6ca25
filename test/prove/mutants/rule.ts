/** A rule that the library keeps, the edits that switch it off, and the test that must fail then. */
export interface Rule<File extends string = string> {
  /** What the library guarantees. */
  rule: string;
  file: File;
  /** Each text occurs exactly once in the file. */
  edits: [text: string, without: string][];
  /** Part of the test's name; for a test in C, its beginning. */
  test: string;
  /** Most runs of a test whose race one run may miss. Default 1. */
  runs?: number;
}

/** Returns the text with each edit made. Throws unless each edit fits exactly once. */
export function mutate(text: string, { rule, edits }: Rule): string {
  let result = text;
  for (const [from, to] of edits) {
    if (result.split(from).length !== 2) throw new Error(`"${rule}": this text does not occur exactly once: ${from}`);
    result = result.replace(from, () => to);
  }
  return result;
}
