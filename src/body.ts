/** Reading a body that is whole, the same way in requests, responses and events. */

/** Decodes UTF-8; a byte order mark is left out, and a byte that is not UTF-8 becomes U+FFFD. */
export const utf8 = new TextDecoder();

/** Something with a body that is whole. */
export abstract class WholeBody {
  /** The body: a plain `Uint8Array` that is yours. */
  abstract readonly body: Uint8Array;

  /** Returns the body. */
  bytes(): Uint8Array {
    return this.body;
  }

  /** Returns the body as UTF-8 text. */
  text(): string {
    return utf8.decode(this.body);
  }

  /** Returns the body as JSON. @throws {SyntaxError} when the body is not JSON. */
  json<T = unknown>(): T {
    return JSON.parse(this.text()) as T;
  }
}
