/** Types of values after a round trip through JSON. */

type Scalar = string | number | boolean | null;
type Callable = ((...args: never) => unknown) | (abstract new (...args: never) => unknown);
/** Types that JSON omits from objects and writes as `null` in arrays. */
type Missing = undefined | symbol | Callable;
/** Objects whose content JSON ignores. */
type Opaque = ReadonlyMap<unknown, unknown> | ReadonlySet<unknown> | RegExp | ArrayBufferLike | DataView;
type Numbers = Int8Array | Uint8Array | Uint8ClampedArray | Int16Array | Uint16Array;
type MoreNumbers = Int32Array | Uint32Array | Float32Array | Float64Array;
interface Convertible {
  toJSON: (...args: never) => unknown;
}

/**
 * Type of the received value when a `T` is sent as JSON. A value with `toJSON` becomes its result (a `Date` becomes a
 * string). Functions, symbols and `undefined` are omitted (`null` in arrays). A `Map` or `Set` becomes `{}`. A `bigint`
 * becomes `never`, because JSON rejects it. A type that JSON does not change stays the same type.
 */
export type Jsonify<T> = [T] extends [Kept<T>] ? T : Changed<T>;

/**
 * Type of the received value of a contract or an event: bytes and `undefined` are sent unchanged, all other values as
 * JSON.
 */
export type Arriving<T> = [T] extends [Kept<T>] ? T : Whole<T>;
type Whole<T> = T extends void ? T : T extends Uint8Array ? Uint8Array<T["buffer"]> : Jsonify<T>;

/**
 * `T` without the parts that JSON changes; equal to `T` if JSON changes nothing. Mapped types and array references are
 * resolved lazily by the compiler, so this also ends for recursive types.
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

/** The result of `toJSON` is not asked for `toJSON` again. */
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
              ? { [K in keyof O]: O[K] } // so that the compiler shows no helper names
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
/** Whether JSON writes a property of this type. */
type Written<V> = unknown extends V
  ? "always"
  : [Extract<V, Missing>] extends [never]
    ? "always"
    : [Exclude<V, Missing>, V] extends [never, symbol | Callable]
      ? "never"
      : "sometimes";
