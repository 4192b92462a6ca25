/** Reads complete bodies: the same methods for requests, responses and events. */

/** Decodes UTF-8; drops a byte order mark and replaces invalid bytes with U+FFFD. */
export const utf8 = new TextDecoder();

/** Base class of objects with a complete body. */
export abstract class WholeBody {
  /** The body as a `Uint8Array` that you may keep and change. */
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
