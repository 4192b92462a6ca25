/** Rules of the hub, the stdio bus and `bun --hot`. */

import type { LibraryRule } from "./library.ts";

export const edgeRules: LibraryRule[] = [
  {
    rule: "a page of another origin cannot read a hub without `cors`",
    file: "hub/hub.ts",
    edits: [
      [
        "options.cors ? new Cors(options.cors) : null",
        'new Cors(options.cors ?? { origins: "*", credentials: false, maxAge: 0 })',
      ],
    ],
    suite: "hub-cors",
    test: "is off by default",
  },
  {
    rule: "a response of unknown length does not claim length 0",
    file: "bus/response.ts",
    edits: [["whole && (!isHead || whole.length > 0)", "whole"]],
    suite: "mounted",
    test: "HEAD gives GET's content-length or none; never 0 when GET has a body",
  },
  {
    rule: "a log line contains no control characters from other processes",
    file: "cli/log.ts",
    edits: [['text.replace(/\\p{Cc}/gu, "?")', "text"]],
    suite: "hub-log",
    test: "on a terminal it is text, with control characters of clients and workers replaced",
  },
  {
    rule: "a cancel message names the request in the protocol's field",
    file: "stdio/protocol.ts",
    edits: [['cancelId: "requestId"', 'cancelId: "id"']],
    suite: "mcp",
    test: "a pool initializes each process once; a second initialize gets the same answer; initialize is never cancelled",
  },
  {
    rule: "requests that wait for a replaced pool go to its successor",
    file: "stdio/worker-pool.ts",
    edits: [
      [
        "      successor.#adopt([...this.#waiting, ...[...this.#connections].flatMap(({ waiting }) => [...waiting])], this);\n",
        "",
      ],
    ],
    suite: "stdio-reload",
    test: "the old workers answer their requests; waiting requests go to the new workers, even above their limits",
  },
  {
    rule: "a replaced pool closes after it has answered its requests",
    file: "stdio/pools.ts",
    edits: [["await pool.retire(successor);", "void pool.retire(successor);"]],
    suite: "stdio-reload",
    test: "the old workers answer their requests; waiting requests go to the new workers, even above their limits",
  },
  {
    rule: "a replaced hot evaluation answers the requests that it already has",
    file: "hot.ts",
    edits: [["close({ timeout })", "close({ timeout: 0 })"]],
    suite: "reload",
    test: "hot: only the newest workers answer, workers of one evaluation all stay, and no request is lost",
  },
  {
    rule: "a request that its worker cancelled gets no response if the protocol has none",
    file: "stdio/protocol.ts",
    edits: [["answersCancelled: false", "answersCancelled: true"]],
    suite: "mcp",
    test: "a worker that cancels its own request aborts the handler and gets no answer; its ping is answered",
  },
];
