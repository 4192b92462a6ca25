/** Responses of one connection that are lent out: their memory stays mapped until the last one is back. */

/** Gives loans back whose memory was collected as garbage: their borrow was forgotten. */
const forgotten = new FinalizationRegistry<() => void>((forget) => forget());

/** Counts and takes back the loans of one connection. */
export class Loans {
  count = 0;
  /** Whether user code kept memory of a loan: the region stays mapped for ever. */
  isHeld = false;
  readonly #onForgotten: () => void;

  constructor(onForgotten: () => void) {
    this.#onForgotten = onForgotten;
  }

  /** Lends `memory`. The function returned gives it back, once, and calls `back`. */
  lend(memory: ArrayBuffer, back: () => void): (isHeld: boolean) => void {
    this.count++;
    const giveBack = (isHeld: boolean): void => {
      forgotten.unregister(giveBack);
      this.count--;
      if (isHeld) this.isHeld = true;
      back();
    };
    const forget = (): void => {
      this.#onForgotten();
      giveBack(true); // the memory may have been carried away before
    };
    forgotten.register(memory, forget, giveBack); // a view of the memory keeps it, whoever has the view
    return giveBack;
  }
}
