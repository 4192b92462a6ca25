/** A rule, where it stands, what is left without it, and which test must say so. */
export interface Rule<File extends string = string> {
  rule: string;
  file: File;
  /** Each text stands exactly once in the file. */
  edits: [text: string, without: string][];
  /** Part of the name of the test, as its file has it; of a test in C its beginning. */
  test: string;
  /** For a race that a run may miss: so often it is run at most. Default 1. */
  runs?: number;
}

/** The text with each edit made; an edit that does not fit exactly once is an error, not a survivor. */
export function mutate(text: string, { rule, edits }: Rule): string {
  let result = text;
  for (const [from, to] of edits) {
    if (result.split(from).length !== 2) throw new Error(`"${rule}": its text stands not exactly once: ${from}`);
    result = result.replace(from, () => to);
  }
  return result;
}
