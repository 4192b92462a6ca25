/** The rules that the hub, the stdio bus and `bun --hot` keep, and what is left without each. */

import type { LibraryRule } from "./library.ts";

export const edgeRules: LibraryRule[] = [
  {
    rule: "no page of another origin reads a hub that allows none",
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
    rule: "a length that nobody knows is not said to be 0",
    file: "bus/response.ts",
    edits: [["whole && (!isHead || whole.length > 0)", "whole"]],
    suite: "mounted",
    test: "HEAD says the length that GET's answer has, or none; never 0 for one that has a body",
  },
  {
    rule: "a line of the log holds no control character of others",
    file: "cli/hub-log.ts",
    edits: [['text.replace(/\\p{Cc}/gu, "?")', "text"]],
    suite: "hub-log",
    test: "on a terminal it is text; control characters of others are not the terminal's",
  },
  {
    rule: "a request is given up as its protocol says",
    file: "stdio/protocol.ts",
    edits: [['cancelId: "requestId"', 'cancelId: "id"']],
    suite: "mcp",
    test: "a pool greets each life of a worker, once; who asks again gets the same answer; initialize is never cancelled",
  },
  {
    rule: "what waits for a pool that is replaced goes to the new one",
    file: "stdio/worker-pool.ts",
    edits: [
      [
        "      successor.#adopt([...this.#waiting, ...[...this.#connections].flatMap(({ waiting }) => [...waiting])], this);\n",
        "",
      ],
    ],
    suite: "stdio-reload",
    test: "the old workers answer what they have, and what waits goes to the new ones, beyond their limit too",
  },
  {
    rule: "a pool that is replaced ends when it has answered",
    file: "stdio/pools.ts",
    edits: [["await pool.retire(successor);", "void pool.retire(successor);"]],
    suite: "stdio-reload",
    test: "the old workers answer what they have, and what waits goes to the new ones, beyond their limit too",
  },
  {
    rule: "an evaluation that was replaced answers what it has",
    file: "hot.ts",
    edits: [["close({ timeout })", "close({ timeout: 0 })"]],
    suite: "reload",
    test: "hot: the newest workers answer alone, all that one evaluation opens stay, and no request is lost",
  },
  {
    rule: "a request that its worker gave up gets no answer where its protocol has none",
    file: "stdio/protocol.ts",
    edits: [["answersCancelled: false", "answersCancelled: true"]],
    suite: "mcp",
    test: "a worker that gives up its own request aborts the handler and gets no answer; its ping is answered",
  },
];
