/** Waiting for a state, without slotbus: tests that run without the C library import only this. */

/** Resolves when `condition` holds; fails with `what` after `ms`. */
export async function until(condition: () => boolean | Promise<boolean>, what: string, ms = 10_000): Promise<void> {
  const deadline = performance.now() + ms;
  while (!(await condition())) {
    if (performance.now() > deadline) throw new Error(`after ${ms} ms still not: ${what}`);
    await Bun.sleep(1);
  }
}

/** The error that a promise rejects with; fails when it resolves. */
export async function rejection<T extends Error = Error>(promise: Promise<unknown>): Promise<T> {
  const outcome = await promise.then(
    (value) => ({ value }),
    (error) => ({ error }),
  );
  if ("value" in outcome) throw new Error(`resolved with ${Bun.inspect(outcome.value)}`);
  return outcome.error as T;
}

/** Resolves as `promise` does, or to `undefined` after `ms`. Leaves no timer. */
export async function within<T>(promise: Promise<T>, ms: number): Promise<T | undefined> {
  const over = Promise.withResolvers<undefined>();
  const timer = setTimeout(over.resolve, ms);
  try {
    return await Promise.race([promise, over.promise]);
  } finally {
    clearTimeout(timer);
  }
}
