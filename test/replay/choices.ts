/**
 * The choices that decide a world. Each choice has a name, which says whose choice it is and what it decides ("call 12 timeout"),
 * and a value: a small whole number, where 0 is the harmless default (no fault, no delay).
 *
 * With a seed, a value is a hash of the seed and the name. So a choice does not depend on the choices made before it, and a change
 * of the code moves few of them. With a list, a choice takes the value that the list has for its name, or 0. A failure is kept as a
 * list, because names keep their meaning when the code changes, and hashes do not.
 */

/** One choice that is not 0. */
export interface Chosen {
  readonly name: string;
  readonly value: number;
}

/** Hashes of names, so that each name is hashed once. */
const hashes = new Map<string, number>();

function hashOf(text: string): number {
  const known = hashes.get(text);
  if (known !== undefined) return known;
  let hash = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
  if (hashes.size < 10_000) hashes.set(text, hash);
  return hash;
}

/** Returns 32 well-mixed bits. */
function mix(a: number, b: number, c: number): number {
  let hash = Math.imul(a ^ Math.imul(b, 0x9e3779b1) ^ Math.imul(c + 1, 0x85ebca6b), 0xc2b2ae35);
  hash = Math.imul(hash ^ (hash >>> 15), 0x2c1b3c6d);
  hash = Math.imul(hash ^ (hash >>> 12), 0x297a2d39);
  return (hash ^ (hash >>> 15)) >>> 0;
}

/** The choices of one world. */
export class Choices {
  readonly #seed: number;
  readonly #list: ReadonlyMap<string, number> | null;
  readonly #taken: Chosen[] | null;

  /** @internal Says which choices are 0, by owner and label; `null`: none. */
  readonly leavesOut: ((owner: string, label: string) => boolean) | null;

  private constructor(
    seed: number,
    list: ReadonlyMap<string, number> | null,
    isRecording: boolean,
    leavesOut: Choices["leavesOut"] = null,
  ) {
    this.leavesOut = leavesOut;
    this.#seed = seed;
    this.#list = list;
    this.#taken = isRecording ? [] : null;
  }

  /** Choices made from a seed. `isRecording`: {@link taken} lists them. `leavesOut`: which choices are 0. */
  static ofSeed(seed: number, isRecording = false, leavesOut: Choices["leavesOut"] = null): Choices {
    return new Choices(seed, null, isRecording, leavesOut);
  }

  /** Choices taken from a list; a choice that is not in the list is 0. */
  static ofList(list: readonly Chosen[]): Choices {
    return new Choices(0, new Map(list.map(({ name, value }) => [name, value])), true);
  }

  /** The choices so far that are not 0. */
  get taken(): readonly Chosen[] {
    return this.#taken ?? [];
  }

  /** Returns the die of an actor or an object of the world, for example of "call 12". */
  die(owner: string): Die {
    return new Die(this, owner, hashOf(owner));
  }

  /** @internal Returns the random bits for a choice, or -1 if the value comes from the list. */
  bits(owner: number, label: number, count: number): number {
    return this.#list ? -1 : mix(this.#seed ^ owner, label, count);
  }

  /** @internal Whether names are needed. */
  get isNamed(): boolean {
    return this.#taken !== null;
  }

  /** @internal Returns the value for `name` from the list. */
  known(name: string): number {
    return this.#list?.get(name) ?? 0;
  }

  /** @internal */
  note(name: string, value: number): void {
    if (value !== 0) this.#taken?.push({ name, value });
  }
}

/** Makes the choices of one owner. The k-th choice with the same label has the name "owner label #k". */
export class Die {
  readonly #choices: Choices;
  readonly owner: string;
  readonly #hash: number;
  readonly #counts = new Map<string, number>();

  constructor(choices: Choices, owner: string, hash: number) {
    this.#choices = choices;
    this.owner = owner;
    this.#hash = hash;
  }

  /** Returns a number from 0 to `n - 1`, each with the same probability. */
  below(label: string, n: number): number {
    return this.#choose(label, n, (bits) => Math.floor((bits / 0x1_0000_0000) * n));
  }

  /** Returns a number from 0 to `n - 1`, mostly a small one. */
  small(label: string, n: number): number {
    return this.#choose(label, n, (bits) => Math.floor((bits / 0x1_0000_0000) ** 3 * n));
  }

  /** Returns `true` with a probability of `perMille` / 1000. */
  chance(label: string, perMille: number): boolean {
    return this.#choose(label, 2, (bits) => (bits % 1_000 < perMille ? 1 : 0)) === 1;
  }

  /** With a probability of `perMille` / 1000 a number from 1 to `n - 1`, otherwise 0. */
  rarely(label: string, perMille: number, n: number): number {
    return this.#choose(label, n, (bits) => (bits % 1_000 < perMille ? 1 + ((bits >>> 10) % (n - 1)) : 0));
  }

  /** Returns `true` with a seed, and with a list only if the list says so: a failure keeps only the things that it needs. */
  exists(label: string): boolean {
    return this.#choose(label, 2, () => 1) === 1;
  }

  #choose(label: string, n: number, valueOf: (bits: number) => number): number {
    const count = this.#counts.get(label) ?? 0;
    this.#counts.set(label, count + 1);
    const choices = this.#choices;
    if (choices.leavesOut?.(this.owner, label)) return 0;
    const bits = choices.bits(this.#hash, hashOf(label), count);
    if (bits >= 0 && !choices.isNamed) return valueOf(bits);
    const name = count === 0 ? `${this.owner} ${label}` : `${this.owner} ${label} #${count}`;
    const value = bits >= 0 ? valueOf(bits) : Math.min(n - 1, choices.known(name));
    choices.note(name, value);
    return value;
  }
}
