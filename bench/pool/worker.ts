/** Worker of `bun-worker` (a thread) and of `bun-spawn` (a process for each task: `bun worker.ts TASK ARGUMENT`). */

import * as tasks from "./tasks.ts";

declare const self: Worker;

const run = (task: string, argument: unknown): unknown => tasks[task as keyof typeof tasks](argument as never);

if (Bun.isMainThread) {
  const [, , task = "", argument = ""] = process.argv;
  process.stdout.write(String(run(task, task === "size" ? await Bun.stdin.bytes() : Number(argument))));
} else {
  self.onmessage = ({ data: [task, argument] }: MessageEvent<[string, unknown]>) =>
    self.postMessage(run(task, argument));
}
