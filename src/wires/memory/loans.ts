/** Responses of one connection that are lent out: their memory stays mapped until the last one is back. */

interface Loan {
  readonly giveBack: (isHeld: boolean) => void;
  readonly onForgotten: () => void;
}

/** Loans that nobody can reach any more: their borrow was forgotten. */
const forgotten = new FinalizationRegistry<Loan>(({ giveBack, onForgotten }) => {
  onForgotten();
  giveBack(true); // the memory may have been carried away before
});

export class Loans {
  count = 0;
  /** Somebody kept the memory of one: it stays mapped for ever. */
  isHeld = false;
  readonly #onForgotten: () => void;

  constructor(onForgotten: () => void) {
    this.#onForgotten = onForgotten;
  }

  /** Lends `memory`. What this returns gives it back, once, and then calls `back`. */
  lend(memory: ArrayBuffer, back: () => void): (isHeld: boolean) => void {
    this.count++;
    const giveBack = (isHeld: boolean): void => {
      forgotten.unregister(giveBack);
      this.count--;
      if (isHeld) this.isHeld = true;
      back();
    };
    // A view of the memory keeps it, whoever has the view.
    forgotten.register(memory, { giveBack, onForgotten: this.#onForgotten }, giveBack);
    return giveBack;
  }
}
