/** A rule that the library keeps, and the edits that switch it off. */
export interface Edits<File extends string = string> {
  /** What the library guarantees. */
  rule: string;
  file: File;
  /** Each text occurs exactly once in the file. */
  edits: [text: string, without: string][];
}

/** A rule with the test that must fail when it is switched off. */
export interface Rule<File extends string = string> extends Edits<File> {
  /** Part of the test's name; for a test in C, its beginning. */
  test: string;
  /** Most runs of a test whose race one run may miss. Default 1. */
  runs?: number;
}

/** Returns the text with each edit made. Throws unless each edit fits exactly once. */
export function mutate(text: string, { rule, edits }: Edits): string {
  let result = text;
  for (const [from, to] of edits) {
    if (result.split(from).length !== 2) throw new Error(`"${rule}": this text does not occur exactly once: ${from}`);
    result = result.replace(from, () => to);
  }
  return result;
}
