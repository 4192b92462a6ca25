/**
 * Any text as one token of a NATS subject, which is also valid in a key of a JetStream key-value bucket: each byte of its UTF-8 other
 * than A-Z a-z 0-9 _ - becomes `=` and two hexadecimal digits. Empty text becomes `=`.
 */

const OTHER = /[^A-Za-z0-9_-]/;
const SAFE = /^[A-Za-z0-9_-]+$/;
const TOKEN = /^(?:[A-Za-z0-9_-]|=[0-9A-F]{2})+$/;

/** Returns the text as one token. The text must be well-formed. */
export function encodeToken(text: string): string {
  if (text === "") return "=";
  if (SAFE.test(text)) return text;
  let token = "";
  for (const byte of Buffer.from(text)) {
    const char = String.fromCharCode(byte);
    token += byte > 127 || OTHER.test(char) ? `=${byte.toString(16).toUpperCase().padStart(2, "0")}` : char;
  }
  return token;
}

/** Returns the text of a token of {@link encodeToken}; `null` if it does not come from there. */
export function decodeToken(token: string): string | null {
  if (token === "=") return "";
  if (SAFE.test(token)) return token;
  if (!TOKEN.test(token)) return null;
  const bytes = token.replaceAll(/=(..)/g, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)));
  const text = Buffer.from(bytes, "latin1").toString();
  return encodeToken(text) === token ? text : null; // invalid UTF-8, or a byte that needs no escape
}
