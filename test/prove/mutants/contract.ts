/** Rules of contracts. */

import type { LibraryRule } from "./library.ts";

export const contractRules: LibraryRule[] = [
  {
    rule: "only schemas of one vendor are compared",
    file: "contract/compare.ts",
    edits: [["return vendor === ourVendor && digest", "return digest"]],
    suite: "contract",
    test: "schemas of one vendor; not when one side has none, the vendors differ, or a version stands for them",
  },
  {
    rule: "only schemas with a digest are compared",
    file: "contract/compare.ts",
    edits: [["digest !== undefined && ourDigest !== undefined && digest !== ourDigest", "digest !== ourDigest"]],
    suite: "contract",
    test: "schemas of one vendor; not when one side has none, the vendors differ, or a version stands for them",
  },
  {
    rule: "a frame above the limit is refused by its header",
    file: "contract/frames.ts",
    edits: [
      [
        '      if (length > limitOf(kind, this.#limit)) throw new PayloadTooLargeError("item", length, this.#limit, true);\n      const size',
        "      const size",
      ],
    ],
    suite: "contract",
    test: "a frame that claims more than the limit is refused by its first five bytes; a failure may be larger than a body",
  },
  {
    rule: "a failure may be larger than a body",
    file: "contract/frames.ts",
    edits: [["kind === FRAME.failure ? Math.max(limit, FAILURE_MAX) : limit", "kind < 0 ? FAILURE_MAX : limit"]],
    suite: "contract",
    test: "a frame that claims more than the limit is refused by its first five bytes; a failure may be larger than a body",
  },
  {
    rule: "nothing follows the last frame of a stream",
    file: "contract/frames.ts",
    edits: [
      ["      if (this.#ended && this.#available > 0) throw malformed(AFTER_END);\n", ""],
      ["    if (this.#ended) throw malformed(AFTER_END);\n", ""],
    ],
    suite: "contract",
    test: "a stream that is cut anywhere, or continues after its end, is an error",
  },
  {
    rule: "a stream without its last frame was cut off",
    file: "contract/frames.ts",
    edits: [
      [
        "    if (this.#ended) return;\n    const after",
        "    if (this.#ended || this.#available >= 0) return;\n    const after",
      ],
    ],
    suite: "contract",
    test: "a stream that is cut anywhere, or continues after its end, is an error",
  },
  {
    rule: "a frame of an unknown kind is an error",
    file: "contract/frames.ts",
    edits: [["if (kind < FRAME.value || kind > FRAME.enough) {", "if (kind < 0) {"]],
    suite: "contract",
    test: "a malformed failure and invalid items are protocol errors, never a hang or a crash",
  },
  {
    rule: "an item above the limit is refused at its sender",
    file: "contract/frames.ts",
    edits: [["    this.#check(kind, length);\n    const frame", "    const frame"]],
    suite: "contract",
    test: "an item may be larger than the ring, up to the payload limit; above it, its sender gets an error",
  },
  {
    rule: "an error is declared by one method of one contract",
    file: "contract/failure.ts",
    edits: [
      [
        "!(error instanceof ContractError) || error.contract !== contract || error.method !== name",
        "!(error instanceof ContractError)",
      ],
    ],
    suite: "contract",
    test: "data that does not match its declaration is a ValidationError, an undeclared code a RemoteError",
  },
  {
    rule: "the data of a declared error is checked at its sender",
    file: "contract/failure.ts",
    edits: [["  await part.verify(data);\n", ""]],
    suite: "contract",
    test: "data that does not match its declaration is a ValidationError, an undeclared code a RemoteError",
  },
  {
    rule: "a malformed failure is an error of the protocol",
    file: "contract/failure.ts",
    edits: [["  if (!found) return malformed();\n", '  if (!found) return new Error("malformed");\n']],
    suite: "contract",
    test: "a malformed failure and invalid items are protocol errors, never a hang or a crash",
  },
  {
    rule: "an idempotent call that failed a check may have run before",
    file: "contract/failure.ts",
    edits: [["const ran = mayHaveExecuted || failure.ran !== false;", "const ran = failure.ran !== false;"]],
    suite: "contract",
    test: "the worker refuses an input before the handler runs",
  },
  {
    rule: "a streamed item has its own memory",
    file: "contract/items.ts",
    edits: [["if (kind === FRAME.bytes) return payload.slice();", "if (kind === FRAME.bytes) return payload;"]],
    suite: "contract",
    test: "items of a caller without a client are an ordinary body, and a streamed item has its own memory",
  },
  {
    rule: "each item is checked at its sender",
    file: "contract/items.ts",
    edits: [
      [
        "const checking = this.#part.verify(value);",
        "const checking: Promise<unknown> | null = null as Promise<unknown> | null;",
      ],
    ],
    suite: "contract",
    test: "a method takes a sequence of items from an array, a generator or a stream; each item is checked on its way",
  },
  {
    rule: "the error of an input generator reaches its caller unchanged",
    file: "contract/items.ts",
    edits: [["throw this.#sent?.failure ? this.#sent.failure.error : error;", "throw error;"]],
    suite: "contract",
    test: "an input generator's error reaches the handler after the items before it, and the caller unchanged",
  },
  {
    rule: "the error of a generator ends its items",
    file: "contract/items.ts",
    edits: [["    if (this.#failure) throw await readFailure(this.#method, this.#failure, true);\n", ""]],
    suite: "contract",
    test: "an error of a generator comes after the items that it yielded: before the first, after it, and at the end",
  },
  {
    rule: "calls of `next` are answered in order",
    file: "contract/items.ts",
    edits: [["    if (this.#running) return this.#run(this.#running.then(this.#step, this.#step));\n", ""]],
    suite: "contract",
    test: "calls of next that do not wait for each other are answered in order",
  },
  {
    rule: "thousands of issues are counted, not listed",
    file: "contract/values.ts",
    edits: [["issues.slice(0, ISSUES_MAX).map(toIssue)", "issues.map(toIssue)"]],
    suite: "contract",
    test: "thousands of issues arrive counted, not listed",
  },
  {
    rule: "the client checks an input before it is sent",
    file: "contract/client.ts",
    edits: [
      [
        "const checking = this.#input.verify(input);",
        "const checking: Promise<unknown> | null = null as Promise<unknown> | null;",
      ],
    ],
    suite: "contract",
    test: "the client refuses an input before it is sent, with the place and the reason",
  },
  {
    rule: "the client checks an output",
    file: "contract/client.ts",
    edits: [
      [
        "return this.#output.check(this.#output.read(contentType, body));",
        "return this.#output.read(contentType, body);",
      ],
    ],
    suite: "contract",
    test: "the client refuses an output that fails its own schema",
  },
  {
    rule: "the worker checks an input before the handler runs",
    file: "contract/implementations.ts",
    edits: [
      [
        "return input.check(input.read(contentType, isParsed ? request.peek() : request.body));",
        "return input.read(contentType, isParsed ? request.peek() : request.body);",
      ],
    ],
    suite: "contract",
    test: "the worker refuses an input before the handler runs",
  },
  {
    rule: "the worker checks an output before it is sent",
    file: "contract/implementations.ts",
    edits: [
      [
        "const checking = served.output.verify(value);",
        "const checking: Promise<unknown> | null = null as Promise<unknown> | null;",
      ],
    ],
    suite: "contract",
    test: "the worker refuses its own invalid output and reports it, and the client gets none of it",
  },
  {
    rule: "a worker reports its own invalid output",
    file: "contract/implementations.ts",
    edits: [['    if (error.part !== "input") this.#report(error, request);\n', ""]],
    suite: "contract",
    test: "the worker refuses its own invalid output and reports it, and the client gets none of it",
  },
  {
    rule: "contracts that differ are refused before the handler runs",
    file: "contract/implementations.ts",
    edits: [["if (route.differences.length > 0)", "if (route.differences.length > 99)"]],
    suite: "contract",
    test: "rpc and stream, both ways",
  },
  {
    rule: "an idempotent method's calls are idempotent unless a call says otherwise",
    file: "contract/client.ts",
    edits: [
      [
        "given === undefined || this.#options === undefined || given.idempotent !== undefined",
        "given === undefined || this.#options === undefined",
      ],
    ],
    suite: "contract",
    test: "idempotent is the method's setting unless the call overrides it",
  },
  {
    rule: "a call with options keeps the method's idempotent",
    file: "contract/client.ts",
    edits: [["    return { ...given, idempotent: true };", "    return given;"]],
    suite: "contract",
    test: "idempotent is the method's setting unless the call overrides it",
  },
  {
    rule: "each method has a handler",
    file: "contract/implementations.ts",
    edits: [["if (missing.length > 0 || unknown.length > 0) {", "if (unknown.length > 0) {"]],
    suite: "contract",
    test: "handlers that are missing or unknown are named",
  },
  {
    rule: "handlers that were replaced are not called",
    file: "contract/implementations.ts",
    edits: [["if (route === null || route.methods !== this.#methods) route", "if (route === null) route"]],
    suite: "contract",
    test: "the handlers may be an object with a `this`, and may be replaced; serve answers other requests",
  },
  {
    rule: "bytes that a handler keeps do not change",
    file: "contract/implementations.ts",
    edits: [
      [
        "isParsed ? request.peek() : request.body",
        "isParsed || contentType === BYTES_TYPE ? request.peek() : request.body",
      ],
    ],
    suite: "contract",
    test: "bytes that a handler keeps do not change when another call has their slot",
  },
  {
    rule: "a list of methods that does not fit is left out",
    file: "contract/implementations.ts",
    edits: [
      [
        "const fits = whole.length <= Math.min(payloadBytes, LIST_BYTES);",
        "const fits = whole.length <= payloadBytes;",
      ],
    ],
    suite: "contract",
    test: "a list of methods that does not fit into an answer is left out, and an invalid list names no method",
  },
  {
    rule: "a method is not named like a promise's",
    file: "contract/contract.ts",
    edits: [["!methodName.test(key) || forbidden.has(key)", "!methodName.test(key)"]],
    suite: "contract",
    test: "invalid names, methods, schemas, versions and codecs are refused when the contract is made",
  },
  {
    rule: "the guard accepts only errors of its method",
    file: "contract/contract.ts",
    edits: [["  if (error.contract !== method.contract || error.method !== method.name) return false;\n", ""]],
    suite: "contract",
    test: "arrive with code, data and message, and the guard narrows them",
  },
  {
    rule: "a version stands for the schemas of its method",
    file: "contract/contract.ts",
    edits: [['versioned ? "" : describeSchema(input, "input")', 'describeSchema(input, "input")']],
    suite: "contract",
    test: "schemas of one vendor; not when one side has none, the vendors differ, or a version stands for them",
  },
  {
    rule: "an answer without the contract's content type is not an output",
    file: "contract/client.ts",
    edits: [["if (!isValue && !isNothing) return", "if (!isValue && status > 599) return"]],
    suite: "contract",
    test: "a worker without the contract, and a worker whose answers are not valid outputs",
  },
  {
    rule: "a response that is not a stream of items has no items",
    file: "contract/client.ts",
    edits: [["if (status !== 200 || contentType !== ITEMS_TYPE) {", "if (status !== 200) {"]],
    suite: "contract",
    test: "a worker without the contract, and a worker whose answers are not valid outputs",
  },
  {
    rule: "an input that the worker refuses did not run",
    file: "contract/implementations.ts",
    edits: [
      [
        'new Part(method, "worker", "input", method.declaration.input, false)',
        'new Part(method, "worker", "input", method.declaration.input, true)',
      ],
    ],
    suite: "contract",
    test: "the worker refuses an input before the handler runs",
  },
  {
    rule: "an output that is refused did run",
    file: "contract/client.ts",
    edits: [
      ['new Part(method, "client", "output", output, true)', 'new Part(method, "client", "output", output, false)'],
    ],
    suite: "contract",
    test: "the client refuses an output that fails its own schema",
  },
  {
    rule: "the sender sends a value unchanged",
    file: "contract/client.ts",
    edits: [
      [
        "return checking ? checking.then(() => this.#valueRequest(input, options)) : this.#valueRequest(input, options);",
        "return checking ? checking.then((made) => this.#valueRequest(made, options)) : this.#valueRequest(this.#input.check(input), options);",
      ],
    ],
    suite: "contract",
    test: "schemas that are async, and that change values, on both sides: each receiver gets its own schema's result",
  },
  {
    rule: "a worker's lists have a limit at the client",
    file: "contract/failure.ts",
    edits: [
      ["const near = list(failure.near).slice(0, LISTED_MAX).map(text);", "const near = list(failure.near).map(text);"],
    ],
    suite: "contract",
    test: "of a worker's failure the client keeps 16 differences and names, and 8 KiB of a text",
  },
  {
    rule: "a worker's texts have a limit at the client",
    file: "contract/failure.ts",
    edits: [['typeof value === "string" ? value.slice(0, TEXT_MAX) : ""', 'typeof value === "string" ? value : ""']],
    suite: "contract",
    test: "of a worker's failure the client keeps 16 differences and names, and 8 KiB of a text",
  },
  {
    rule: "values of another codec may be views of the bytes",
    file: "contract/implementations.ts",
    edits: [["contentType !== BYTES_TYPE && method.codec === json", "contentType !== BYTES_TYPE"]],
    suite: "contract",
    test: "a codec may return a view of the bytes; a handler may keep it",
  },
  {
    rule: "an rpc whose input generator fails rejects with its error",
    file: "contract/client.ts",
    edits: [["    if (items.failure) throw items.failure.error;\n    return reply;", "    return reply;"]],
    suite: "contract",
    test: "an input generator's error reaches the handler after the items before it, and the caller unchanged",
  },
  {
    rule: "suggested names are similar",
    file: "contract/implementations.ts",
    edits: [["const near = nearest(wanted, names, 2);", "const near: string[] = [];"]],
    suite: "contract",
    test: "for a method or contract that the worker does not have, the error suggests similar names",
  },
  {
    rule: "a stream's last item is followed by its end",
    file: "contract/items.ts",
    edits: [["    this.#frames.finish();\n    if (this.#failure)", "    if (this.#failure)"]],
    suite: "contract",
    test: "a malformed failure and invalid items are protocol errors, never a hang or a crash",
  },
];
