/** Types of values after they travelled as JSON. */

type Scalar = string | number | boolean | null;
type Callable = ((...args: never) => unknown) | (abstract new (...args: never) => unknown);
/** What JSON leaves out of an object, and writes as `null` into an array. */
type Missing = undefined | symbol | Callable;
/** Objects whose content JSON does not see. */
type Opaque = ReadonlyMap<unknown, unknown> | ReadonlySet<unknown> | RegExp | ArrayBufferLike | DataView;
type Numbers = Int8Array | Uint8Array | Uint8ClampedArray | Int16Array | Uint16Array;
type MoreNumbers = Int32Array | Uint32Array | Float32Array | Float64Array;
interface Convertible {
  toJSON: (...args: never) => unknown;
}

/**
 * What arrives of a `T` that is sent as JSON: what `toJSON` returns (of a `Date` a string), no functions, symbols and
 * `undefined` (in arrays `null`), `{}` of a `Map` or a `Set`, `never` of a `bigint`, which JSON refuses. A type that JSON
 * keeps as it is remains that type.
 */
export type Jsonify<T> = [T] extends [Kept<T>] ? T : Changed<T>;

/** What arrives of a value of a contract or an event: bytes and `undefined` travel as they are, all else as JSON. */
export type Arriving<T> = [T] extends [Kept<T>] ? T : Whole<T>;
type Whole<T> = T extends void ? T : T extends Uint8Array ? Uint8Array<T["buffer"]> : Jsonify<T>;

/**
 * `T` where JSON keeps it. Objects are mapped types and arrays are references, which the compiler resolves when it compares
 * them: so this ends for types that refer to themselves.
 */
type Kept<T> = unknown extends T
  ? T
  : T extends Scalar
    ? T
    : T extends Missing | bigint | Opaque | Convertible
      ? never
      : T extends readonly unknown[]
        ? readonly Kept<T[number]>[]
        : { [K in keyof T]: K extends symbol ? never : Kept<T[K]> };

/** `toJSON` is called once. */
type Changed<T> = T extends Convertible ? Plain<ReturnType<T["toJSON"]>> : Plain<T>;
type Plain<T> = unknown extends T
  ? T
  : T extends Scalar
    ? T
    : T extends Missing | bigint
      ? never
      : T extends Opaque
        ? {}
        : T extends Numbers | MoreNumbers
          ? Record<number, number>
          : T extends readonly unknown[]
            ? List<T>
            : Always<T> & Sometimes<T> extends infer O
              ? { [K in keyof O]: O[K] } // the compiler shows it without names of ours
              : never;

type List<T extends readonly unknown[]> = T[number][] extends T
  ? T extends unknown[]
    ? Element<T[number]>[]
    : readonly Element<T[number]>[]
  : { [I in keyof T]: Element<T[I]> };
type Element<T> = unknown extends T ? T : T extends Missing ? null : Jsonify<T>;

type Always<T> = { [K in keyof T as Written<T[K]> extends "always" ? Name<K> : never]: Jsonify<T[K]> };
type Sometimes<T> = {
  [K in keyof T as Written<T[K]> extends "sometimes" ? Name<K> : never]?: Jsonify<Exclude<T[K], Missing>>;
};
type Name<K> = K extends symbol ? never : K;
/** When JSON writes a property of that type. */
type Written<V> = unknown extends V
  ? "always"
  : [Extract<V, Missing>] extends [never]
    ? "always"
    : [Exclude<V, Missing>, V] extends [never, symbol | Callable]
      ? "never"
      : "sometimes";
