/** Rules of the pool. */

import type { LibraryRule } from "./library.ts";

const values = "copies what structured clone copies, and large buffers exactly";
const errors = "of a task keep name, message, stack, causes and own fields";
const wrong = "of a wrong call say which function or value, before or without running anything";

export const poolRules: LibraryRule[] = [
  {
    rule: "a crash of a task does not count for the pause of a pool",
    file: "supervisor/restarts.ts",
    edits: [['counts === "all" || readyMs === 0', 'counts !== "all" || readyMs >= 0']],
    suite: "pool",
    test: "is restarted as often as tasks crash it: crashes of tasks never pause a pool",
  },
  {
    rule: "a pool sends only the bytes of a view",
    file: "pool/clone.ts",
    edits: [["new Uint8Array(value.buffer, value.byteOffset, value.byteLength)", "new Uint8Array(value.buffer)"]],
    suite: "pool",
    test: values,
  },
  {
    rule: "arguments that are views of one buffer still share it",
    file: "pool/clone.ts",
    edits: [["    if (memory.has(view.buffer)) return new Map();\n", ""]],
    suite: "pool",
    test: values,
  },
  {
    rule: "a large buffer of a pool's message is copied out of it",
    file: "pool/clone.ts",
    edits: [
      ["copy(bytes, at, at + length).buffer", "(bytes.subarray(at, at + length) as Uint8Array<ArrayBuffer>).buffer"],
    ],
    suite: "pool",
    test: values,
  },
  {
    rule: "the error of an argument that cannot be copied names it",
    file: "pool/clone.ts",
    edits: [["what(Math.max(0, index))", "what(0)"]],
    suite: "pool",
    test: wrong,
  },
  {
    rule: "fields of an error that cannot be copied are left out",
    file: "pool/failure.ts",
    edits: [["    if (isCloneable(value)) fields[key] = value;\n", "    fields[key] = value;\n"]],
    suite: "pool",
    test: errors,
  },
  {
    rule: "an error of a task keeps its causes",
    file: "pool/failure.ts",
    edits: [["    ...(cause === undefined ? {} : { cause: packError(cause, depth + 1) }),\n", ""]],
    suite: "pool",
    test: errors,
  },
  {
    rule: "processes that tasks start are not processes of the pool",
    file: "pool/serve.ts",
    edits: [["  delete process.env[POOL_VARIABLE]; // not for processes that tasks start\n", ""]],
    suite: "pool",
    test: "has the environment of the pool, without the variable that made its process a process of the pool",
  },
];
