/** Lent responses of one connection: their memory stays mapped until the last response is given back. */

/** Gives back loans whose memory was garbage-collected, because user code forgot to release them. */
const forgotten = new FinalizationRegistry<() => void>((forget) => forget());

/** Tracks the loans of one connection. */
export class Loans {
  count = 0;
  /** Whether user code kept memory of a loan, so that the region must stay mapped. */
  isHeld = false;
  readonly #onForgotten: () => void;

  constructor(onForgotten: () => void) {
    this.#onForgotten = onForgotten;
  }

  /** Lends `memory`. The returned function gives it back, once, and calls `back`. */
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
      giveBack(true); // user code may have transferred the memory before
    };
    forgotten.register(memory, forget, giveBack); // any view of the memory keeps it alive
    return giveBack;
  }
}
