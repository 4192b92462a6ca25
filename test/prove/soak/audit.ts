/** Checks the books of every request after the run. */

import * as b from "./request-books.ts";

/** One life of a client. It sent the ids from `first` to before `end`. */
export interface Life {
  first: number;
  end: number;
  /** It was killed: requests that had not settled never will. */
  killed: boolean;
}

export interface Sums {
  answered: number;
  refused: number;
  failed: number;
  aborted: number;
  /** Requests of a client that was killed. */
  vanished: number;
  twiceRun: number;
  /** Requests that ran twice and lost both workers. */
  twiceKilled: number;
  lost: number;
  doubled: number;
  wrong: number;
}

export function audit(books: b.RequestBooks, lives: readonly Life[], problem: (text: string) => void): Sums {
  const sums: Sums = {
    answered: 0,
    refused: 0,
    failed: 0,
    aborted: 0,
    vanished: 0,
    twiceRun: 0,
    twiceKilled: 0,
    lost: 0,
    doubled: 0,
    wrong: 0,
  };
  for (const { first, end, killed } of lives) {
    for (let id = first; id < end; id++) auditOne(books, id, killed, sums, problem);
  }
  return sums;
}

function auditOne(
  books: b.RequestBooks,
  id: number,
  killed: boolean,
  sums: Sums,
  problem: (text: string) => void,
): void {
  const outcome = books.outcome[id]!;
  const runs = books.runs[id]! % b.REPLIED;
  const replies = Math.floor(books.runs[id]! / b.REPLIED);
  if (outcome & b.ANSWERED) sums.answered++;
  if (outcome & b.REFUSED) sums.refused++;
  if (outcome & b.FAILED) sums.failed++;
  if (outcome & b.ABORTED) sums.aborted++;
  if (!(outcome & b.SETTLED)) {
    if (killed) sums.vanished++;
    else {
      sums.lost++;
      problem(`request ${id} never settled`);
    }
  }
  if (runs === 2) sums.twiceRun++;
  if (runs === 2 && outcome & b.FAILED && outcome & b.IDEMPOTENT && replies === 0) sums.twiceKilled++;
  const settledTwice = (outcome & b.TWICE) !== 0;
  if (settledTwice || runs > (outcome & b.IDEMPOTENT ? 2 : 1)) {
    sums.doubled++;
    problem(`request ${id} ran ${runs} times${settledTwice ? " and settled twice" : ""}`);
  }
  const unasked = outcome & b.ANSWERED && replies === 0;
  const denied = outcome & b.REFUSED && runs > 0;
  if (outcome & b.WRONG || unasked || denied) sums.wrong++;
  if (unasked) problem(`request ${id} got a response that no handler sent`);
  if (denied) problem(`request ${id} ran, though its error says that it did not`);
}
