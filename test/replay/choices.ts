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

/** What watches or restricts the choices of a seed. */
interface Hooks {
  /** Called with each recorded choice. */
  readonly saw?: (chosen: Chosen) => void;
  /** Says which choices are 0, by owner and label. */
  readonly leavesOut?: ((owner: string, label: string) => boolean) | undefined;
}

/** The choices of one world. */
export class Choices {
  readonly #seed: number;
  readonly #list: ReadonlyMap<string, number> | null;
  readonly #taken: Chosen[] | null;

  readonly #saw: Hooks["saw"];
  /** @internal Says which choices are 0, by owner and label. */
  readonly leavesOut: Hooks["leavesOut"];

  private constructor(
    seed: number,
    list: ReadonlyMap<string, number> | null,
    isRecording: boolean,
    { saw, leavesOut }: Hooks = {},
  ) {
    this.#seed = seed;
    this.#list = list;
    this.#taken = isRecording ? [] : null;
    this.#saw = saw;
    this.leavesOut = leavesOut;
  }

  /** Choices made from a seed. `isRecording`: {@link taken} lists them. */
  static ofSeed(seed: number, isRecording = false, hooks?: Hooks): Choices {
    return new Choices(seed, null, isRecording, hooks);
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

  /** @internal Whether values come from a list. */
  get isListed(): boolean {
    return this.#list !== null;
  }

  /** @internal Returns the value for `name` from the list. */
  known(name: string): number {
    return this.#list?.get(name) ?? 0;
  }

  /** @internal */
  note(name: string, value: number): void {
    if (value === 0) return;
    const chosen = { name, value };
    this.#taken?.push(chosen);
    this.#saw?.(chosen);
  }
}

/** A label, and the number of choices with it. */
interface Label {
  readonly label: string;
  readonly hash: number;
  count: number;
}

/** Makes the choices of one owner. The k-th choice with the same label has the name "owner label #k". */
export class Die {
  readonly #choices: Choices;
  readonly owner: string;
  readonly #hash: number;
  /** Label of the last choice. */
  #entry: Label | null = null;
  readonly #labels = new Map<string, Label>();

  constructor(choices: Choices, owner: string, hash: number) {
    this.#choices = choices;
    this.owner = owner;
    this.#hash = hash;
  }

  /** Returns a number from 0 to `n - 1`, each with the same probability. */
  below(label: string, n: number): number {
    const bits = this.#bits(label);
    return this.#result(n, bits < 0 ? 0 : Math.floor((bits / 0x1_0000_0000) * n));
  }

  /** Returns a number from 0 to `n - 1`, mostly a small one. */
  small(label: string, n: number): number {
    const part = this.#bits(label) / 0x1_0000_0000;
    return this.#result(n, part < 0 ? 0 : Math.floor(part * part * part * n));
  }

  /** Returns `true` with a probability of `perMille` / 1000. */
  chance(label: string, perMille: number): boolean {
    return this.#result(2, this.#bits(label) % 1_000 < perMille ? 1 : 0) === 1;
  }

  /** With a probability of `perMille` / 1000 a number from 1 to `n - 1`, otherwise 0. */
  rarely(label: string, perMille: number, n: number): number {
    const bits = this.#bits(label);
    return this.#result(n, bits % 1_000 < perMille ? 1 + ((bits >>> 10) % (n - 1)) : 0);
  }

  /** Returns `true` with a seed, and with a list only if the list says so: a failure keeps only the things that it needs. */
  exists(label: string): boolean {
    this.#bits(label);
    return this.#result(2, 1) === 1;
  }

  /** Returns the random bits for the next choice with this label; -1 if its value comes from a list. */
  #bits(label: string): number {
    let entry = this.#labels.get(label);
    if (!entry) this.#labels.set(label, (entry = { label, hash: hashOf(label), count: 0 }));
    this.#entry = entry;
    return this.#choices.bits(this.#hash, entry.hash, entry.count++);
  }

  /** Returns `value`, or the value of the list, and notes it. */
  #result(n: number, value: number): number {
    const choices = this.#choices;
    const { label, count } = this.#entry!;
    if (choices.leavesOut?.(this.owner, label)) return 0;
    if (!choices.isNamed) return value;
    const name = count === 1 ? `${this.owner} ${label}` : `${this.owner} ${label} #${count - 1}`;
    const result = choices.isListed ? Math.min(n - 1, choices.known(name)) : value;
    choices.note(name, result);
    return result;
  }
}
